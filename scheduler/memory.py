"""How many bytes a worker holds at most while it performs a plan: an upper bound, stated before anything runs."""

from collections.abc import Mapping
from math import prod

from graphir.partition.minibatch import Minibatch
from graphir.partition.plan import Plan, Step
from workers.footprint import peak_bytes as program_peak
from workers.route import Route
from workers.runner import KEPT_STATES
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
        self.joined = {step.reads[0].value: step for step in plan.steps if step.kind == "combine"}
        self.bytes = {name: self._held(name) for name in plan.values}

    def resident(self) -> int:
        """Feeds and the carried values of some calls; outputs that are kept."""
        feeds = sum(self.bytes[name] for name in self.plan.graph.inputs if name in self.plan.values)
        carried = sum(self.bytes[name] for name in self.carry if name in self.bytes) * (KEPT_STATES + 1)
        return (
            feeds
            + self._batched()
            + carried
            + sum(self.bytes[value] for value in dict.fromkeys(self.plan.outputs.values()))
        )

    def _batched(self) -> int:
        """What batches are taken from, beside the batch, and the order of its rows."""
        batch = self.plan.batch
        return 0 if batch is None else batch.order_bytes + sum(self._source(name, batch) for name in batch.axes)

    def _source(self, name: str, batch: Minibatch) -> int:
        shape = self.plan.graph.inputs[name].type.bind({**self.plan.sizes, batch.dim: batch.total})
        spans = [self.route.rows(rank, name, shape[0]) for rank in range(self.route.ranks)]
        rows = max(end - begin for begin, end in spans)
        return rows * prod(shape[1:]) * self.plan.graph.inputs[name].type.dtype.itemsize

    def step(self, number: int, step: Step) -> int:
        """Values that wait for this step or later ones, what the step makes, and the peak inside its program."""
        route = self.route
        live = [v for v, maker in route.makers.items() if maker <= number <= route.last.get(v, maker)]
        sent = [v for v in live if v in route.wholes or v in route.gathers or v in route.needs or v in self.joined]
        inside, _ = program_peak(step.program, self.plan.widest(step.over))
        together = sum(self._gathered(step, read.value) for read in step.reads)
        live_bytes, sent_bytes = (sum(self.bytes[v] for v in values) for values in (live, sent))
        return inside + together + live_bytes + (route.ranks > 1) * sent_bytes

    def _gathered(self, step: Step, name: str) -> int:
        """The bytes of blocks that a task puts side by side."""
        value = self.plan.values[name]
        others = [dim for dim in value.dims if dim not in step.over]
        if step.kind == "combine" or not others or not set(value.dims) & set(step.over):
            return 0
        return self.plan.block_bytes(name) * self.plan.cells(others)

    def _held(self, name: str) -> int:
        block, over = self.plan.block_bytes(name), self.plan.values[name].dims
        if not over:
            return block
        if name in self.joined:
            return block * self._summands(name)
        if name in self.route.gathers:
            return block * self.plan.cells(over) * 2  # the blocks, and the whole that they make up
        return block * max(len(self.route.wanted(rank, name)) for rank in range(self.route.ranks))

    def _summands(self, name: str) -> int:
        """How many subtrees of sums a rank has at one time at most."""
        along = self.joined[name].along or ""
        trees = (self.route.trees(rank, name, along) for rank in range(self.route.ranks))
        most = max(sum(len(places) for _, places in tree) for tree in trees)
        return most + self.plan.cells([along]).bit_length()
