"""Running a job's iterations on one rank: what one worker does, in whatever process.

A `Runner` holds the job's feeds and, for the last few calls, the carried values before each, so that a call that failed
somewhere is simply made again. Within a call the ranks exchange values among themselves (`Route`, `Mesh`) and go on from
iteration to iteration without anybody's leave. One thread in BLAS, so that results do not depend on the number of cores.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from graphir import dims
from graphir.dataset import Dataset
from graphir.graph import Graph
from graphir.node import Array
from graphir.partition.minibatch import Order
from workers import blas
from workers.activity import Activity
from workers.executor import Executor
from workers.feed import Feed, part
from workers.iteration import Iteration, Kept
from workers.mesh import Address, Mesh
from workers.route import Route
from workers.work import Cell, Dims, Work

KEPT_STATES = 3
"""Before how many calls the carried values are kept: the one under way, one queued behind it, and the last one done."""


class Stopped(Exception):
    """The job was stopped between two tasks, or while it waited for another worker."""


@dataclass(frozen=True, slots=True)
class Task:
    """A run of a program (its digest), with all that another worker needs to make it too."""

    program: str
    feeds: Mapping[str, Array]
    sizes: Mapping[str, int]
    offsets: Mapping[str, int]
    backend: str
    check_finite: bool


class Runner:
    """One job on one rank; `stopped` is asked before each task and while it waits."""

    def __init__(
        self,
        work: Work,
        programs: Mapping[str, Graph],
        rank: int = 0,
        peers: Sequence[Address] = (),
        mesh: Mesh | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.work, self.rank, self.peers, self._mesh = work, rank, peers, mesh
        self.route = Route(work, max(len(peers), 1))
        self._executors = {
            digest: Executor(program, work.backend, threads=1, frugal=True) for digest, program in programs.items()
        }
        self.stopped = stopped
        self.activity = Activity()
        self.task: Task | None = None
        self._feeds: dict[str, Feed] = {}
        self._order = None if work.batch is None else Order(work.batch)
        self._states: OrderedDict[int, dict[str, Kept]] = OrderedDict()
        self._kept: dict[str, Kept] = {}

    def hold(self, name: str, value: Array | Dataset, dtype: str, begin: int = 0, total: int | None = None) -> None:
        """Keep a feed for the whole job, as `Feed` takes it; of a dataset, rows are read when they are needed."""
        axes = self.work.batch.axes.get(name, ()) if self.work.batch else ()
        reading = partial(self.activity.reading, name)
        self._feeds[name] = Feed(value, dtype, begin, total, self.work.batch, axes, reading)

    def restore(self, step: int, carried: Mapping[str, Array]) -> None:
        """Set the whole carried values before a step."""
        self._states.clear()
        self._states[step] = {name: self._own_part(name, value) for name, value in carried.items()}

    def run(self, ticket: int, step: int, count: int) -> list[dict[str, float]]:
        """Perform `count` iterations from `step` on; the numbers to watch of each, on rank 0."""
        if self.work.carry and step not in self._states:
            raise Stopped  # a call before this one failed
        carried = self._states.get(step, {})
        numbers = []
        with blas.threads(1):
            for turn in range(count):
                self._turn(step + turn)
                iteration = Iteration(self, ticket, turn, carried)
                carried = iteration.perform()
                numbers.append(iteration.numbers())
                self._kept = iteration.kept()
            if self._mesh is not None:
                self._mesh.drain(self.stopped)
        for feed in self._feeds.values():
            feed.verify()
        self._states[step + count] = carried
        while len(self._states) > KEPT_STATES:
            self._states.popitem(last=False)
        return numbers

    def carried(self, step: int) -> dict[str, Kept]:
        """The carried values before a step as far as they are here: whole ones, and blocks."""
        return dict(self._states[step])

    def outputs(self) -> dict[str, Kept]:
        """The values to keep of the last iteration as far as they are here."""
        return dict(self._kept)

    def _turn(self, step: int) -> None:
        """Let feeds give the rows of an iteration's batch."""
        if self._order is not None and self.work.batch is not None:
            rows = self._order.rows(step)
            for name in self.work.batch.axes:
                self._feeds[name].turn(rows)

    def clear(self) -> None:
        """Forget feeds and values; programs stay."""
        self._feeds, self._kept = {}, {}
        self._states.clear()

    def _own_part(self, name: str, value: Array) -> Kept:
        if self.route.carried_whole(name):
            return value
        return {cell: self.block_of(value, name, cell) for cell in self.route.wanted(self.rank, name)}

    def block_of(self, array: Array, name: str, cell: Cell) -> Array:
        """A block of a value that is here whole."""
        blocks = self.work.blocks[name].items()
        return self.cut(array, [(dim, axis, k) for (dim, axis), k in zip(blocks, cell, strict=True)])

    def cut(self, array: Array, slices: Iterable[tuple[str, int | None, int]]) -> Array:
        """A contiguous slice, given by dimension, axis and chunk."""
        for dim, axis, chunk in slices:
            if axis is not None:
                array = part(array, axis, *self.work.span(dim, chunk, array.shape[axis]))
        return array

    def execute(self, program: str, feeds: Mapping[str, Array], over: Dims, cell: Cell) -> dict[str, Array]:
        """Run a program on one cell, or once. Values are in C order, so that no bit depends on the way they came."""
        if self.stopped():
            raise Stopped
        sizes, offsets = self.work.sizes, {}
        if over:
            spans = {dim: self.work.borders[dim][k : k + 2] for dim, k in zip(over, cell, strict=True)}
            sizes = {**sizes, **{dims.local(dim): end - begin for dim, (begin, end) in spans.items()}}
            offsets = {dims.local(dim): begin for dim, (begin, _) in spans.items()}
        self.task = Task(program, feeds, sizes, offsets, self.work.backend, self.work.check_finite)
        self.activity.begin("computes", program, cell)
        try:
            made = self._executors[program].run(feeds, sizes, offsets, check_finite=self.work.check_finite)
        finally:
            self.task = None  # which holds what the program reads
        self.activity.end()
        return {value: np.asarray(array, order="C") for value, array in made.items()}

    def feed(self, name: str) -> Feed:
        """A feed by name."""
        return self._feeds[name]

    def send(self, ranks: Iterable[int], tag: tuple[Any, ...], array: Array) -> None:
        """Queue an array for other ranks."""
        for rank in ranks:
            if rank != self.rank and self._mesh is not None:
                self._mesh.send(self.peers[rank], tag, array)

    def receive(self, rank: int, tag: tuple[Any, ...]) -> Array:
        """Wait for an array from a rank."""
        assert self._mesh is not None
        self.activity.begin("waits", rank)
        found = self._mesh.receive(self.peers[rank], tag, self.stopped)
        self.activity.end()
        if found is None:
            raise Stopped
        return found

    def flush(self) -> None:
        """Let what was sent go out."""
        if self._mesh is not None:
            self._mesh.flush()
