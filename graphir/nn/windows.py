"""Sliding windows over the spatial axes (those from 2 on): their geometry, and the view of a value as windows.

Spatial sizes must be numbers, while the batch and the channels may be named.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr
from graphir.ops import layout, windows
from graphir.types import INT64

Numbers = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


def cut(x: Expr, axis: int, start: Dim, stop: Dim, step: int = 1) -> Expr:
    """x[start:stop:step] along one axis."""
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    return Expr(layout.slice_(x.node, axis=axis, start=start, stop=stop, step=step))


def pad_constant(x: Expr, axis: int, before: Dim, after: Dim, value: Expr) -> Expr:
    """x with `before` and `after` copies of a 0-d value along one axis."""
    if before == after == 0:
        return x
    if value.node.op.name == "constant" and not value.node.attr("value").array.any() and x.dtype.kind in "iuf":
        size = dims.add(dims.add(before, x.shape[axis]), after)
        return Expr(layout.place(x.node, axis=axis, size=size, start=before, step=1))
    sides = [manipulate.broadcast_to(value, (*x.shape[:axis], d, *x.shape[axis + 1 :])) for d in (before, after)]
    kept = [side for side, d in zip(sides, (before, after), strict=True) if d != 0]
    parts = [*kept[: before != 0], x, *kept[len(kept) - (after != 0) :]]
    return manipulate.concat(parts, axis)


@dataclass(frozen=True, slots=True)
class Geometry:
    """For each spatial axis: the size, the kernel, strides, dilations, zeros before and after, and the output."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    outputs: tuple[int, ...]

    def positions(self, axis: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Where each element of each window lies on the padded axis: (output, kernel)."""
        starts = np.arange(self.outputs[axis])[:, None] * self.strides[axis]
        return starts + np.arange(self.kernel[axis])[None, :] * self.dilations[axis]

    def padding(self, axis: int) -> tuple[int, int]:
        """What to add before and after; windows of ceil_mode may need more than the model says."""
        reach = int(self.positions(axis).max(initial=-1)) + 1
        return self.before[axis], max(reach - self.before[axis] - self.sizes[axis], 0)


def spatial_sizes(x: Expr) -> tuple[int, ...]:
    """The sizes of the axes from 2 on."""
    sizes = x.shape[2:]
    if x.ndim < 3 or any(isinstance(d, str) for d in sizes):
        raise ShapeError(
            f"windows need spatial axes (from axis 2 on) of known size, not {x.node.type}; fix these sizes"
        )
    return tuple(int(d) for d in sizes)


def each(name: str, value: Numbers, rank: int, least: int = 1) -> tuple[int, ...]:
    """One number for each spatial axis."""
    values = (int(value),) * rank if isinstance(value, int | np.integer) else tuple(int(v) for v in value)
    if len(values) != rank:
        raise AttributeValueError(f"{name} {values} must be a number or {rank} numbers")
    if min(values, default=least) < least:
        raise AttributeValueError(f"{name} {values} must be at least {least}")
    return values


def windows_of(
    x: Expr,
    kernel: Sequence[int],
    strides: Numbers = 1,
    dilations: Numbers = 1,
    padding: Padding = 0,
    ceil: bool = False,
) -> Geometry:
    """The windows over x. padding: zeros on both sides, one number or pair an axis, "valid", "same" or "same_lower"."""
    sizes, rank = spatial_sizes(x), x.ndim - 2
    steps, gaps = each("strides", strides, rank), each("dilations", dilations, rank)
    if len(kernel) != rank or min([*steps, *gaps, *kernel]) < 1:
        raise AttributeValueError(
            f"kernel {tuple(kernel)}, strides {steps} and dilations {gaps} do not fit {x.node.type}"
        )
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True)]
    if padding in ("same", "same_lower"):
        outputs = [-(-size // step) for size, step in zip(sizes, steps, strict=True)]
        total = [max((o - 1) * s + span - n, 0) for o, s, span, n in zip(outputs, steps, spans, sizes, strict=True)]
        before = [t // 2 if padding == "same" else -(-t // 2) for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
    else:
        before, after = sides(padding, rank)
        parts = zip(sizes, before, after, spans, steps, strict=True)
        outputs = [_output(*part, ceil) for part in parts]
    if min(outputs) < 1:
        raise ShapeError(f"windows of {tuple(kernel)} do not fit into {x.node.type}; add padding or use smaller ones")
    return Geometry(sizes, tuple(kernel), steps, gaps, tuple(before), tuple(after), tuple(outputs))


def sides(padding: Padding, rank: int) -> tuple[list[int], list[int]]:
    """Zeros before and after each spatial axis."""
    if padding == "valid":
        return [0] * rank, [0] * rank
    if isinstance(padding, str):
        raise AttributeValueError(f"padding is 'same', 'same_lower', 'valid', a number or numbers, not {padding!r}")
    values: tuple[Any, ...] = (padding,) * rank if isinstance(padding, int | np.integer) else tuple(padding)
    pairs = [(v, v) if isinstance(v, int | np.integer) else tuple(v) for v in values]
    if len(pairs) != rank or any(len(p) != 2 or min(p) < 0 for p in pairs):
        raise AttributeValueError(f"padding {padding!r} must be numbers of at least 0, or pairs, for {rank} axes")
    return [int(b) for b, _ in pairs], [int(a) for _, a in pairs]


def _output(size: int, before: int, after: int, span: int, stride: int, ceil: bool) -> int:
    room = size + before + after - span
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= size + before:  # the last window would begin in the padding after
        count -= 1
    return count


def slide(x: Expr, g: Geometry, fill: float = 0.0) -> Expr:
    """The windows of x: (batch, channels, outputs..., kernel...)."""
    given = padded(x, g, fill).node
    return Expr(windows.windows(given, kernel=g.kernel, outputs=g.outputs, strides=g.strides, dilations=g.dilations))


def padded(x: Expr, g: Geometry, fill: float) -> Expr:
    """x with what windows may have before and after it."""
    filler = array.constant(fill, x.dtype)
    for axis in range(len(g.sizes)):
        before, after = g.padding(axis)
        x = pad_constant(x, 2 + axis, before, after, filler)
    return x


def flat_positions(g: Geometry, column_major: bool) -> Expr:
    """The row-major (or column-major) position of each window element in the unpadded space: (outputs..., kernel)."""
    rank = len(g.sizes)
    weights = [math.prod(g.sizes[:axis] if column_major else g.sizes[axis + 1 :]) for axis in range(rank)]
    total = np.zeros((1,) * (2 * rank), np.int64)
    for axis in range(rank):
        places = (g.positions(axis) - g.before[axis]) * weights[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = places.shape
        total = total + places.reshape(shape)
    return array.constant(np.broadcast_to(total, (*g.outputs, *g.kernel)).reshape(*g.outputs, -1), INT64)
