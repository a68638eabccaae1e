"""How many bytes a worker holds at most while it performs a plan: an upper bound, stated before anything runs."""

from collections.abc import Mapping

from scheduler.cost import value_bytes
from scheduler.plan import Plan, Step
from workers.executor import Executor
from workers.route import Route
from workers.runner import KEPT_STATES
from workers.tree import subtrees
from workers.work import Work


def peak_bytes(plan: Plan, work: Work, ranks: int, carry: Mapping[str, str]) -> int:
    """The most that any rank holds: feeds, kept carried values, values between steps, and what a program needs inside.

    Counted in full: what a program reads is there beside what it makes, every chunk is as large as the largest, and
    everything that is sent lies in a buffer once more.
    """
    bound = _Bound(plan, Route(work, ranks), carry)
    return bound.resident() + max((bound.step(number, step) for number, step in enumerate(plan.steps)), default=0)


class _Bound:
    def __init__(self, plan: Plan, route: Route, carry: Mapping[str, str]) -> None:
        self.plan, self.route, self.carry = plan, route, carry
        self.rows = max(b - a for a, b in zip(plan.borders, plan.borders[1:], strict=False))
        ranges = [route.range(rank) for rank in range(route.ranks)]
        self.share = max(stop - start for start, stop in ranges)
        self.trees = max(len(subtrees(*span, plan.chunks)) for span in ranges) + plan.chunks.bit_length()

    def resident(self) -> int:
        """Feeds and the carried values of some calls; outputs that are kept."""
        feeds = sum(self._held(name) for name in self.plan.graph.inputs if name in self.plan.values)
        carried = sum(self._held(name) for name in self.carry) * (KEPT_STATES + 1)
        return (
            feeds
            + self._batched()
            + carried
            + sum(self._held(value) for value in dict.fromkeys(self.plan.outputs.values()))
        )

    def _batched(self) -> int:
        """Feeds from which batches are taken, beside the batch, and the order of their rows."""
        batch = self.plan.batch
        if batch is None:
            return 0
        sizes = {**self.plan.sizes, batch.dim: batch.total}
        inputs = self.plan.graph.inputs
        return batch.order_bytes + sum(value_bytes(inputs[n].type, sizes) for n in batch.axes if n in inputs)

    def step(self, number: int, step: Step) -> int:
        """Values that wait for this step or later ones, what the step makes, and the peak inside its program."""
        live = [v for v, maker in self.route.makers.items() if maker <= number <= self.route.last.get(v, maker)]
        sent = [v for v in live if v in self.route.wholes or v in self.route.gathers or v in self.route.work.partials]
        sizes = {**self.plan.sizes, self.plan.local: self.rows} if step.kind == "map" else self.plan.sizes
        inside, _ = Executor(step.program).peak_bytes(sizes)
        return inside + sum(self._held(v) for v in live) + (self.route.ranks > 1) * sum(self._held(v) for v in sent)

    def _held(self, name: str) -> int:
        value = self.plan.values[name]
        size = value_bytes(value.type, self.plan.sizes)
        if value.layout == "partial":
            return size * self.trees
        if value.layout == "whole" or name in self.route.gathers:
            return size
        return -(-size * self.share * self.rows // self.plan.borders[-1])
