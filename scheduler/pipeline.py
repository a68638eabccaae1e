"""From a graph and the sizes of its feeds to a plan: what is cut, and into how large chunks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphir import dims
from graphir.custom import without_markers
from graphir.errors import PlanError
from graphir.graph import Graph
from graphir.simplify import simplify
from scheduler.check import check_memory, check_plan
from scheduler.partition.data import partition
from scheduler.partition.divide import divide
from scheduler.plan import Plan


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

    cut: the dimensions that may be cut (by default any; an empty sequence forbids cutting). chunk: rows a chunk.
    Without either, the dimension with the most elements fed along it is cut. memory_limit: bytes that one step may
    take at once, by estimate. Raises PlanError and LimitError.
    """
    rows = dict(chunk or {})
    allowed = list(cut) if cut is not None else list(rows) or list(graph.sizes)
    unknown = [name for name in (*allowed, *rows) if name not in graph.sizes]
    if unknown:
        raise PlanError(f"no input has the dimension {unknown[0]!r}; the named sizes are {list(graph.sizes)}")
    graph = simplify(without_markers(graph))
    if not allowed:
        plan = partition(graph, sizes)
    else:
        chosen = max(allowed, key=lambda name: _elements(graph, sizes, name))
        plan = partition(graph, sizes, chosen, rows.get(chosen))
    plan = replace(check_plan(divide(plan)), check_finite=check_finite)
    return plan if memory_limit is None else check_memory(plan, memory_limit)


def _elements(graph: Graph, sizes: Mapping[str, int], name: str) -> int:
    """How many elements are fed in inputs that have the dimension."""
    total = 0
    for node in graph.inputs.values():
        if any(name in dims.names(d) for d in node.type.shape):
            count = 1
            for size in node.type.bind(sizes):
                count *= size
            total += count
    return total
