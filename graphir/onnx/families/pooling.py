"""Pooling: reductions over windows."""

import math

import numpy as np

from graphir import array, manipulate
from graphir.expr import Expr
from graphir.nn.pooling import average, flat_windows, lowest, norm
from graphir.nn.windows import Geometry, flat_positions, pad_constant, spatial_sizes
from graphir.onnx.call import Call, F, reads
from graphir.onnx.families.indexing import add_at
from graphir.onnx.families.windows import geometry
from graphir.products import element_count
from graphir.types import INT64


def _windows(call: Call, fill: float) -> tuple[Expr, Geometry]:
    g = geometry(call, call[0], call.need("kernel_shape"))
    return flat_windows(call[0], g, fill), g


@reads("MaxPool")
def _max_pool(call: Call) -> list[Expr | None]:
    x = call[0]
    windows, g = _windows(call, lowest(x))
    largest = array.max(windows, -1)
    if len(call.node.output) < 2 or not call.node.output[1]:
        return [largest]
    where = array.argmax(windows, -1, keepdims=True)
    table = flat_positions(g, bool(call.attr("storage_order", 0)))
    inside = manipulate.squeeze(array.take_along_axis(manipulate.broadcast_to(table, windows.shape), where, -1), -1)
    planes = array.arange(str(element_count(x.shape[:2]))) * math.prod(g.sizes)
    return [largest, inside + manipulate.reshape(planes, (*x.shape[:2], *[1] * len(g.sizes)))]


@reads("AveragePool")
def _average_pool(call: Call) -> Expr:
    windows, g = _windows(call, 0.0)
    return average(windows, g, bool(call.attr("count_include_pad", 0)))


@reads("LpPool")
def _lp_pool(call: Call) -> Expr:
    windows, _ = _windows(call, 0.0)
    return norm(windows, (-1,), int(call.attr("p", 2)), False)


@reads("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(call: Call) -> Expr:
    x = call[0]
    axes = tuple(range(2, x.ndim))
    match call.node.op_type:
        case "GlobalAveragePool":
            return array.mean(x, axes, keepdims=True)
        case "GlobalMaxPool":
            return array.max(x, axes, keepdims=True)
    return norm(x, axes, int(call.attr("p", 2)), True)


@reads("MaxUnpool")
def _max_unpool(call: Call) -> Expr:
    """Values written at the positions that MaxPool gave."""
    x, places = call[0], call[1]
    kernel = call.need("kernel_shape")
    strides, pads = call.attr("strides") or [1] * len(kernel), call.attr("pads") or [0] * 2 * len(kernel)
    sizes = [
        (n - 1) * s - pads[k] - pads[k + len(kernel)] + kernel[k]
        for k, (n, s) in enumerate(zip(spatial_sizes(x), strides, strict=True))
    ]
    shape = (*x.shape[:2], *sizes)
    final = tuple(call.dims(2)) if call.has(2) else shape
    flat, own = manipulate.reshape(x, (-1,)), manipulate.reshape(places.astype(INT64), (-1,))
    total = element_count(shape)
    written = manipulate.reshape(add_at(flat, own, 0, total), shape)
    for axis in range(2, len(shape)):
        after = int(final[axis]) - int(shape[axis])
        written = pad_constant(written, axis, 0, after, array.constant(0, x.dtype))
    return written


@reads("LRN")
def _lrn(call: Call) -> Expr:
    """x divided by a power of the mean square over neighbouring channels."""
    x = call[0]
    size = int(call.need("size"))
    channels = x.shape[1]
    before, zero = (size - 1) // 2, array.constant(0, x.dtype)
    padded = pad_constant(F["square"](x), 1, before, size - 1 - before, zero)
    places = manipulate.expand_dims(array.arange(str(channels)), 1) + np.arange(size)
    squares = array.sum(array.take(padded, places, 1), 2)
    base: Expr = squares * (call.attr("alpha", 1e-4) / size) + call.attr("bias", 1.0)
    return x / base ** float(call.attr("beta", 0.75))
