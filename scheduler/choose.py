"""Which dimension to cut: every one that may be is planned, and the plan that would end first is taken.

Plans are compared by the time of one iteration on a cluster of BESIDE imagined workers, so that the choice depends on the
graph and the sizes alone. What was considered is told in the plan's notes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphir import dims
from graphir.errors import PlanError
from graphir.graph import Graph
from scheduler.cost import value_bytes
from scheduler.outlook import in_bytes, in_seconds
from scheduler.partition.data import partition
from scheduler.partition.divide import divide
from scheduler.place import ranks_for
from scheduler.plan import Plan
from scheduler.simulate import Cluster, simulate

BESIDE = 8
MOST = 8
"""How many dimensions are tried, those with the most bytes fed along them first."""


def choose(graph: Graph, sizes: Mapping[str, int], allowed: Sequence[str], rows: Mapping[str, int]) -> Plan:
    """The plan that would end first among those that cut one of the allowed dimensions; `rows` a chunk."""
    tried = sorted(allowed, key=lambda name: -_fed(graph, sizes, name))[:MOST]
    if len(tried) == 1:
        return divide(partition(graph, sizes, tried[0], rows.get(tried[0])))
    plans: dict[str, Plan] = {}
    refused: list[str] = []
    for name in tried:
        try:
            plans[name] = divide(partition(graph, sizes, name, rows.get(name)))
        except PlanError as error:
            refused.append(f"considered: {name!r} cannot be cut: {str(error).splitlines()[0]}")
    if not plans:
        return divide(partition(graph, sizes, tried[0], rows.get(tried[0])))
    seconds, told = {}, []
    for name, plan in plans.items():
        forecast = simulate(plan, Cluster(ranks_for(plan, BESIDE)), {})
        seconds[name] = forecast.seconds
        told.append(
            f"considered: cutting {name!r} = {sizes[name]} into {plan.chunks} chunk(s): {in_seconds(forecast.seconds)} on "
            f"{BESIDE} workers, {in_bytes(forecast.sent)} sent"
        )
    best = min(plans, key=lambda name: seconds[name])
    chosen = plans[best]
    return replace(chosen, notes=(*chosen.notes, *told, *refused))


def _fed(graph: Graph, sizes: Mapping[str, int], name: str) -> int:
    """The bytes that are fed in inputs that have the dimension."""
    with_it = (n.type for n in graph.inputs.values() if any(name in dims.names(d) for d in n.type.shape))
    return sum(value_bytes(type_, sizes) for type_ in with_it)
