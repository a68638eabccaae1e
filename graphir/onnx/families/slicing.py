"""Parts of values: Slice, Split, Pad, Trilu, and joining them."""

import numpy as np

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr
from graphir.nn.windows import cut, pad_constant
from graphir.onnx.call import Call, axis_of, reads, scalar

_FAR = 1 << 30
"""Ends from here on mean the end of the axis."""


@reads("Slice")
def _slice(call: Call) -> Expr:
    x = call[0]
    if call.opset < 10:
        starts: list[Dim] = list(call.need("starts"))
        ends: list[Dim] = list(call.need("ends"))
        axes, steps = call.attr("axes"), [1] * len(starts)
    else:
        starts, ends = call.dims(1), call.dims(2)
        axes = call.ints(3) if call.has(3) else None
        steps = call.ints(4) if call.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps, strict=True):
        x = _slice_axis(x, array.normal_axis(axis, x.ndim), start, end, step)
    return x


def _slice_axis(x: Expr, axis: int, start: Dim, end: Dim, step: int) -> Expr:
    size = x.shape[axis]
    if step == 0:
        raise AttributeValueError("a slice's step cannot be 0; export the model again")
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        first, stop, step = slice(start, end, step).indices(size)
        if step > 0:
            return cut(x, axis, first, max(first, stop), step)
        flipped = manipulate.flip(x, axis)
        return cut(flipped, axis, size - 1 - first, max(size - 1 - first, size - 1 - stop), -step)
    if step < 0:
        whole = start == -1 or (isinstance(start, int) and start >= _FAR)
        if not whole or not (isinstance(end, int) and end < -_FAR):
            raise ShapeError("a slice with a negative step of an axis of named size must take the whole axis")
        return cut(manipulate.flip(x, axis), axis, 0, size, -step)
    return cut(x, axis, _position(start, size), _position(end, size), step)


def _position(k: Dim, size: Dim) -> Dim:
    """A position from the front; ends far outside mean the axis's own ends."""
    if isinstance(k, str):
        return k
    if k >= _FAR:
        return size
    if k <= -_FAR:
        return 0
    return k if k >= 0 else dims.add(size, k)


@reads("Split")
def _split(call: Call) -> list[Expr | None]:
    x = call[0]
    axis = axis_of(call, 0, x.ndim)
    size = x.shape[axis]
    parts: list[Dim]
    if "split" in call.attributes:
        parts = list(call.attributes["split"])
    elif call.has(1):
        parts = call.dims(1)
    else:
        parts = _even_parts(size, call.attr("num_outputs", len(call.node.output)))
    found: list[Expr | None] = []
    start: Dim = 0
    for part in parts:
        stop = dims.add(start, part)
        found.append(cut(x, axis, start, stop))
        start = stop
    if start != size:
        raise ShapeError(f"the parts {parts} do not make up the axis of size {size}")
    return found


def _even_parts(size: Dim, count: int) -> list[Dim]:
    """Equal parts; the last one may be smaller."""
    if isinstance(size, int):
        whole = -(-size // count)
        return [min(whole, max(size - k * whole, 0)) for k in range(count)]
    quotient = dims.exact_quotient(size, count)
    if quotient is None:
        raise ShapeError(f"cannot split an axis of size {size} into {count} equal parts; give their sizes")
    return [quotient] * count


@reads("Concat")
def _concat(call: Call) -> Expr:
    values = [call[k] for k in range(len(call.inputs))]
    return manipulate.concat(values, axis_of(call, 1, values[0].ndim))


@reads("Pad")
def _pad(call: Call) -> Expr:
    x = call[0]
    pads: list[Dim] = list(call.attr("pads", call.attr("paddings", []))) or call.dims(1)
    axes = call.ints(3) if call.has(3) else list(range(x.ndim))
    value = call.get(2)
    if value is None:
        value = scalar(call.attr("value", 0), x)
    if len(pads) != 2 * len(axes):
        raise ShapeError(f"{len(pads)} paddings do not fit {len(axes)} axes; two an axis are needed")
    for k, axis in enumerate(axes):
        x = _pad_axis(
            x, array.normal_axis(axis, x.ndim), pads[k], pads[k + len(axes)], call.attr("mode", "constant"), value
        )
    return x


def _pad_axis(x: Expr, axis: int, before: Dim, after: Dim, mode: str, value: Expr) -> Expr:
    if before == after == 0:
        return x
    if mode != "constant":
        return _pad_with_own(x, axis, before, after, mode)
    low = -before if isinstance(before, int) and before < 0 else 0
    high = after if isinstance(after, int) and after < 0 else 0
    x = cut(x, axis, low, dims.add(x.shape[axis], high))
    before, after = (0 if low else before), (0 if high else after)
    return pad_constant(x, axis, before, after, manipulate.reshape(value, ()))


def _pad_with_own(x: Expr, axis: int, before: Dim, after: Dim, mode: str) -> Expr:
    size = x.shape[axis]
    if not (isinstance(size, int) and isinstance(before, int) and isinstance(after, int)):
        raise ShapeError(f"padding of mode {mode!r} needs an axis of known size; fix its size in the model")
    known = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in known:
        raise AttributeValueError(f"padding has no mode {mode!r}; use constant, reflect, edge or wrap")
    places = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode=known[mode])  # type: ignore[call-overload]
    places = places[max(-before, 0) : len(places) - max(-after, 0)]
    return array.take(x, places, axis)


@reads("Trilu")
def _trilu(call: Call) -> Expr:
    x = call[0]
    k = int(call.numbers(1).reshape(())) if call.has(1) else 0
    rows, columns = array.arange(str(x.shape[-2])), array.arange(str(x.shape[-1]))
    row = manipulate.expand_dims(rows, 1) + k
    keep = row <= columns if call.attr("upper", 1) else row >= columns
    return array.where(keep, x, scalar(0, x))
