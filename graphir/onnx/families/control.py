"""If, Loop and Scan where the model fixes what they do: branches are inlined and loops unrolled.

A condition that depends on the inputs' values selects between the values of both branches, which must have equal
types. Loops whose number of steps depends on the inputs' values need these inputs fixed with `bind`.
"""

from collections.abc import Sequence

from graphir import array, manipulate
from graphir.errors import FormatError, LimitError, ShapeError
from graphir.expr import Expr
from graphir.onnx.call import Call, reads
from graphir.types import BOOL, INT64

MAX_STEPS = 10_000
"""Most steps that are unrolled."""


@reads("If")
def _if(call: Call) -> list[Expr]:
    condition = call.known(call[0])
    branches = call.need("then_branch"), call.need("else_branch")
    if condition is not None:
        return call.reader.subgraph(branches[0 if condition.reshape(()) else 1], [])
    left, right = (call.reader.subgraph(branch, []) for branch in branches)
    if [(a.shape, a.dtype) for a in left] != [(b.shape, b.dtype) for b in right]:
        raise call.unbound(0)
    chosen = manipulate.reshape(call[0], ())
    return [array.where(chosen, a, b) for a, b in zip(left, right, strict=True)]


@reads("Loop")
def _loop(call: Call) -> list[Expr]:
    """for (k = 0; k < M and condition; k++), unrolled."""
    body = call.need("body")
    steps = int(call.numbers(0).reshape(())) if call.has(0) else None
    going = bool(call.numbers(1).reshape(())) if call.has(1) else True
    carried = [call[k] for k in range(2, len(call.inputs))]
    collected: list[list[Expr]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    step = 0
    while going and (steps is None or step < steps):
        _check_steps(step)
        found = call.reader.subgraph(body, [array.constant(step, INT64), array.constant(True, BOOL), *carried])
        carried = found[1 : 1 + len(carried)]
        for row, value in zip(collected, found[1 + len(carried) :], strict=True):
            row.append(value)
        condition = call.known(found[0])
        if condition is None:
            raise FormatError("a loop's condition depends on the inputs' values; fix them with bind={name: array}")
        going = bool(condition.reshape(()))
        step += 1
    return [*carried, *[_stacked(row, 0, False) for row in collected]]


def _check_steps(step: int) -> None:
    if step >= MAX_STEPS:
        raise LimitError(f"a loop has over {MAX_STEPS} steps, which would all become nodes; shorten the sequence")


def _stacked(row: Sequence[Expr], axis: int, backwards: bool) -> Expr:
    if not row:
        raise ShapeError("a loop without steps leaves the shape of what it collects open; export the model without it")
    return manipulate.stack(list(reversed(row)) if backwards else row, axis)


@reads("Scan")
def _scan(call: Call) -> list[Expr]:
    """A loop over slices of the inputs, unrolled."""
    if call.opset < 9:
        raise FormatError("Scan of operator set 8 is not supported; export with operator set 9 or later")
    body, count = call.need("body"), int(call.need("num_scan_inputs"))
    values = [call[k] for k in range(len(call.inputs))]
    states, scanned = values[: len(values) - count], values[len(values) - count :]
    outputs = len(body.output) - len(states)
    axes = [
        array.normal_axis(a, x.ndim) for a, x in zip(call.attr("scan_input_axes") or [0] * count, scanned, strict=True)
    ]
    backwards = call.attr("scan_input_directions") or [0] * count
    lengths = {x.shape[axis] for x, axis in zip(scanned, axes, strict=True)}
    if len(lengths) != 1 or not isinstance(length := lengths.pop(), int):
        raise ShapeError("Scan needs inputs of one known length; fix the size in the model")
    _check_steps(length - 1)
    collected: list[list[Expr]] = [[] for _ in range(outputs)]
    for step in range(length):
        slices = [
            _slice(x, axis, length - 1 - step if back else step)
            for x, axis, back in zip(scanned, axes, backwards, strict=True)
        ]
        found = call.reader.subgraph(body, [*states, *slices])
        states = found[: len(states)]
        for row, value in zip(collected, found[len(states) :], strict=True):
            row.append(value)
    places = zip(
        collected,
        call.attr("scan_output_axes") or [0] * outputs,
        call.attr("scan_output_directions") or [0] * outputs,
        strict=True,
    )
    return [*states, *[_stacked(row, axis, bool(back)) for row, axis, back in places]]


def _slice(x: Expr, axis: int, k: int) -> Expr:
    return x[(*[slice(None)] * axis, k)]
