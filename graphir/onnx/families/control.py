"""If, Loop and Scan.

A known condition chooses its branch when the model is read, and a loop of known length is unrolled; otherwise they
become cond and while_loop. Scan becomes a scan, unless a step needs known numbers or changes its states' types.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir import array, flow, manipulate
from graphir.errors import BindError, DTypeError, FormatError, LimitError, ShapeError
from graphir.expr import Expr
from graphir.onnx.call import Call, F, reads
from graphir.types import BOOL, INT64

MAX_STEPS = 10_000
"""Most steps that are unrolled."""


@reads("If")
def _if(call: Call) -> list[Expr]:
    condition = call.known(call[0])
    branches = call.need("then_branch"), call.need("else_branch")
    if condition is not None:
        return call.reader.subgraph(branches[0 if condition.reshape(()) else 1], [])
    chosen = manipulate.reshape(call[0], ())
    try:
        found = flow.cond(
            chosen, *[lambda branch=branch: tuple(call.reader.subgraph(branch, [])) for branch in branches]
        )
    except (ShapeError, DTypeError):
        raise call.unbound(0) from None
    return list(found)


@reads("Loop")
def _loop(call: Call) -> list[Expr]:
    """for (k = 0; k < M and condition; k++)"""
    going = call.known(call[1]) if call.has(1) else np.True_
    steps = call.known(call[0]) if call.has(0) else np.asarray(MAX_STEPS + 1)
    if going is None or steps is None:
        return _while(call)
    try:
        return _unrolled(call, bool(going.reshape(())), int(steps.reshape(())))
    except _Unknown:
        return _while(call)


class _Unknown(Exception):
    """A condition inside a loop depends on the inputs' values."""


def _unrolled(call: Call, going: bool, steps: int) -> list[Expr]:
    body = call.need("body")
    carried = [call[k] for k in range(2, len(call.inputs))]
    collected: list[list[Expr]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    step = 0
    while going and step < steps:
        _check_steps(step)
        found = call.reader.subgraph(body, [array.constant(step, INT64), array.constant(True, BOOL), *carried])
        carried = found[1 : 1 + len(carried)]
        for row, value in zip(collected, found[1 + len(carried) :], strict=True):
            row.append(value)
        condition = call.known(found[0])
        if condition is None:
            raise _Unknown
        going = bool(condition.reshape(()))
        step += 1
    return [*carried, *[_stacked(row, 0, False) for row in collected]]


def _while(call: Call) -> list[Expr]:
    """A loop whose number of steps depends on the inputs' values."""
    body, first = call.need("body"), [call[k] for k in range(2, len(call.inputs))]
    if len(body.output) != 1 + len(first):
        unknown = [k for k in (0, 1) if call.has(k) and call.known(call[k]) is None]
        if not unknown:
            raise FormatError(
                "a loop that collects values has a condition that depends on the inputs; fix them with bind="
            )
        raise call.unbound(unknown[0])  # what it collects would have a size that is not known
    most = call.get(0)
    going = manipulate.reshape(call[1], ()) if call.has(1) else array.constant(True, BOOL)

    def test(carry: tuple[Expr, Expr, tuple[Expr, ...]]) -> Expr:
        count, on, _ = carry
        return on if most is None else F["logical_and"](on, count < manipulate.reshape(most, ()))

    def step(carry: tuple[Expr, Expr, tuple[Expr, ...]]) -> Any:
        count, _, values = carry
        found = call.reader.subgraph(body, [count, array.constant(True, BOOL), *values])
        return count + 1, manipulate.reshape(found[0], ()), tuple(found[1:])

    return list(flow.while_loop(test, step, (array.constant(0, INT64), going, tuple(first)))[2])


def _check_steps(step: int) -> None:
    if step >= MAX_STEPS:
        raise LimitError(f"a loop has over {MAX_STEPS} steps, which would all become nodes; shorten the sequence")


def _stacked(row: Sequence[Expr], axis: int, backwards: bool) -> Expr:
    if not row:
        raise ShapeError("a loop without steps leaves the shape of what it collects open; export the model without it")
    return manipulate.stack(list(reversed(row)) if backwards else row, axis)


@dataclass(frozen=True, slots=True)
class _Scan:
    """The parts of a Scan operator."""

    states: list[Expr]
    scanned: list[Expr]
    axes: list[int]
    backwards: list[int]
    output_axes: list[int]
    output_backwards: list[int]

    def result(self, row: Expr, k: int) -> Expr:
        """A scan output, stacked along axis 0 in the order of the steps, as the operator gives it."""
        row = manipulate.flip(row, 0) if self.output_backwards[k] else row
        return manipulate.moveaxis(row, 0, self.output_axes[k])


@reads("Scan")
def _scan(call: Call) -> list[Expr]:
    if call.opset < 9:
        raise FormatError("Scan of operator set 8 is not supported; export with operator set 9 or later")
    body, count = call.need("body"), int(call.need("num_scan_inputs"))
    values = [call[k] for k in range(len(call.inputs))]
    states, scanned = values[: len(values) - count], values[len(values) - count :]
    axes = [
        array.normal_axis(a, x.ndim) for a, x in zip(call.attr("scan_input_axes") or [0] * count, scanned, strict=True)
    ]
    outputs = [0] * (len(body.output) - len(states))
    parts = _Scan(
        states, scanned, axes, call.attr("scan_input_directions") or [0] * count,
        call.attr("scan_output_axes") or outputs, call.attr("scan_output_directions") or outputs,
    )  # fmt: skip
    try:
        return _as_scan(call, parts)
    except (BindError, ShapeError, DTypeError):
        return _unrolled_scan(call, parts)


def _as_scan(call: Call, parts: _Scan) -> list[Expr]:
    rows = [manipulate.moveaxis(x, axis, 0) for x, axis in zip(parts.scanned, parts.axes, strict=True)]
    rows = [manipulate.flip(x, 0) if back else x for x, back in zip(rows, parts.backwards, strict=True)]
    count = len(parts.states)

    def step(states: tuple[Expr, ...], slices: tuple[Expr, ...]) -> Any:
        found = call.reader.subgraph(call.need("body"), [*states, *slices])
        return tuple(found[:count]), tuple(found[count:])

    last, stacked = flow.scan(step, tuple(parts.states), tuple(rows))
    return [*last, *[parts.result(row, k) for k, row in enumerate(stacked)]]


def _unrolled_scan(call: Call, parts: _Scan) -> list[Expr]:
    lengths = {x.shape[axis] for x, axis in zip(parts.scanned, parts.axes, strict=True)}
    if len(lengths) != 1 or not isinstance(length := lengths.pop(), int):
        raise ShapeError("Scan needs inputs of one known length; fix the size in the model")
    _check_steps(length - 1)
    states, collected = parts.states, [list[Expr]() for _ in parts.output_axes]
    for step in range(length):
        slices = [
            _slice(x, axis, length - 1 - step if back else step)
            for x, axis, back in zip(parts.scanned, parts.axes, parts.backwards, strict=True)
        ]
        found = call.reader.subgraph(call.need("body"), [*states, *slices])
        states = found[: len(states)]
        for row, value in zip(collected, found[len(states) :], strict=True):
            row.append(value)
    return [*states, *[parts.result(_stacked(row, 0, False), k) for k, row in enumerate(collected)]]


def _slice(x: Expr, axis: int, k: int) -> Expr:
    return x[(*[slice(None)] * axis, k)]
