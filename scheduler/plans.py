"""Plans of jobs, kept for those that come again: a plan is a function of the graph, its sizes and a few options."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphir.graph import Graph
from graphir.partition.cost import program_seconds
from graphir.partition.data import CHUNKS
from graphir.partition.minibatch import Minibatch
from graphir.partition.plan import Plan
from scheduler.limits import MAX_PLAN_NODES, MAX_PLANS
from scheduler.memory import Room, check_memory
from scheduler.pipeline import compile
from workers.recent import Recent

CHUNK_SECONDS = 2e-3
"""What a chunk of a batch should take at least by estimate, unless the caller says how large chunks are."""


class Plans:
    """The plans made last. May be used by several threads."""

    def __init__(self) -> None:
        self._recent: Recent[tuple[str, str], Plan] = Recent(MAX_PLANS, MAX_PLAN_NODES, _nodes)
        self._checked: Recent[tuple[str, str, str], bool] = Recent(4 * MAX_PLANS)

    def of(
        self,
        graph: Graph,
        sizes: Mapping[str, int],
        options: Mapping[str, Any],
        batch: Minibatch | None,
        room: Room | None = None,
    ) -> Plan:
        """The plan for the options cut, chunk and check_finite; with a batch, it is one for the batch's rows.

        LimitError if workers with so much room have too little of it.
        """
        cut, chunk, check = options.get("cut"), options.get("chunk"), bool(options.get("check_finite"))
        cut = None if cut is None else list(cut)
        if batch is not None:
            sizes = {**sizes, batch.dim: batch.size}
            chunk = _worth_while(graph, sizes, batch) if chunk is None and cut is None else chunk
        facts = dict(sizes), cut, None if chunk is None else dict(chunk), check
        key = graph.digest, repr(facts)
        made = self._recent.get(key)
        if made is None:
            made = compile(graph, sizes, cut=cut, chunk=chunk, check_finite=check)
            self._recent.put(key, made)
        if room is not None and self._checked.get((*key, repr(room))) is None:
            check_memory(made, room)
            self._checked.put((*key, repr(room)), True)
        return replace(made, batch=batch, backend=options.get("backend", "numpy"))


def _worth_while(graph: Graph, sizes: Mapping[str, int], batch: Minibatch) -> dict[str, int] | None:
    """Fewer chunks than by default for a batch that is little work: a function of the graph and the sizes alone."""
    chunks = int(program_seconds(graph, sizes) / CHUNK_SECONDS)
    return {batch.dim: -(-batch.size // max(1, chunks))} if chunks < CHUNKS else None


def _nodes(plan: Plan) -> int:
    return len(plan.graph) + sum(len(step.program) for step in plan.steps)
