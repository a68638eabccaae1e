"""Convolutions (cross-correlations, as everywhere in deep learning) as products of windows and kernels."""

import math
from collections.abc import Sequence
from typing import Any

from graphir import array, dims, manipulate
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr, as_expr, match_dtypes
from graphir.nn.windows import (
    Geometry,
    Numbers,
    Padding,
    cut,
    each,
    pad_constant,
    sides,
    slide,
    spatial_sizes,
    windows_of,
)
from graphir.ops import layout
from graphir.origin import located
from graphir.products import element_count


@located
def conv(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Expr:
    """The convolution of x [batch, channels, sizes...] with kernels [filters, channels / groups, kernel sizes...].

    bias: [filters]. padding: zeros on both sides (a number, numbers, or pairs), "valid", "same", "same_lower". The
    batch may be a named dimension. Result: [batch, filters, outputs...]. ShapeError, AttributeValueError. As
    torch.nn.functional.conv1d to conv3d.
    """
    value, weights = match_dtypes(as_expr(x), as_expr(kernel))
    if value.ndim < 3 or weights.ndim != value.ndim:
        raise ShapeError(
            f"conv needs [batch, channels, sizes...] and kernels of as many axes: {value.node.type}, {weights.node.type}"
        )
    g = windows_of(value, spatial_sizes(weights), stride, dilation, padding)
    return add_bias(convolve(value, weights, g, groups), None if bias is None else as_expr(bias))


@located
def conv_transpose(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Expr:
    """The adjoint of `conv` with respect to its input; kernels are [channels, filters / groups, kernel sizes...].

    Output sizes are (size - 1) stride - before - after + (kernel - 1) dilation + 1 + output_padding. As
    torch.nn.functional.conv_transpose1d to conv_transpose3d.
    """
    value, weights = match_dtypes(as_expr(x), as_expr(kernel))
    if value.ndim < 3 or weights.ndim != value.ndim:
        raise ShapeError(
            f"conv_transpose needs [batch, channels, sizes...] and kernels of as many axes: {value.node.type}, {weights.node.type}"
        )
    rank = value.ndim - 2
    if isinstance(padding, str) and padding != "valid":
        raise AttributeValueError(f"conv_transpose takes padding 'valid' or numbers, not {padding!r}")
    before, after = sides(padding, rank)
    extra = each("output_padding", output_padding, rank, 0)
    crop = (before, [a - e for a, e in zip(after, extra, strict=True)])
    result = spread_and_convolve(
        value, weights, each("stride", stride, rank), each("dilation", dilation, rank), crop, groups
    )
    return add_bias(result, None if bias is None else as_expr(bias))


def spread_and_convolve(
    x: Expr,
    w: Expr,
    strides: Sequence[int],
    dilations: Sequence[int],
    crop: tuple[Sequence[int], Sequence[int]],
    groups: int,
) -> Expr:
    """A convolution of x spread by the strides with flipped kernels; `crop` is what the output loses at its ends."""
    kernel, sizes = spatial_sizes(w), spatial_sizes(x)
    rank = len(sizes)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before, after = crop
    for axis in range(rank):
        spread = (sizes[axis] - 1) * strides[axis] + 1
        if strides[axis] > 1:
            x = Expr(layout.place(x.node, axis=2 + axis, size=spread, start=0, step=strides[axis]))
        x = _grown(x, 2 + axis, spans[axis] - 1 - before[axis], spans[axis] - 1 - after[axis])
        w = manipulate.flip(w, 2 + axis)
    share = dims.exact_quotient(w.shape[0], groups)
    if share is None:
        raise ShapeError(f"{w.shape[0]} channels do not divide into {groups} groups")
    split = manipulate.reshape(w, (groups, share, *w.shape[1:]))
    turned = manipulate.permute_dims(split, (0, 2, 1, *range(3, 3 + rank)))
    kernels = manipulate.reshape(turned, (dims.multiply(groups, w.shape[1]), share, *kernel))
    now = spatial_sizes(x)
    outputs = tuple(size - span + 1 for size, span in zip(now, spans, strict=True))
    if min(outputs) < 1:
        raise ShapeError(f"nothing is left of sizes {sizes} with kernel {kernel}; use less padding")
    zeros = (0,) * rank
    g = Geometry(now, kernel, (1,) * rank, tuple(dilations), zeros, zeros, outputs)
    return convolve(x, kernels, g, groups)


def add_bias(x: Expr, bias: Expr | None) -> Expr:
    """x plus one number for each channel."""
    if bias is not None and bias.shape != (x.shape[1],):
        raise ShapeError(f"bias {bias.node.type} must have one number for each of {x.shape[1]} filters")
    return x if bias is None else x + manipulate.reshape(bias, (1, bias.shape[0], *[1] * (x.ndim - 2)))


def convolve(x: Expr, w: Expr, g: Geometry, groups: int) -> Expr:
    """Windows (group, batch * places, channels * kernel) times kernels (group, channels * kernel, filters)."""
    batch, channels, filters = x.shape[0], x.shape[1], w.shape[0]
    share, made = dims.exact_quotient(channels, groups), dims.exact_quotient(filters, groups)
    if share is None or made is None or w.shape[1] != share:
        raise ShapeError(
            f"kernels {w.node.type} do not fit {channels} channels in {groups} groups; both axes 0 of kernels and 1 of "
            "the input divide into the groups, and axis 1 of kernels is channels / groups"
        )
    rank, taps = len(g.sizes), math.prod(g.kernel)
    windows = slide(x, g)
    split = manipulate.reshape(windows, (batch, groups, share, *g.outputs, *g.kernel))
    places = range(3, 3 + rank)
    ordered = manipulate.permute_dims(split, (1, 0, *places, 2, *range(3 + rank, 3 + 2 * rank)))
    width = dims.multiply(share, taps)
    rows = manipulate.reshape(ordered, (groups, element_count((batch, *g.outputs)), width))
    kernels = manipulate.reshape(w, (groups, made, width))
    product = array.matmul(rows, kernels.mT)
    spread = manipulate.reshape(product, (groups, batch, *g.outputs, made))
    joined = manipulate.permute_dims(spread, (1, 0, 2 + rank, *range(2, 2 + rank)))
    return manipulate.reshape(joined, (batch, filters, *g.outputs))


def _grown(x: Expr, axis: int, before: int, after: int) -> Expr:
    """Zeros added, or elements taken away where the numbers are negative."""
    size = x.shape[axis]
    x = cut(x, axis, max(-before, 0), dims.subtract(size, max(-after, 0)))
    return pad_constant(x, axis, max(before, 0), max(after, 0), array.constant(0, x.dtype))
