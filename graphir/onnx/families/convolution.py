"""Convolutions as products of windows and kernels."""

import math

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr
from graphir.onnx.call import Call, reads
from graphir.onnx.families.slicing import cut, pad_constant
from graphir.onnx.families.windows import Geometry, geometry, slide, spatial_sizes
from graphir.ops import layout
from graphir.products import element_count


@reads("Conv")
def _conv(call: Call) -> Expr:
    x, w = call[0], call[1]
    g = geometry(call, x, kernel_sizes(call, w))
    return add_bias(convolve(x, w, g, call.attr("group", 1)), call.get(2))


def kernel_sizes(call: Call, w: Expr) -> tuple[int, ...]:
    """The kernel's spatial sizes, which the attribute, if given, must repeat."""
    sizes = spatial_sizes(w)
    if "kernel_shape" in call.attributes and tuple(call.attributes["kernel_shape"]) != sizes:
        raise AttributeValueError(f"kernel_shape {call.attributes['kernel_shape']} is not that of {w.node.type}")
    return sizes


def add_bias(x: Expr, bias: Expr | None) -> Expr:
    """x plus one number for each channel."""
    return x if bias is None else x + manipulate.reshape(bias, (1, bias.shape[0], *[1] * (x.ndim - 2)))


def convolve(x: Expr, w: Expr, g: Geometry, groups: int) -> Expr:
    """Windows (group, batch * places, channels * kernel) times kernels (group, channels * kernel, filters)."""
    batch, channels, filters = x.shape[0], x.shape[1], w.shape[0]
    each, made = dims.exact_quotient(channels, groups), dims.exact_quotient(filters, groups)
    if each is None or made is None or w.shape[1] != each:
        raise ShapeError(f"kernels {w.node.type} do not fit {channels} channels in {groups} groups")
    rank, taps = len(g.sizes), math.prod(g.kernel)
    windows = slide(x, g)
    split = manipulate.reshape(windows, (batch, groups, each, *g.outputs, *g.kernel))
    places = range(3, 3 + rank)
    ordered = manipulate.permute_dims(split, (1, 0, *places, 2, *range(3 + rank, 3 + 2 * rank)))
    width = dims.multiply(each, taps)
    rows = manipulate.reshape(ordered, (groups, element_count((batch, *g.outputs)), width))
    kernels = manipulate.reshape(w, (groups, made, width))
    product = array.matmul(rows, kernels.mT)
    spread = manipulate.reshape(product, (groups, batch, *g.outputs, made))
    joined = manipulate.permute_dims(spread, (1, 0, 2 + rank, *range(2, 2 + rank)))
    return manipulate.reshape(joined, (batch, filters, *g.outputs))


@reads("ConvTranspose")
def _conv_transpose(call: Call) -> Expr:
    """A convolution of x spread by the strides with flipped kernels: the adjoint of Conv with respect to its input."""
    x, w, groups = call[0], call[1], int(call.attr("group", 1))
    kernel, sizes = kernel_sizes(call, w), spatial_sizes(x)
    rank = len(sizes)
    strides = call.attr("strides") or [1] * rank
    dilations = call.attr("dilations") or [1] * rank
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before, after = _transposed_pads(call, sizes, strides, spans)
    for axis in range(rank):
        spread = (sizes[axis] - 1) * strides[axis] + 1
        if strides[axis] > 1:
            x = Expr(layout.place(x.node, axis=2 + axis, size=spread, start=0, step=strides[axis]))
        x = _grown(x, 2 + axis, spans[axis] - 1 - before[axis], spans[axis] - 1 - after[axis])
        w = manipulate.flip(w, 2 + axis)
    each: Dim | None = dims.exact_quotient(w.shape[0], groups)
    if each is None:
        raise ShapeError(f"{w.shape[0]} channels do not divide into {groups} groups")
    split = manipulate.reshape(w, (groups, each, *w.shape[1:]))
    turned = manipulate.permute_dims(split, (0, 2, 1, *range(3, 3 + rank)))
    kernels = manipulate.reshape(turned, (dims.multiply(groups, w.shape[1]), each, *kernel))
    now = spatial_sizes(x)
    outputs = tuple(size - span + 1 for size, span in zip(now, spans, strict=True))
    zeros = (0,) * rank
    g = Geometry(now, kernel, (1,) * rank, tuple(dilations), zeros, zeros, outputs)
    return add_bias(convolve(x, kernels, g, groups), call.get(2))


def _transposed_pads(
    call: Call, sizes: tuple[int, ...], strides: list[int], spans: list[int]
) -> tuple[list[int], list[int]]:
    """What the output loses before and after; the attribute output_padding adds to its end."""
    rank = len(sizes)
    pads = call.attr("pads") or [0] * (2 * rank)
    extra = call.attr("output_padding") or [0] * rank
    same = call.attr("auto_pad", "NOTSET")
    wanted = call.attr("output_shape")
    if wanted is None and same in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
    if wanted is None:
        before, after = ([0] * rank, [0] * rank) if same == "VALID" else (pads[:rank], pads[rank:])
    else:
        parts = zip(sizes, strides, extra, spans, wanted[-rank:], strict=True)
        total = [s * (n - 1) + e + span - out for n, s, e, span, out in parts]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (small, large) if same == "SAME_UPPER" else (large, small)
    return before, [a - e for a, e in zip(after, extra, strict=True)]


def _grown(x: Expr, axis: int, before: int, after: int) -> Expr:
    """Zeros added, or elements taken away where the numbers are negative."""
    size = x.shape[axis]
    x = cut(x, axis, max(-before, 0), dims.subtract(size, max(-after, 0)))
    return pad_constant(x, axis, max(before, 0), max(after, 0), array.constant(0, x.dtype))
