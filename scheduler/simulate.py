"""A plan on an imagined cluster: when each rank does what, by the estimates of costs, without computing anything.

Discrete events along the very steps, ranks and routes that workers follow (`place`, `workers.route`): a rank's clock moves on
by what it computes, and to the arrival of what it waits for. Ranks may be slower than others, and may fail: then
the iteration is done again from its beginning once another worker has started.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import ceil
from typing import Any, TypeAlias

import numpy as np

from graphir import dims
from graphir.graph import Graph
from graphir.partition.cost import DEFAULT, Rates, program_seconds
from graphir.partition.plan import Plan, Step
from scheduler import measured
from scheduler.place import place
from workers.route import Route
from workers.speeds import Measured
from workers.tree import Place, Tree
from workers.work import EVERYWHERE, Cell, StepWork

_At: TypeAlias = tuple[float, int]

NOWHERE = -2
"""The place of a value that lies in blocks."""
UNEVEN = 1.2
"""How much later the last of several processes on a core ends than if they took turns without end or cost: 1.2 to 1.5 were measured."""
RESTART_SECONDS = 3.0
"""Until another worker has taken a dead one's rank."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers and what connects them.

    ranks: workers. rates: of each, assumed or measured. hosts: machines over which they are spread, each with `cores`, which more
    ranks share; 0 if every rank has a core of its own. slow: the share of workers that are stragglers, which take `slower` times as long.
    failures: of one worker an hour. seed: which workers are slow, and when they fail.
    """

    ranks: int
    rates: Rates | Measured = DEFAULT
    slow: float = 0.0
    slower: float = 3.0
    failures: float = 0.0
    seed: int = 0
    hosts: int = 0
    cores: int = 1

    @property
    def crowded(self) -> float:
        """How many times as long everything takes for want of cores."""
        share = ceil(self.ranks / self.hosts) / self.cores if self.hosts else 1.0
        return share * UNEVEN if share > 1 else 1.0

    def seconds(self, program: Graph, sizes: Mapping[str, int], tasks: int) -> float:
        """One run of a program on a rank that performs `tasks` of them an iteration."""
        if isinstance(self.rates, Rates):
            return program_seconds(program, sizes, self.rates)
        busy = min(self.cores, ceil(self.ranks / self.hosts)) if self.hosts else self.rates.workers
        return measured.program_seconds(program, sizes, self.rates, busy, tasks)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an iteration is expected to take.

    seconds: of one iteration; busy: the mean share of it that a rank computes; sent: bytes between ranks; most_sent: by one
    rank; messages; tasks: runs of programs; failures: expected in an iteration.
    """

    seconds: float
    busy: float
    sent: int
    most_sent: int
    messages: int
    tasks: int
    failures: float


def simulate(plan: Plan, cluster: Cluster, carry: Mapping[str, str]) -> Forecast:
    """The forecast of one iteration of a plan; `carry` as in a job."""
    wanted = list(plan.outputs)
    work = place(plan, cluster.ranks, carry, wanted, imagined=True)
    clocks = _Clocks(plan, Route(work, cluster.ranks), cluster)
    for step, placed in zip(plan.steps, work.steps, strict=True):
        clocks.perform(step, placed)
    clocks.deliver()
    return clocks.forecast()


@dataclass
class _Clocks:
    """The time at every rank, and when whole values and sums are where."""

    plan: Plan
    route: Route
    cluster: Cluster
    now: "np.ndarray[tuple[int], np.dtype[np.float64]]" = field(init=False)
    tasks: int = 0
    messages: int = 0

    def __post_init__(self) -> None:
        ranks = self.cluster.ranks
        rng = np.random.default_rng(self.cluster.seed)
        self.now, self.busy, self.sent = np.zeros(ranks), np.zeros(ranks), np.zeros(ranks, np.int64)
        self.factor = np.where(rng.random(ranks) < self.cluster.slow, self.cluster.slower, 1.0) * self.cluster.crowded
        self.made: dict[str, tuple[int, float]] = {}
        self.arrivals: dict[str, dict[int, float]] = {}
        self.collected: set[tuple[int, str]] = set()

    def perform(self, step: Step, placed: StepWork) -> None:
        """All ranks do a step."""
        if step.kind == "map":
            self._map(step, placed)
        elif step.kind == "combine":
            self._combine(step, placed)
        else:
            self._single(step, placed)

    def deliver(self) -> None:
        """What the next iteration needs arrives."""
        for value in self.made:
            for rank in self.route.wholes.get(value, ()):
                self._wait(rank, value)
            for rank in range(self.cluster.ranks) if value in self.route.gathers or value in self.route.needs else ():
                self._collect(rank, value)

    def forecast(self) -> Forecast:
        """The sums."""
        seconds = float(self.now.max(initial=0.0))
        failed = self.cluster.failures / 3600 * self.cluster.ranks * seconds
        again = seconds + failed * (RESTART_SECONDS + seconds / 2)
        busy = float(self.busy.mean() / seconds) if seconds else 1.0
        sent = int(self.sent.sum()), int(self.sent.max(initial=0))
        return Forecast(again, busy, *sent, self.messages, self.tasks, failed)

    def _map(self, step: Step, placed: StepWork) -> None:
        ranks = range(self.cluster.ranks)
        seconds = self._task_seconds(step)
        total = np.concatenate([[0.0], np.cumsum(seconds)])
        ranges = np.array([self.route.range(rank, step.over) for rank in ranks])
        for read in step.reads:
            for rank in self.route.performers(placed) if read.value in self.made else ():
                self._wait(rank, read.value)
                self._collect(rank, read.value)
        taken = (total[ranges[:, 1]] - total[ranges[:, 0]]) * self.factor
        self.now += taken
        self.busy += taken
        self.tasks += len(seconds)
        for value in step.writes:
            self.made[value] = NOWHERE, 0.0

    def _task_seconds(self, step: Step) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """What each task takes, in the order of their numbers; equal chunks take as long as one another."""
        widths = [np.diff(self.plan.borders[dim]).tolist() for dim in step.over]
        once = {
            combination: self._seconds(step, combination) for combination in product(*(sorted(set(w)) for w in widths))
        }
        return np.array([once[combination] for combination in product(*widths)])

    def _combine(self, step: Step, placed: StepWork) -> None:
        value, size = step.reads[0].value, self.plan.block_bytes(step.writes[0])
        along = step.along or ""
        join = self._seconds(step, tuple(self.plan.widest([dim])[dims.local(dim)] for dim in step.over))
        own = {rank: dict(self.route.trees(rank, value, along)) for rank in range(self.cluster.ranks)}
        over = self.plan.values[value].dims
        counts = np.diff(np.array([self.route.range(rank, over) for rank in own]), axis=1)[:, 0]
        parts = np.array([sum(map(len, cells.values())) for cells in own.values()])
        local_joins = np.maximum(0, counts - parts) * join * self.factor
        self.now += local_joins
        self.busy += local_joins
        self.tasks += self.plan.cells(over) - self.plan.cells(step.over)
        if placed.at == EVERYWHERE:
            self._exchange({rank: cells.get((), ()) for rank, cells in own.items()}, size, join)
            self.made[step.writes[0]] = EVERYWHERE, 0.0
            return
        self._join_all(step, placed, own, size, join)

    def _join_all(
        self, step: Step, placed: StepWork, own: Mapping[int, Mapping[Cell, tuple[Place, ...]]], size: int, join: float
    ) -> None:
        """Each sum by itself: its parts are passed up, and the result goes to the rank that has the step's task."""
        value, along = step.reads[0].value, step.along or ""
        cells = product(*map(range, self.route.work.counts(step.over)))
        parts: dict[Cell, dict[int, tuple[Place, ...]]] = {cell: {} for cell in cells}
        for rank, places in own.items():
            for cell, subtrees in places.items():
                parts[cell][rank] = subtrees
        for cell, ranks in parts.items():
            at = self.route.owner(step.over, cell) if step.over else placed.at
            ended = self._pass_up(ranks, along, size, join)
            first = self.route.leaf(value, along, cell, (0, 0))
            if first != at:
                ended = self._send(first, ended, size)
                self.now[at] = max(self.now[at], ended)
            self.made[step.writes[0]] = (NOWHERE, 0.0) if step.over else (at, ended)

    def _exchange(self, own: Mapping[int, tuple[Place, ...]], size: int, join: float) -> None:
        ranks = self.cluster.ranks
        sending = np.array([len(places) for places in own.values()]) * size / self.cluster.rates.network
        self.sent += np.array([len(places) for places in own.values()]) * size * (ranks - 1)
        self.messages += sum(map(len, own.values())) * (ranks - 1)
        ready = self.now + sending * (ranks - 1)
        joins = (sum(map(len, own.values())) - 1) * join * self.factor
        self.now = np.maximum(self.now, ready.max() + (self.cluster.rates.message if ranks > 1 else 0.0)) + joins
        self.busy += joins

    def _pass_up(self, own: Mapping[int, tuple[Place, ...]], along: str, size: int, join: float) -> float:
        """Events in the order of time: a subtree is there; joined with its neighbour once both are at one rank."""
        tree: Tree[_At] = Tree(self.plan.cells([along]), self._joiner(size, join))
        for rank, places in own.items():
            for subtree in places:
                tree.add(subtree, (float(self.now[rank]), rank))
        ended, rank = tree.root
        self.now[rank] = max(self.now[rank], ended)
        return ended

    def _joiner(self, size: int, join: float) -> Callable[[_At, _At], _At]:
        def joined(left: _At, right: _At) -> _At:
            (at, rank), (then, other) = left, right
            if rank != other:
                then = self._send(other, then, size)
            ended = max(at, then, float(self.now[rank])) + join * self.factor[rank]
            self.now[rank] = ended
            return ended, rank

        return joined

    def _single(self, step: Step, placed: StepWork) -> None:
        taken = self._seconds(step, ())
        ranks = range(self.cluster.ranks) if placed.at == EVERYWHERE else [placed.at]
        self.tasks += len(ranks)
        for rank in ranks:
            for read in step.reads:
                self._wait(rank, read.value)
                self._collect(rank, read.value)
            self.now[rank] += taken * self.factor[rank]
            self.busy[rank] += taken * self.factor[rank]
        at = (EVERYWHERE, 0.0) if placed.at == EVERYWHERE else (placed.at, float(self.now[placed.at]))
        for value in step.writes:
            self.made[value] = at

    def _collect(self, rank: int, value: str) -> None:
        """The blocks that the rank needs come from their owners, who send them as soon as they are made; each once."""
        if (rank, value) in self.collected or value not in self.route.makers:
            return
        self.collected.add((rank, value))
        over = self.plan.values[value].dims
        if not over or not (rank in self.route.gathers.get(value, ()) or value in self.route.needs):
            return
        size = self.plan.block_bytes(value)
        for cell in self.route.wanted(rank, value):
            owner = self.route.owner(over, cell)
            if owner != rank:
                self.now[rank] = max(self.now[rank], self._send(owner, float(self.now[owner]), size))

    def _wait(self, rank: int, value: str) -> None:
        """The rank goes on once it has a whole value; a relay hands it on when it has it."""
        made = self.made.get(value)
        if made is None or made[0] in (EVERYWHERE, NOWHERE, rank):
            return
        if value not in self.arrivals:
            self.arrivals[value] = self._spread(value, *made)
        self.now[rank] = max(self.now[rank], self.arrivals[value].get(rank, 0.0))

    def _spread(self, value: str, maker: int, when: float) -> dict[int, float]:
        size = self.plan.block_bytes(value)
        arrived, queue = {maker: when}, [(when, maker)]
        while queue:
            at, rank = heapq.heappop(queue)
            for receiver in self.route.receivers(value, rank):
                at += size / self.cluster.rates.network
                arrived[receiver] = self._send(rank, at, 0) if receiver not in arrived else arrived[receiver]
                self.sent[rank] += size
                heapq.heappush(queue, (arrived[receiver], receiver))
        return arrived

    def _send(self, rank: int, when: float, size: int) -> float:
        self.messages += 1
        self.sent[rank] += size
        return when + self.cluster.rates.message + size / self.cluster.rates.network

    def _seconds(self, step: Step, widths: tuple[int, ...]) -> float:
        """One run of the program on a cell with chunks of these widths."""
        sizes = self.plan.sizes_in(dict(zip(step.over, widths, strict=True)))
        return self.cluster.seconds(step.program, sizes, max(1, self.plan.cells(step.over) // self.cluster.ranks))
