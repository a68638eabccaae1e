"""Convolutions: what an operator's attributes mean."""

from graphir.errors import AttributeValueError
from graphir.expr import Expr
from graphir.nn.convolution import add_bias, convolve, spread_and_convolve
from graphir.nn.windows import spatial_sizes
from graphir.onnx.call import Call, reads
from graphir.onnx.families.windows import geometry


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


@reads("ConvTranspose")
def _conv_transpose(call: Call) -> Expr:
    x, w = call[0], call[1]
    kernel, sizes = kernel_sizes(call, w), spatial_sizes(x)
    strides, dilations = (call.attr(name) or [1] * len(sizes) for name in ("strides", "dilations"))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    crop = _transposed_pads(call, sizes, strides, spans)
    return add_bias(spread_and_convolve(x, w, strides, dilations, crop, int(call.attr("group", 1))), call.get(2))


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
