"""The local driver: performs a plan in this process, task after task. The reference for every other driver."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from graphir import dims
from graphir.feeds import bind
from graphir.interpret import run
from graphir.node import Array
from graphir.partition.plan import Plan, Read, Step
from workers import blas
from workers.tree import joined

Chunks = dict[str, int]
"""A chunk's number by dimension."""


def run_plan(plan: Plan, feeds: Mapping[str, Any], *, check_finite: bool = False) -> dict[str, Array]:
    """The outputs of the plan's graph by name; BLAS uses one thread, so the bits do not depend on the machine's cores."""
    bound = bind(plan.graph, feeds, plan.sizes)
    with blas.threads(1):
        return _Run(plan, bound.arrays, check_finite).outputs()


class _Run:
    """Values by name and by the numbers of the chunks along their dimensions; feeds are kept whole."""

    def __init__(self, plan: Plan, feeds: Mapping[str, Array], check_finite: bool) -> None:
        self.plan, self.check_finite = plan, check_finite
        self.fed: dict[str, Array] = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        self.blocks: dict[str, dict[tuple[int, ...], Array]] = {}

    def outputs(self) -> dict[str, Array]:
        kept = set(self.plan.outputs.values())
        last = {read.value: number for number, step in enumerate(self.plan.steps) for read in step.reads}
        for number, step in enumerate(self.plan.steps):
            for chunks in self._cells(step.over):
                made = self._combined(step, chunks) if step.kind == "combine" else self._computed(step, chunks)
                for name, array in made.items():
                    self.blocks.setdefault(name, {})[tuple(chunks.values())] = array
            for read in step.reads:
                if last[read.value] == number and read.value not in kept:
                    self.blocks.pop(read.value, None)
        return {name: self._value(value, {}) for name, value in self.plan.outputs.items()}

    def _cells(self, over: tuple[str, ...]) -> Iterator[Chunks]:
        for numbers in product(*(range(self.plan.cells([dim])) for dim in over)):
            yield dict(zip(over, numbers, strict=True))

    def _computed(self, step: Step, chunks: Chunks) -> dict[str, Array]:
        return self._evaluate(step, {read.input: self._read(read, chunks) for read in step.reads}, chunks)

    def _combined(self, step: Step, chunks: Chunks) -> dict[str, Array]:
        assert step.along is not None
        (target,), count = step.writes, self.plan.cells([step.along])
        leaves = {(0, k): self._value(step.reads[0].value, {**chunks, step.along: k}) for k in range(count)}

        def join(left: Array, right: Array) -> Array:
            return self._evaluate(step, {"left": left, "right": right}, chunks)[target]

        return {target: joined(count, leaves, join)}

    def _evaluate(self, step: Step, arrays: dict[str, Array], chunks: Chunks) -> dict[str, Array]:
        spans = {dims.local(dim): self.plan.borders[dim][k : k + 2] for dim, k in chunks.items()}
        sizes = {**self.plan.sizes, **{name: end - begin for name, (begin, end) in spans.items()}}
        offsets = {name: begin for name, (begin, _) in spans.items()}
        made = run(step.program, arrays, sizes, offsets, check_finite=self.check_finite)
        return {name: np.asarray(array, order="C") for name, array in made.items()}

    def _read(self, read: Read, chunks: Chunks) -> Array:
        array = self._value(read.value, chunks)
        for dim, axis in read.slices:
            array = self._slice(array, dim, axis, chunks[dim])
        return array

    def _value(self, name: str, chunks: Chunks) -> Array:
        """A value along the given chunks; along its other dimensions blocks are put side by side, the last one first."""
        value = self.plan.values.get(name)
        if name in self.fed:
            array = self.fed[name]
            for dim, axis in value.axes.items() if value else ():
                array = self._slice(array, dim, axis, chunks[dim]) if dim in chunks else array
            return array
        assert value is not None
        missing = [along for along in value.blocks if along.dim not in chunks]
        if not missing:
            return self.blocks[name][tuple(chunks[dim] for dim in value.dims)]
        along = missing[0]
        assert along.axis is not None
        parts = [self._value(name, {**chunks, along.dim: k}) for k in range(self.plan.cells([along.dim]))]
        return np.concatenate(parts, axis=along.axis)

    def _slice(self, array: Array, dim: str, axis: int, chunk: int) -> Array:
        """A chunk's slice; an axis that is a multiple of the dimension is cut in proportion."""
        ends = self.plan.borders[dim]
        begin, end = (ends[k] * (array.shape[axis] // ends[-1]) for k in (chunk, chunk + 1))
        return np.asarray(array[(slice(None),) * axis + (slice(begin, end),)], order="C")
