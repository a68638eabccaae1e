"""The executor: a graph compiled once into a flat program, run many times.

Dimensions are bound to numbers once for each set of sizes and kept for the most recent ones. Values are freed at their last
use. Graphs with large values are evaluated in tiles (`tiling`); all others have the bits of `graphir.evaluate`.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from graphir import collector
from graphir.errors import LimitError
from graphir.feeds import bind
from graphir.graph import Graph
from graphir.interpret import NO_OFFSETS, require_finite
from graphir.node import Array, Node, describe
from workers import backends, blas, heap
from workers.bound import Bound, Call, Look
from workers.footprint import has_large_values, peak_bytes
from workers.profile import Profile, profiled
from workers.program import Program, compiled
from workers.recent import Recent
from workers.tiles import Tiled
from workers.tiling import Tiling, peak, tiling
from workers.whole import Whole

BOUND_PROGRAMS = 16
"""For how many sets of sizes a bound program is kept."""
Form: TypeAlias = tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]


class Executor:
    """A callable on feeds. backend: whose kernels ("auto": the fastest that are installed); threads: for tiles, fused groups and BLAS, by default one a core.

    memory_limit: bytes that values may take at once, by estimate; LimitError before anything runs if it is more.
    frugal: in tiles only where one thread takes no more memory than `footprint.peak_bytes` says of the graph.
    """

    def __init__(
        self,
        graph: Graph,
        backend: str = "numpy",
        threads: int | None = None,
        *,
        memory_limit: int | None = None,
        frugal: bool = False,
    ) -> None:
        heap.keep_freed()
        self.graph, self.threads, self.memory_limit, self._frugal = graph, threads, memory_limit, frugal
        backend = backends.resolved(backend)
        backends.check(backend, graph)
        self._entire = backends.entire(backend)
        self._kernels = backends.load("numpy" if self._entire is not None else backend)
        self._loop, self._whole, self._stream = (backends.compiler(backend, of) for of in ("loop", "whole", "stream"))
        self._wholes: Recent[tuple[Any, ...], Any] = Recent(BOUND_PROGRAMS)
        self._latest: Any = None
        self._slot = {node: k for k, node in enumerate(graph.nodes)}
        self._inputs = {name: self._slot[node] for name, node in graph.inputs.items()}
        self._outputs = [self._slot[node] for node in graph.outputs.values()]
        self._programs: dict[bool, Program] = {}
        self._bound: Recent[tuple[Any, ...], Bound | Tiled | Whole] = Recent(BOUND_PROGRAMS)
        self._looks_at_offsets = any(node.op.located for node in graph.nodes)
        self._forms: Recent[Form, Mapping[str, int]] = Recent(BOUND_PROGRAMS)
        self._tilings: Recent[tuple[Any, ...], Tiling | None] = Recent(BOUND_PROGRAMS)

    def __call__(
        self, feeds: Mapping[str, Any], *, sizes: Mapping[str, int] | None = None, check_finite: bool = False
    ) -> dict[str, Array]:
        """The outputs by name; arguments and errors as `graphir.evaluate`."""
        if self._latest is not None and sizes is None and not check_finite:
            quickly: dict[str, Array] | None = self._latest(feeds)
            if quickly is not None:
                return quickly
        arrays, numbers = self._checked(feeds, sizes)
        if self.memory_limit is not None:
            self._check_memory(numbers, self.memory_limit)
        if self.threads is None:
            return self.run(arrays, numbers, check_finite=check_finite)
        with blas.threads(self.threads):
            return self.run(arrays, numbers, check_finite=check_finite)

    def run(
        self,
        arrays: Mapping[str, Array],
        sizes: Mapping[str, int],
        offsets: Mapping[str, int] = NO_OFFSETS,
        *,
        check_finite: bool = False,
    ) -> dict[str, Array]:
        """Run on checked feeds; `offsets` says where a cut dimension's chunk begins."""
        if self._whole is not None and not check_finite:
            done = self._run_whole(self._whole, arrays, sizes, offsets)
            if done is not None:
                return done
        made = self._program(sizes, offsets, check_finite).run(arrays, self._check_finite if check_finite else None)
        return {name: np.asarray(array) for name, array in zip(self.graph.outputs, made, strict=True)}

    def _run_whole(
        self,
        compile_: Callable[..., Any],
        arrays: Mapping[str, Array],
        sizes: Mapping[str, int],
        offsets: Mapping[str, int],
    ) -> dict[str, Array] | None:
        """The outputs of a small graph that the back-end compiles whole; None if it does not."""
        found = self._wholes.made(self._key(sizes, offsets), lambda: compile_(self.graph, sizes, offsets))
        if found is None:
            return None
        if not offsets and self.memory_limit is None:
            self._latest = found
        made: dict[str, Array] | None = found({name: _plain(array) for name, array in arrays.items()})
        return made

    def profile(self, feeds: Mapping[str, Any], *, sizes: Mapping[str, int] | None = None, runs: int = 5) -> Profile:
        """Where the time of a run goes, by node and fused group: see `workers.profile`."""
        arrays, numbers = self._checked(feeds, sizes)
        program = self._as_run(arrays, numbers)

        def run(look: Look | None) -> None:
            program.run(arrays, look)

        sizes = program.sizes if isinstance(program, Tiled) else dict(numbers)
        if self.threads is None:
            return profiled(run, sizes, runs)
        with blas.threads(self.threads):
            return profiled(run, sizes, runs)

    def _as_run(self, arrays: Mapping[str, Array], sizes: Mapping[str, int]) -> Bound | Tiled | Whole:
        """What `run` would run."""
        compile_ = self._whole
        if compile_ is None or self._run_whole(compile_, arrays, sizes, NO_OFFSETS) is None:
            return self._program(sizes, NO_OFFSETS, check_finite=False)
        return Whole(
            self.graph, lambda given: list((self._run_whole(compile_, given, sizes, NO_OFFSETS) or {}).values())
        )

    def peak_bytes(self, sizes: Mapping[str, int]) -> tuple[int, Node]:
        """As the function of this name says of the graph, or what it takes in tiles on all threads."""
        tiled = self._tiling(sizes)
        return peak_bytes(self.graph, sizes) if tiled is None else peak(tiled, self._workers)

    def _check_memory(self, sizes: Mapping[str, int], limit: int) -> None:
        needed, node = self.peak_bytes(sizes)
        if needed > limit:
            raise LimitError(
                f"evaluation needs about {needed} bytes at once, over the limit of {limit}; use smaller chunks or sizes"
            ).at(describe(node))

    def _checked(
        self, feeds: Mapping[str, Any], sizes: Mapping[str, int] | None
    ) -> tuple[Mapping[str, Array], Mapping[str, int]]:
        """As `bind`; feeds whose forms were bound before are taken as they are."""
        form = _form(feeds) if sizes is None else None
        known = self._forms.get(form) if form is not None else None
        if known is not None:
            return feeds, known
        bound = bind(self.graph, feeds, sizes)
        if form is not None and all(bound.arrays[name] is feeds[name] for name in feeds):
            self._forms.put(form, bound.sizes)
        return bound.arrays, bound.sizes

    def _compiled(self, *, fused: bool) -> Program:
        if fused not in self._programs:
            with collector.paused():
                self._programs[fused] = compiled(self.graph, self._kernels, self._workers, fused=fused, loop=self._loop)
        return self._programs[fused]

    def _program(
        self, sizes: Mapping[str, int], offsets: Mapping[str, int], check_finite: bool
    ) -> Bound | Tiled | Whole:
        key = (check_finite, *self._key(sizes, offsets))
        return self._bound.made(key, lambda: self._bind(sizes, offsets, check_finite))

    def _key(self, sizes: Mapping[str, int], offsets: Mapping[str, int]) -> tuple[Any, ...]:
        """All that a program depends on beside the graph."""
        return (*sorted(sizes.items()), *(sorted(offsets.items()) if self._looks_at_offsets else ()))

    def _bind(self, sizes: Mapping[str, int], offsets: Mapping[str, int], check_finite: bool) -> Bound | Tiled | Whole:
        """To look at each value, each is made, by NumPy's kernels where a back-end shows none."""
        if self._entire is not None and not check_finite:
            return Whole(self.graph, self._entire.program(self.graph, sizes, offsets, self._workers))
        tiled = None if check_finite else self._tiling(sizes)
        if tiled is not None:
            with collector.paused():
                return Tiled(tiled, self._kernels, self._workers, sizes, offsets, self._loop, self._stream)
        program = self._compiled(fused=not check_finite and has_large_values(self.graph, sizes))
        with collector.paused():
            return Bound(program, self._inputs, self._outputs, sizes, offsets, check_finite=check_finite)

    @property
    def _workers(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))

    def _tiling(self, sizes: Mapping[str, int]) -> Tiling | None:
        if self._entire is not None:
            return None

        def made() -> Tiling | None:
            with collector.paused():
                return tiling(self.graph, sizes, frugal=self._frugal)

        return self._tilings.made(tuple(sorted(sizes.items())), made)

    def _check_finite(self, call: Call, slots: list[Any]) -> None:
        if call.target < len(self.graph.nodes):
            inputs = {source: slots[self._slot[source]] for source in call.node.inputs}
            require_finite(call.node, {call.node: slots[call.target], **inputs})


def _plain(array: Array) -> Array:
    """The same numbers in C order in an array of no other class, its dtype the one object that NumPy keeps for it."""
    plain, dtype = np.asarray(array, order="C"), np.dtype(array.dtype.name)
    return plain if plain.dtype is dtype else plain.view(dtype)


def _form(feeds: Mapping[str, Any]) -> Form | None:
    """Names, shapes and dtypes of arrays in C order, all that binding looks at; None if there is anything else."""
    found = []
    for name, value in feeds.items():
        if type(value) is not np.ndarray or not value.flags.c_contiguous:
            return None
        found.append((name, value.shape, value.dtype))
    return tuple(found)
