"""Plans of jobs, kept for those that come again: a plan is a function of the graph, its sizes and a few options."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphir.graph import Graph
from scheduler.job.recent import Recent
from scheduler.limits import MAX_PLAN_NODES, MAX_PLANS
from scheduler.pipeline import compile
from scheduler.plan import Plan
from workers.minibatch import Minibatch


class Plans:
    """The plans made last. May be used by several threads."""

    def __init__(self) -> None:
        self._recent: Recent[tuple[str, str], Plan] = Recent(MAX_PLANS, MAX_PLAN_NODES, _nodes)

    def of(
        self,
        graph: Graph,
        sizes: Mapping[str, int],
        options: Mapping[str, Any],
        batch: Minibatch | None,
        memory_limit: int | None = None,
    ) -> Plan:
        """The plan for the options cut, chunk and check_finite; with a batch, it is one for the batch's rows."""
        if batch is not None:
            sizes = {**sizes, batch.dim: batch.size}
        cut, chunk, check = options.get("cut"), options.get("chunk"), bool(options.get("check_finite"))
        cut = None if cut is None else list(cut)
        facts = dict(sizes), cut, None if chunk is None else dict(chunk), check, memory_limit
        key = graph.digest, repr(facts)
        made = self._recent.get(key)
        if made is None:
            made = compile(graph, sizes, cut=cut, chunk=chunk, check_finite=check, memory_limit=memory_limit)
            self._recent.put(key, made)
        return replace(made, batch=batch)


def _nodes(plan: Plan) -> int:
    return len(plan.graph) + sum(len(step.program) for step in plan.steps)
