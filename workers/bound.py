"""A program bound to sizes: what depends on nothing else is computed once, and short programs run as one Python function.

Small groups are taken apart again: a block would be all of them. Long programs are run by a loop, since making a function of them
would take longer than it saves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np

from graphir.interpret import bound_attributes, kernel_error
from graphir.node import Array, Node
from workers import generated
from workers.blocks import Blocked
from workers.program import Line, Program

STRAIGHT_LINES = 500
"""The longest program that becomes a function."""
OFTEN = 3
"""At which run a program becomes a function, which takes longer than a run."""
FIXED_BYTES = 1 << 16
"""Values of at most so many bytes that depend on sizes alone are kept."""
VIEWS = ("constant", "broadcast", "permute", "slice", "flip", "stop_gradient")
"""Ops that allocate nothing, so that their values may be kept whatever their size."""


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel with its attributes, the slots of its operands and result, and those that are free afterwards."""

    node: Node
    function: Callable[..., Any]
    sources: tuple[int, ...]
    target: int
    free: tuple[int, ...]


Look: TypeAlias = Callable[[Call, list[Any]], None]
"""What is told of each call when it has ended: the call, and all slots."""


class Bound:
    """A program for some sizes and offsets. inputs, outputs: slots. check_finite: every value is made anew by each run."""

    def __init__(
        self,
        program: Program,
        inputs: Mapping[str, int],
        outputs: Sequence[int],
        sizes: Mapping[str, int],
        offsets: Mapping[str, int],
        *,
        check_finite: bool,
    ) -> None:
        self._inputs, self._outputs, self._slots = inputs, outputs, program.slots
        self._sizes, self._offsets, self._check_finite = sizes, offsets, check_finite
        self._fixed: dict[int, Array] = {}
        calls = [call for call in self._calls(program.lines) if check_finite or not self._hoisted(call)]
        self.calls = [self._freeing(call) for call in calls] if self._fixed else calls
        self._short = len(self.calls) <= STRAIGHT_LINES and not check_finite
        self._runs = 0
        self._function: Callable[[Mapping[str, Array]], list[Array]] | None = None

    def _freeing(self, call: Call) -> Call:
        """The call without what is kept among the slots that it frees."""
        free = tuple([slot for slot in call.free if slot not in self._fixed])
        return call if free == call.free else replace(call, free=free)

    def run(self, arrays: Mapping[str, Array], look: Look | None = None) -> list[Array]:
        """The outputs; `look` is called after each call with it and the slots, before any is freed."""
        self._runs += 1
        if self._runs == OFTEN and self._short:
            self._function = self._straight()
        with np.errstate(all="ignore"):
            if self._function is None or look is not None:
                return self._looped(arrays, look)
            return self._called(self._function, arrays)

    def _calls(self, lines: Sequence[Line]) -> list[Call]:
        calls: list[Call] = []
        apart: set[int] = set()
        for line in lines:
            if isinstance(line.kernel, Blocked) and line.kernel.is_small(prod(line.node.type.bind(self._sizes))):
                apart.add(line.target)
                calls += [self._call(member) for member in line.apart]
                calls[-1] = replace(calls[-1], free=(*calls[-1].free, *line.free))
            elif not apart.intersection(line.sources):
                calls.append(self._call(line))
        return calls

    def _call(self, line: Line) -> Call:
        function = line.kernel
        if line.attributes:
            bound = bound_attributes(line.node, self._sizes, self._offsets, self._check_finite)
            function = partial(line.kernel, **bound)
        return Call(line.node, function, line.sources, line.target, line.free)

    def _hoisted(self, call: Call) -> bool:
        """Compute now what depends on sizes alone, if it is small; outputs are made anew for whoever gets them."""
        if call.target in self._outputs or not all(source in self._fixed for source in call.sources):
            return False
        type_ = call.node.type
        if call.node.op.name not in VIEWS and prod(type_.bind(self._sizes)) * type_.dtype.itemsize > FIXED_BYTES:
            return False
        if call.node.op.name == "input" or call.node.op.joint is not None:
            return False
        try:
            self._fixed[call.target] = call.function(*[self._fixed[k] for k in call.sources])
        except Exception:  # noqa: BLE001  # it will be raised by each run, with its place
            return False
        return True

    # ---- as a function ----

    def _straight(self) -> Callable[[Mapping[str, Array]], list[Array]]:
        """One line a call, after two others, so that the number of a line tells which call has failed."""
        names: dict[str, Any] = {f"f{k}": call.function for k, call in enumerate(self.calls)}
        names |= {f"v{slot}": array for slot, array in self._fixed.items()}
        inputs = "; ".join(f"v{slot} = arrays[{name!r}]" for name, slot in self._inputs.items()) or "pass"
        lines = ["def run(arrays):", f" {inputs}"]
        for k, call in enumerate(self.calls):
            operands = ", ".join(f"v{source}" for source in call.sources)
            free = "".join(f"; v{slot} = None" for slot in call.free)
            lines.append(f" v{call.target} = f{k}({operands}){free}")
        lines.append(f" return [{', '.join(f'v{slot}' for slot in self._outputs)}]")
        return generated.function(lines, names)

    def _called(
        self, function: Callable[[Mapping[str, Array]], list[Array]], arrays: Mapping[str, Array]
    ) -> list[Array]:
        try:
            return function(arrays)
        except Exception as error:  # noqa: BLE001  # whatever a kernel raises, kernel_error types it or gives it back
            line, _ = generated.failure(error, function)
            typed = kernel_error(self.calls[line - 2].node, error)
            raise typed from (None if typed is error else error)

    # ---- as a loop ----

    def _looped(self, arrays: Mapping[str, Array], look: Look | None) -> list[Array]:
        slots: list[Any] = [None] * self._slots
        for slot, array in self._fixed.items():
            slots[slot] = array
        for name, slot in self._inputs.items():
            slots[slot] = arrays[name]
        call = None
        try:
            for call in self.calls:
                slots[call.target] = call.function(*[slots[k] for k in call.sources])
                if look is not None:
                    look(call, slots)
                for k in call.free:
                    slots[k] = None
        except Exception as error:  # noqa: BLE001
            assert call is not None
            typed = kernel_error(call.node, error)
            raise typed from (None if typed is error else error)
        return [slots[slot] for slot in self._outputs]
