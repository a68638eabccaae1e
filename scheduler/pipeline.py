"""From a graph and the sizes of its feeds to a plan: what is cut, and into how large chunks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphir import collector
from graphir.custom import without_markers
from graphir.errors import PlanError
from graphir.graph import Graph
from graphir.partition.data import partition
from graphir.partition.divide import divide
from graphir.partition.plan import Plan
from graphir.simplify import simplify
from scheduler.check import check_plan
from scheduler.choose import choose
from scheduler.memory import Room, check_memory


def compile(
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    cut: Sequence[str] | None = None,
    chunk: Mapping[str, int] | None = None,
    check_finite: bool = False,
    memory_limit: int | None = None,
) -> Plan:
    """The plan of one iteration; a function of the graph, the sizes and the chunk sizes alone.

    cut: the dimensions that may be cut (by default any; an empty sequence forbids cutting). chunk: rows a chunk; several
    dimensions in it are all cut. Otherwise those are cut whose plan would end first (`choose`). memory_limit: bytes that a worker
    may take at once, by estimate. Raises PlanError and LimitError.
    """
    rows = dict(chunk or {})
    allowed = list(cut) if cut is not None else list(rows) or list(graph.sizes)
    unknown = [name for name in (*allowed, *rows) if name not in graph.sizes]
    if unknown:
        raise PlanError(f"no input has the dimension {unknown[0]!r}; the named sizes are {list(graph.sizes)}")
    with collector.paused():
        graph = simplify(without_markers(graph))
        plan = choose(graph, sizes, allowed, rows) if allowed else divide(partition(graph, sizes))
        plan = replace(check_plan(plan), check_finite=check_finite)
        return plan if memory_limit is None else check_memory(plan, Room(memory_limit))
