"""Running a plan's steps on a contiguous range of chunks: what one worker does, in whatever process.

A `Work` is a plan as plain data with its programs by digest. A `ChunkRunner` holds the job's feeds and, during
an iteration, the shard values of its chunks. Whole values come in and go out with each call. One thread in
BLAS, so that results do not depend on the number of cores.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphir.dataset import Dataset
from graphir.graph import Graph
from graphir.node import Array
from workers import blas
from workers.data import Source, open_source
from workers.executor import Executor
from workers.tree import Place, join_range, join_roots

Parts: TypeAlias = dict[str, dict[Place, Array]]


@dataclass(frozen=True, slots=True)
class StepWork:
    """One step: its program's digest, what each of its inputs reads (input, value, axis), and what it writes."""

    kind: str
    program: str
    reads: tuple[tuple[str, str, int | None], ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """A plan as plain data. shards: the cut axis of shard values; partials: those with a combine step."""

    sizes: dict[str, int]
    local: str
    borders: tuple[int, ...]
    steps: tuple[StepWork, ...]
    shards: dict[str, int]
    partials: frozenset[str]
    check_finite: bool = False


class Stopped(Exception):
    """The job was stopped between two chunks."""


class ChunkRunner:
    """The chunks start:stop of one job; `stopped` is asked before each chunk."""

    def __init__(
        self,
        work: Work,
        programs: Mapping[str, Graph],
        start: int,
        stop: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.work, self._stopped = work, stopped
        self._programs = {digest: Executor(program) for digest, program in programs.items()}
        self.start, self.stop = start, stop
        self._feeds: dict[str, Array | Source] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._chunks: dict[str, dict[int, Array]] = {}

    def hold(self, name: str, value: Array | Dataset, dtype: str) -> None:
        """Keep a feed for the whole job; a dataset is opened here and its rows are read when they are needed."""
        self._feeds[name] = open_source(value) if isinstance(value, Dataset) else value
        self._dtypes[name] = np.dtype(dtype)

    def map(self, first: int, last: int, wholes: Mapping[str, Array]) -> Parts:
        """Run map steps first:last on every chunk; their partial values come back joined as far as possible."""
        steps = self.work.steps[first:last]
        if first == self._first_map:
            self._chunks.clear()
        with blas.threads(1):
            for step in steps:
                for chunk in range(self.start, self.stop):
                    self._map_chunk(step, chunk, wholes)
            written = [value for step in steps for value in step.writes if value in self.work.partials]
            return {value: self._joined(value) for value in written}

    def collect(self, values: Iterable[str]) -> dict[str, dict[int, Array]]:
        """This range's chunks of shard values."""
        span = range(self.start, self.stop)
        return {value: {chunk: self._own(value, chunk, {}) for chunk in span} for value in values}

    def finish(
        self,
        span: tuple[int, int],
        gives: Iterable[str],
        wholes: Mapping[str, Array],
        parts: Sequence[Parts],
        collected: Sequence[Mapping[str, Mapping[int, Array]]],
    ) -> list[Array]:
        """Run the combine and single steps of a span, put collected shards together; give some of the values."""
        done = {value: self._gathered(value, collected) for value in (collected[0] if collected else ())}
        with blas.threads(1):
            for step in self.work.steps[slice(*span)]:
                if step.kind == "combine":
                    ((_, value, _), *_rest) = step.reads
                    done[step.writes[0]] = self._combined(value, parts)
                else:
                    feeds = {name: self._whole(value, {**wholes, **done}) for name, value, _ in step.reads}
                    done |= self._programs[step.program].run(
                        feeds, self.work.sizes, check_finite=self.work.check_finite
                    )
        return [self._whole(value, {**wholes, **done}) for value in gives]

    @property
    def _first_map(self) -> int:
        return next(index for index, step in enumerate(self.work.steps) if step.kind == "map")

    def _map_chunk(self, step: StepWork, chunk: int, wholes: Mapping[str, Array]) -> None:
        if self._stopped():
            raise Stopped
        begin, end = self.work.borders[chunk : chunk + 2]
        feeds = {name: self._read(value, axis, chunk, wholes) for name, value, axis in step.reads}
        sizes = {**self.work.sizes, self.work.local: end - begin}
        outputs = self._programs[step.program].run(
            feeds, sizes, {self.work.local: begin}, check_finite=self.work.check_finite
        )
        for value, array in outputs.items():
            self._chunks.setdefault(value, {})[chunk] = array

    def _read(self, value: str, axis: int | None, chunk: int, wholes: Mapping[str, Array]) -> Array:
        if axis is not None:
            return self._slice(self._whole(value, wholes), axis, chunk)
        if value in self._chunks or value in self.work.shards:
            return self._own(value, chunk, wholes)
        return self._whole(value, wholes)

    def _own(self, value: str, chunk: int, wholes: Mapping[str, Array]) -> Array:
        if value in self._chunks:
            return self._chunks[value][chunk]
        axis, feed = self.work.shards[value], wholes.get(value, self._feeds.get(value))
        if isinstance(feed, Source) and axis == 0:
            rows = feed.read(*self._span(chunk, feed.rows))
            return rows.astype(self._dtypes[value], copy=False)
        return self._slice(self._whole(value, wholes), axis, chunk)

    def _slice(self, array: Array, axis: int, chunk: int) -> Array:
        begin, end = self._span(chunk, array.shape[axis])
        return np.ascontiguousarray(array[(slice(None),) * axis + (slice(begin, end),)])

    def _span(self, chunk: int, size: int) -> tuple[int, int]:
        """A chunk's place on an axis whose size is a multiple of the cut dimension's."""
        begin, end = self.work.borders[chunk : chunk + 2]
        scale = size // self.work.borders[-1]
        return begin * scale, end * scale

    def _whole(self, value: str, wholes: Mapping[str, Array]) -> Array:
        if value in wholes:
            return wholes[value]
        feed = self._feeds[value]
        array = feed.whole() if isinstance(feed, Source) else feed
        return array.astype(self._dtypes[value], copy=False)

    def _joined(self, value: str) -> dict[Place, Array]:
        total = len(self.work.borders) - 1
        return join_range(self.start, self.stop, total, self._chunks.get(value, {}), self._joiner(value))

    def _combined(self, value: str, parts: Sequence[Parts]) -> Array:
        merged = {place: array for part in parts for place, array in part.get(value, {}).items()}
        return join_roots(len(self.work.borders) - 1, merged, self._joiner(value))

    def _joiner(self, value: str) -> Any:
        step = next(s for s in self.work.steps if s.kind == "combine" and s.reads[0][1] == value)
        program = self._programs[step.program]

        def join(left: Array, right: Array) -> Array:
            parts = {"left": left, "right": right}
            (result,) = program.run(parts, self.work.sizes, check_finite=self.work.check_finite).values()
            return result

        return join

    def _gathered(self, value: str, collected: Sequence[Mapping[str, Mapping[int, Array]]]) -> Array:
        chunks = {chunk: array for part in collected for chunk, array in part[value].items()}
        ordered = [chunks[chunk] for chunk in sorted(chunks)]
        return np.concatenate(ordered, axis=self.work.shards[value])
