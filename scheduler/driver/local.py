"""The local driver: performs a plan in this process, chunk after chunk. The reference for every other driver."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphir.feeds import bind
from graphir.interpret import run
from graphir.node import Array
from scheduler.plan import Plan, Read, Step
from workers import blas
from workers.tree import joined


def run_plan(plan: Plan, feeds: Mapping[str, Any], *, check_finite: bool = False) -> dict[str, Array]:
    """The outputs of the plan's graph by name; BLAS uses one thread, so the bits do not depend on the machine's cores."""
    bound = bind(plan.graph, feeds, plan.sizes)
    with blas.threads(1):
        return _Run(plan, bound.arrays, check_finite).outputs()


class _Run:
    def __init__(self, plan: Plan, feeds: Mapping[str, Array], check_finite: bool) -> None:
        self.plan, self.check_finite = plan, check_finite
        self.whole: dict[str, Array] = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        self.chunked: dict[str, list[Array]] = {}
        for name, value in plan.values.items():
            if name in self.whole and value.layout == "shard":
                self.chunked[name] = [self._slice(self.whole[name], value.axis, k) for k in range(plan.chunks)]

    def outputs(self) -> dict[str, Array]:
        kept = set(self.plan.outputs.values())
        last = {read.value: number for number, step in enumerate(self.plan.steps) for read in step.reads}
        for number, step in enumerate(self.plan.steps):
            getattr(self, f"_{step.kind}")(step)
            for read in step.reads:
                if last[read.value] == number and read.value not in kept:
                    self.whole.pop(read.value, None)
                    self.chunked.pop(read.value, None)
        return {name: self._gather(value) for name, value in self.plan.outputs.items()}

    def _slice(self, array: Array, axis: int | None, chunk: int) -> Array:
        """A chunk's slice; an axis that is a multiple of the cut dimension is cut in proportion."""
        assert axis is not None
        scale = array.shape[axis] // self.plan.borders[-1]
        start, stop = (self.plan.borders[k] * scale for k in (chunk, chunk + 1))
        return np.asarray(array[(slice(None),) * axis + (slice(start, stop),)], order="C")

    def _gather(self, name: str) -> Array:
        value = self.plan.values[name]
        if name in self.whole:
            return self.whole[name]
        return np.concatenate(self.chunked[name], axis=value.axis or 0)

    def _evaluate(self, step: Step, arrays: dict[str, Array], chunk: int | None) -> dict[str, Array]:
        sizes, offsets = dict(self.plan.sizes), {}
        if chunk is not None:
            begin, end = self.plan.borders[chunk : chunk + 2]
            sizes[self.plan.local], offsets[self.plan.local] = end - begin, begin
        made = run(step.program, arrays, sizes, offsets, check_finite=self.check_finite)
        return {name: np.asarray(array, order="C") for name, array in made.items()}

    def _read(self, read: Read, chunk: int) -> Array:
        if read.axis is not None:
            return self._slice(self._gather(read.value), read.axis, chunk)
        return self.whole[read.value] if read.value not in self.chunked else self.chunked[read.value][chunk]

    def _map(self, step: Step) -> None:
        made: list[dict[str, Array]] = []
        for chunk in range(self.plan.chunks):
            made.append(self._evaluate(step, {r.input: self._read(r, chunk) for r in step.reads}, chunk))
        for name in step.writes:
            self.chunked[name] = [out[name] for out in made]

    def _combine(self, step: Step) -> None:
        (target,) = step.writes
        leaves = {(0, chunk): part for chunk, part in enumerate(self.chunked[step.reads[0].value])}

        def join(left: Array, right: Array) -> Array:
            return self._evaluate(step, {"left": left, "right": right}, None)[target]

        self.whole[target] = joined(self.plan.chunks, leaves, join)

    def _single(self, step: Step) -> None:
        self.whole |= self._evaluate(step, {r.input: self._gather(r.value) for r in step.reads}, None)
