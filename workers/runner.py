"""Running a job's iterations on one rank: what one worker does, in whatever process.

A `Runner` holds the job's feeds and, for the last few calls, the carried values before each, so that a call that failed
somewhere is simply made again. Within a call the ranks exchange values among themselves (`Route`, `Mesh`) and go on from
iteration to iteration without anybody's leave. One thread in BLAS, so that results do not depend on the number of cores.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphir.dataset import Dataset
from graphir.graph import Graph
from graphir.node import Array
from workers import blas
from workers.executor import Executor
from workers.feed import Feed, part
from workers.mesh import Address, Mesh
from workers.minibatch import Order
from workers.route import Route
from workers.tree import Tree
from workers.work import EVERYWHERE, StepWork, Work

KEPT_STATES = 3
"""Before how many calls the carried values are kept: the one under way, one queued behind it, and the last one done."""

Chunks: TypeAlias = dict[int, Array]
Kept: TypeAlias = Array | Chunks


class Stopped(Exception):
    """The job was stopped between two chunks, or while it waited for another worker."""


class Runner:
    """One job on one rank; `stopped` is asked before each chunk and while it waits."""

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
        self._executors = {digest: Executor(program) for digest, program in programs.items()}
        self.stopped = stopped
        self._feeds: dict[str, Feed] = {}
        self._order = None if work.batch is None else Order(work.batch)
        self._states: OrderedDict[int, dict[str, Kept]] = OrderedDict()
        self._kept: dict[str, Kept] = {}

    def hold(self, name: str, value: Array | Dataset, dtype: str, begin: int = 0, total: int | None = None) -> None:
        """Keep a feed for the whole job, as `Feed` takes it; of a dataset, rows are read when they are needed."""
        batched = self.work.batch.axes.get(name, ()) if self.work.batch else ()
        self._feeds[name] = Feed(value, dtype, begin, total, batched)

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
                iteration = _Iteration(self, ticket, turn, carried)
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
        """The carried values before a step as far as they are here: whole ones, and chunks."""
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

    def _own_part(self, name: str, value: Array) -> Kept:
        if self.route.carried_whole(name):
            return value
        return {
            chunk: self.chunk_of(value, self.work.shards[name], chunk) for chunk in range(*self.route.range(self.rank))
        }

    def chunk_of(self, array: Array, axis: int, chunk: int) -> Array:
        """A chunk's slice of a whole value."""
        return part(array, axis, *self.span(chunk, array.shape[axis]))

    def span(self, chunk: int, size: int) -> tuple[int, int]:
        """A chunk's place on an axis whose size is a multiple of the cut dimension's."""
        begin, end = self.work.borders[chunk : chunk + 2]
        scale = size // self.work.borders[-1]
        return begin * scale, end * scale

    def execute(self, program: str, feeds: Mapping[str, Array], chunk: int | None) -> dict[str, Array]:
        """Run a program on one chunk, or once. Values are in C order, so that no bit depends on the way they came."""
        if self.stopped():
            raise Stopped
        sizes, offsets = self.work.sizes, {}
        if chunk is not None:
            begin, end = self.work.borders[chunk : chunk + 2]
            sizes, offsets = {**sizes, self.work.local: end - begin}, {self.work.local: begin}
        made = self._executors[program].run(feeds, sizes, offsets, check_finite=self.work.check_finite)
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
        found = self._mesh.receive(self.peers[rank], tag, self.stopped)
        if found is None:
            raise Stopped
        return found

    def flush(self) -> None:
        """Let what was sent go out."""
        if self._mesh is not None:
            self._mesh.flush()


class _Iteration:
    """One iteration on one rank: values by name, whole, in chunks, or as subtrees of sums."""

    def __init__(self, runner: Runner, ticket: int, turn: int, carried: Mapping[str, Kept]) -> None:
        self.runner, self.work, self.route, self.rank = runner, runner.work, runner.route, runner.rank
        self.tag = (ticket, turn)
        self.own = range(*self.route.range(self.rank))
        self.values: dict[str, Kept] = dict(carried)
        self.sums: dict[str, Tree[Array]] = {}

    def perform(self) -> dict[str, Kept]:
        """All steps; the carried values of the next iteration."""
        waits = {"map": self._map, "combine": self._combine, "single": self._single}
        for number, step in enumerate(self.work.steps):
            waits[step.kind](step)
            self._forget(number)
        self._deliver()
        carry = self.work.carry.items()
        return {name: self._carried(name, value) for name, value in carry if self._is_here(value)}

    def numbers(self) -> dict[str, float]:
        """The numbers to watch, on rank 0."""
        if self.rank:
            return {}
        return {name: float(np.asarray(self._whole(value))) for name, value in self.work.numbers.items()}

    def kept(self) -> dict[str, Kept]:
        """The values to keep as far as they are here."""
        return {value: self._kept_value(value) for value in self.work.keep if self._is_here(value)}

    # ---- steps ----

    def _map(self, step: StepWork) -> None:
        summed = [value for value in step.writes if value in self.work.partials]
        for value in summed:
            self.sums[value] = Tree(self.work.chunks, self._join(value))
        for _, value, axis in step.reads:
            if not (axis is None and value in self.work.shards) and self.own:
                self._whole(value)
        self.runner.flush()
        for chunk in self.own:
            feeds = {name: self._read(value, axis, chunk) for name, value, axis in step.reads}
            for value, array in self.runner.execute(step.program, feeds, chunk).items():
                if value in self.sums:
                    self.sums[value].add((0, chunk), array)
                elif value in self.work.shards:
                    self._chunks(value)[chunk] = array
        for value in step.writes:
            for chunk in self.own if value in self.route.gathers else ():
                self.runner.send(self.route.gathers[value], (*self.tag, value, chunk), self._chunks(value)[chunk])

    def _combine(self, step: StepWork) -> None:
        value, result = step.reads[0][1], step.writes[0]
        tree = self.sums.pop(value)
        if step.at == EVERYWHERE:
            self._exchange(value, tree)
        else:
            self._pass_up(value, tree)
        if tree.top in tree.parts:
            self._made(result, tree.root)

    def _exchange(self, value: str, tree: Tree[Array]) -> None:
        """Every rank gives its subtrees to all others and joins all of them."""
        everyone = range(self.route.ranks)
        for place in sorted(tree.parts):
            self.runner.send(everyone, (*self.tag, value, *place), tree.parts[place])
        for rank in everyone:
            for place in self.route.subtrees(rank) if rank != self.rank else ():
                tree.add(place, self.runner.receive(rank, (*self.tag, value, *place)))

    def _pass_up(self, value: str, tree: Tree[Array]) -> None:
        """Subtrees go to the left, to the owner of the one that each is joined with, until rank 0 has the root."""
        while tree.parts and tree.top not in tree.parts:
            place = max(tree.parts, key=lambda place: place[1] << place[0])
            level, index = place
            if index % 2:
                array = tree.parts.pop(place)
                self.runner.send([self.route.next_hop(place)], (*self.tag, value, *place), array)
            else:
                right = (level, index + 1)
                tree.add(right, self.runner.receive(self.route.owner((index + 1) << level), (*self.tag, value, *right)))

    def _single(self, step: StepWork) -> None:
        if not self.route.performs(self.rank, step):
            return
        feeds = {name: self._whole(value) for name, value, _ in step.reads}
        self.runner.flush()
        for value, array in self.runner.execute(step.program, feeds, None).items():
            self._made(value, array)

    def _join(self, value: str) -> Callable[[Array, Array], Array]:
        step = next(s for s in self.work.steps if s.kind == "combine" and s.reads[0][1] == value)

        def join(left: Array, right: Array) -> Array:
            (result,) = self.runner.execute(step.program, {"left": left, "right": right}, None).values()
            return result

        return join

    # ---- values ----

    def _made(self, value: str, array: Array) -> None:
        """A whole value is here: keep it and hand it on."""
        self.values[value] = array
        self.runner.send(self.route.receivers(value, self.rank), (*self.tag, value), array)

    def _whole(self, value: str) -> Array:
        """A whole value, from here or from whoever makes it."""
        known = self.values.get(value)
        if known is not None and not isinstance(known, dict):
            return known
        if known is None and value not in self.route.makers:
            return self.runner.feed(value).whole()
        if value in self.work.shards:
            return self._gathered(value)
        array = self.runner.receive(self.route.giver(value, self.rank), (*self.tag, value))
        self._made(value, array)
        return array

    def _gathered(self, value: str) -> Array:
        chunks = dict(self._chunks(value))
        for chunk in range(self.work.chunks):
            if chunk not in chunks:
                chunks[chunk] = self.runner.receive(self.route.owner(chunk), (*self.tag, value, chunk))
        self.values[value] = whole = np.concatenate(
            [chunks[chunk] for chunk in sorted(chunks)], axis=self.work.shards[value]
        )
        return whole

    def _chunks(self, value: str) -> Chunks:
        chunks = self.values.setdefault(value, {})
        assert isinstance(chunks, dict)
        return chunks

    def _read(self, value: str, axis: int | None, chunk: int) -> Array:
        if axis is not None or value in self.work.shards:
            along = self.work.shards[value] if axis is None else axis
            known = self.values.get(value)
            if isinstance(known, dict):
                return known[chunk]
            if known is not None:
                return self.runner.chunk_of(known, along, chunk)
            feed = self.runner.feed(value)
            return feed.slice(along, *self.runner.span(chunk, feed.rows(along)))
        return self._whole(value)

    def _carried(self, name: str, value: str) -> Kept:
        if self.route.carried_whole(name):
            return self._whole(value)
        if value in self.work.inputs:
            return {chunk: self._read(value, None, chunk) for chunk in self.own}
        return self._kept_value(value)

    def _kept_value(self, value: str) -> Kept:
        known = self.values.get(value)
        if known is not None:
            return known
        if value in self.work.shards:
            return {chunk: self._read(value, None, chunk) for chunk in self.own}
        return self._whole(value)

    def _is_here(self, value: str) -> bool:
        """Whether this rank has the value, or is to have it."""
        if value in self.values or value in self.work.inputs or value in self.work.shards:
            return True
        return self.rank in self.route.wholes.get(value, ())

    def _deliver(self) -> None:
        """Hand on what later iterations or others need and no step here has asked for."""
        for value in self.route.makers:
            wanted = self.rank in self.route.wholes.get(value, ())
            unread = value not in self.route.last or value in self._last_words()
            if wanted and unread and value not in self.values:
                self._whole(value)

    def _last_words(self) -> frozenset[str]:
        return frozenset((*self.work.carry.values(), *self.work.keep))

    def _forget(self, number: int) -> None:
        """Free the values that no later step reads and nobody keeps."""
        needed = self._last_words()
        for _, value, _ in self.work.steps[number].reads:
            if self.route.last[value] == number and value not in needed:
                self.values.pop(value, None)
