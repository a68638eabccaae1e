"""How many bytes a worker holds at most while it performs a plan: an upper bound, stated before anything runs.

A plan that needs more than a worker has is refused, with the chunks that would fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod

from graphir import dims
from graphir.errors import LimitError
from graphir.node import Node, describe
from graphir.partition.data import borders
from graphir.partition.minibatch import Minibatch
from graphir.partition.plan import Plan, Step
from graphir.units import in_bytes
from scheduler.place import place, ranks_for
from workers.footprint import peak_bytes as program_peak
from workers.route import Route
from workers.runner import KEPT_STATES
from workers.work import Work

CELLS = 1 << 12
"""Of how many chunks each is looked at; where there are more, what a worker holds between steps is that of fewer and larger ones."""


@dataclass(frozen=True, slots=True)
class Room:
    """The bytes that a worker has, how many workers there are, and the output that feeds each input of the next iteration."""

    bytes: int
    workers: int = 1
    carry: Mapping[str, str] = field(default_factory=dict)


def peak_bytes(plan: Plan, work: Work, ranks: int, carry: Mapping[str, str]) -> int:
    """The most that any rank holds: feeds, kept carried values, values between steps, and what a program needs inside.

    Counted in full: what a program reads is there beside what it makes, every chunk is as large as the largest, and
    everything that is sent lies in a buffer once more.
    """
    bound = _Bound(plan, Route(work, ranks), carry)
    return bound.fed() + bound.needed()


def needed_bytes(plan: Plan, workers: int, carry: Mapping[str, str]) -> int:
    """The same but for feeds, which lie in files or in memory that workers share: what each must have of its own."""
    return _needed(plan, _rows(plan), Room(0, workers, carry))


def check_memory(plan: Plan, room: Room) -> Plan:
    """The plan itself if no worker is estimated to need more than it has; LimitError otherwise.

    The error says which chunks would fit, the largest such, or what takes the memory whatever the chunks are.
    """
    whole = needed_bytes(plan, room.workers, room.carry)
    if whole <= room.bytes:
        return plan
    needed, node, step = _hungriest(plan, _rows(plan))
    what = f"a {step.kind} step needs about {in_bytes(needed)} at once"
    if needed <= room.bytes:
        what = f"with what is kept between steps and iterations, about {in_bytes(whole)} are needed at once"
    message = f"{what}, over the limit of {room.bytes} bytes a worker"
    fitting = fitting_chunk(plan, room)
    if fitting is not None:
        raise LimitError(f"{message}; chunk={fitting} would fit").at(describe(node))
    if plan.cuts:
        rows = dict.fromkeys(plan.cuts, 1)
        least, node, _ = _hungriest(plan, rows)
        message += f", and {in_bytes(max(least, _needed(plan, rows, room)))} even in chunks of one row"
    advice = "use smaller sizes or a larger machine, or name a dimension that can be cut"
    raise LimitError(f"{message}; {advice}").at(describe(node))


def fitting_chunk(plan: Plan, room: Room) -> dict[str, int] | None:
    """The largest chunks with which each step would fit, one dimension after the other; None if none would.

    Found by halving, since ever smaller chunks have ever more sums under way, and then by bisection.
    """
    rows = _rows(plan)
    for dim in plan.cuts:
        needs: dict[int, int] = {}
        size = rows[dim]
        while size > 1:
            over, size = size, (size + 1) // 2
            needs[size] = _needed(plan, {**rows, dim: size}, room)
            if needs[size] <= room.bytes:
                return {**rows, dim: _bisected(plan, rows, dim, (size, over), room)}
        rows[dim] = min(needs, key=lambda size: needs[size], default=1)
    return None


def _bisected(plan: Plan, rows: Mapping[str, int], dim: str, between: tuple[int, int], room: Room) -> int:
    """The largest size of a chunk that fits, between one that does and one that does not."""
    fits, over = between
    while over - fits > 1:
        middle = (fits + over) // 2
        good = _needed(plan, {**rows, dim: middle}, room) <= room.bytes
        fits, over = (middle, over) if good else (fits, middle)
    return fits


def _rows(plan: Plan) -> dict[str, int]:
    """The rows of the largest chunk."""
    return {dim: plan.widest([dim])[dims.local(dim)] for dim in plan.cuts}


def _hungriest(plan: Plan, rows: Mapping[str, int]) -> tuple[int, Node, Step]:
    """The step whose program needs most in chunks of so many rows: how much, and at which node."""
    sizes = plan.sizes_in(rows)
    return max(((*program_peak(step.program, sizes), step) for step in plan.steps), key=lambda peak: peak[0])


def _needed(plan: Plan, rows: Mapping[str, int], room: Room) -> int:
    """What a worker needs of its own in chunks of so many rows."""
    most = int(CELLS ** (1 / max(1, len(rows))))
    ends = {dim: borders(plan.sizes[dim], max(size, -(-plan.sizes[dim] // most))) for dim, size in rows.items()}
    coarse = replace(plan, borders=ends)
    ranks = ranks_for(coarse, room.workers)
    work = place(coarse, ranks, room.carry, list(coarse.outputs))
    return _Bound(coarse, Route(work, ranks), room.carry, plan.sizes_in(rows)).needed()


class _Bound:
    """sizes: those that programs have inside, if they are smaller than the plan's."""

    def __init__(
        self, plan: Plan, route: Route, carry: Mapping[str, str], sizes: Mapping[str, int] | None = None
    ) -> None:
        self.plan, self.route, self.carry, self.sizes = plan, route, carry, sizes
        self.joined = {step.reads[0].value: step for step in plan.steps if step.kind == "combine"}
        self.bytes = {name: self._held(name) for name in plan.values}
        self.waiting = self._waiting()

    def fed(self) -> int:
        """Feeds, of which carried values are the first."""
        return sum(self.bytes[name] for name in self.plan.graph.inputs if name in self.plan.values) + self._batched()

    def needed(self) -> int:
        """The carried values of some calls, outputs that are kept, and the step that needs most."""
        carried = sum(self.bytes[name] for name in self.carry if name in self.bytes) * (KEPT_STATES + 1)
        kept = sum(self.bytes[value] for value in dict.fromkeys(self.plan.outputs.values()))
        return carried + kept + max((self.step(number, step) for number, step in enumerate(self.plan.steps)), default=0)

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
        inside, _ = program_peak(step.program, self.sizes or self.plan.widest(step.over))
        return inside + sum(self._gathered(step, read.value) for read in step.reads) + self.waiting[number]

    def _waiting(self) -> list[int]:
        """The bytes of values between steps during each step; what is sent lies in a buffer once more."""
        route, changes = self.route, [0] * (len(self.plan.steps) + 1)
        for value, maker in route.makers.items():
            sent = value in route.wholes or value in route.gathers or value in route.needs or value in self.joined
            held = self.bytes[value] * (2 if sent and route.ranks > 1 else 1)
            changes[maker] += held
            changes[route.last.get(value, maker) + 1] -= held
        return list(accumulate(changes))

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
