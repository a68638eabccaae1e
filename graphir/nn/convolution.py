"""Convolutions (cross-correlations, as everywhere in deep learning)."""

from collections.abc import Sequence
from typing import Any

from graphir import dims, manipulate
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr, as_expr, match_dtypes
from graphir.nn.windows import (
    Geometry,
    Numbers,
    Padding,
    each,
    sides,
    spatial_sizes,
    windows_of,
)
from graphir.ops import convolution
from graphir.origin import located


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
    """The adjoint of a convolution; `crop` is what the output loses at its ends."""
    kernel, sizes = spatial_sizes(w), spatial_sizes(x)
    before, after = crop
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    parts = zip(sizes, strides, spans, before, after, strict=True)
    outputs = tuple([(size - 1) * stride + span - b - a for size, stride, span, b, a in parts])
    if min(outputs) < 1:
        raise ShapeError(f"nothing is left of sizes {sizes} with kernel {kernel}; use less padding")
    if dims.exact_quotient(w.shape[0], groups) is None:
        raise ShapeError(f"{w.shape[0]} channels do not divide into {groups} groups")
    return Expr(
        convolution.conv_input(
            x.node,
            w.node,
            strides=tuple(strides),
            dilations=tuple(dilations),
            before=tuple(before),
            sizes=outputs,
            groups=groups,
        )
    )


def add_bias(x: Expr, bias: Expr | None) -> Expr:
    """x plus one number for each channel."""
    if bias is not None and bias.shape != (x.shape[1],):
        raise ShapeError(f"bias {bias.node.type} must have one number for each of {x.shape[1]} filters")
    return x if bias is None else x + manipulate.reshape(bias, (1, bias.shape[0], *[1] * (x.ndim - 2)))


def convolve(x: Expr, w: Expr, g: Geometry, groups: int) -> Expr:
    """The convolution over the windows."""
    share, made = dims.exact_quotient(x.shape[1], groups), dims.exact_quotient(w.shape[0], groups)
    if share is None or made is None or w.shape[1] != share:
        raise ShapeError(
            f"kernels {w.node.type} do not fit {x.shape[1]} channels in {groups} groups; both axes 0 of kernels and 1 of "
            "the input divide into the groups, and axis 1 of kernels is channels / groups"
        )
    return Expr(
        convolution.conv(
            x.node,
            w.node,
            strides=g.strides,
            dilations=g.dilations,
            before=g.before,
            outputs=g.outputs,
            groups=groups,
        )
    )
