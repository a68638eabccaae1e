"""Sliding windows over the spatial axes (those from 2 on): their geometry, and the view of a value as windows.

`slide` takes windows with constant positions, so the adjoint adds them back; spatial sizes must be numbers, while the
batch and the channels may be named.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphir import array, manipulate
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr
from graphir.onnx.call import Call
from graphir.onnx.families.slicing import pad_constant
from graphir.types import INT64


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
        raise ShapeError(f"windows need spatial axes of known size, not {x.node.type}; fix these sizes in the model")
    return tuple(int(d) for d in sizes)


def geometry(call: Call, x: Expr, kernel: Sequence[int]) -> Geometry:
    """The windows that an operator's attributes describe."""
    sizes, rank = spatial_sizes(x), x.ndim - 2
    strides = _each(call, "strides", 1, rank)
    dilations = _each(call, "dilations", 1, rank)
    pads = _each(call, "pads", 0, 2 * rank)
    if len(kernel) != rank or min([*strides, *dilations, *kernel]) < 1:
        raise AttributeValueError(f"kernel {tuple(kernel)}, strides {strides} and dilations {dilations} do not fit")
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    same = call.attr("auto_pad", "NOTSET")
    if same in ("SAME_UPPER", "SAME_LOWER"):
        outputs = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
        total = [max((o - 1) * s + span - n, 0) for o, s, span, n in zip(outputs, strides, spans, sizes, strict=True)]
        before = [t // 2 if same == "SAME_UPPER" else -(-t // 2) for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
    else:
        before, after = ([0] * rank, [0] * rank) if same == "VALID" else (list(pads[:rank]), list(pads[rank:]))
        outputs = [
            _output(*parts, call.attr("ceil_mode", 0))
            for parts in zip(sizes, before, after, spans, strides, strict=True)
        ]
    if min(outputs) < 1:
        raise ShapeError(f"windows of {tuple(kernel)} do not fit into {x.node.type}")
    parts = (sizes, tuple(kernel), strides, dilations, tuple(before), tuple(after), tuple(outputs))
    return Geometry(*parts)


def _each(call: Call, name: str, default: int, count: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in call.attr(name) or [default] * count)
    if len(values) != count:
        raise AttributeValueError(f"{name} {values} must have {count} numbers")
    return values


def _output(size: int, before: int, after: int, span: int, stride: int, ceil: int) -> int:
    room = size + before + after - span
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= size + before:  # the last window would begin in the padding after
        count -= 1
    return count


def slide(x: Expr, g: Geometry, fill: float = 0.0) -> Expr:
    """The windows of x: (batch, channels, outputs..., kernel...)."""
    rank = len(g.sizes)
    filler = array.constant(fill, x.dtype)
    for axis in range(rank):
        before, after = g.padding(axis)
        x = pad_constant(x, 2 + axis, before, after, filler)
    for axis in range(rank):
        x = array.take(x, g.positions(axis), 2 + 2 * axis)
    return manipulate.permute_dims(x, [0, 1, *range(2, x.ndim, 2), *range(3, x.ndim, 2)])


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
