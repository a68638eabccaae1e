"""Writing blocks into a larger value: Col2Im adds overlapping ones, TensorScatter replaces part of a cache."""

import math

import numpy as np

from graphir import array, dims, manipulate
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr
from graphir.nn.windows import cut
from graphir.onnx.call import Call, axis_of, reads
from graphir.onnx.families.indexing import add_at
from graphir.types import INT64


@reads("Col2Im")
def _col2im(call: Call) -> Expr:
    """The adjoint of taking windows: (batch, channels * kernel, windows) to (batch, channels, image...)."""
    x, image, kernel = call[0], call.ints(1), call.ints(2)
    rank = len(image)
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    pads = call.attr("pads") or [0] * (2 * rank)
    if min([*strides, *dilations, *kernel, *image]) < 1 or min(pads) < 0:
        raise AttributeValueError(f"an image {image} cannot have blocks {kernel} with strides {strides}")
    padded = [n + pads[k] + pads[rank + k] for k, n in enumerate(image)]
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    counts = [(n - span) // step + 1 for n, span, step in zip(padded, spans, strides, strict=True)]
    channels = dims.exact_quotient(x.shape[1], math.prod(kernel))
    if channels is None or x.shape[2] != math.prod(counts) or min(counts) < 1:
        raise ShapeError(f"{x.node.type} does not hold the {tuple(counts)} blocks {kernel} of an image {image}")
    split = manipulate.reshape(x, (x.shape[0], channels, *kernel, *counts))
    order = [axis for k in range(rank) for axis in (2 + rank + k, 2 + k)]
    folded = manipulate.permute_dims(split, (0, 1, *order))
    for k in range(rank):  # the axes before are folded already
        places = np.arange(counts[k])[:, None] * strides[k] + np.arange(kernel[k]) * dilations[k]
        folded = add_at(folded, array.constant(places, INT64), 2 + k, padded[k])
        folded = cut(folded, 2 + k, pads[k], pads[k] + image[k])
    return folded


@reads("TensorScatter")
def _tensor_scatter(call: Call) -> Expr:
    """A cache whose places from each sample's write index on hold the update."""
    cache, update = call[0], call[1]
    axis, mode = axis_of(call, -2, cache.ndim), call.attr("mode", "linear")
    if mode not in ("linear", "circular") or axis == 0:
        raise AttributeValueError(f"TensorScatter writes linear or circular, and not along axis 0: {mode!r}, {axis}")
    alone = [-1 if k == axis else 1 for k in range(cache.ndim)]
    size, length = (array.count(array.zeros(v.shape, INT64), (axis,)) for v in (cache, update))
    source = manipulate.reshape(array.arange(str(cache.shape[axis])), alone)
    if call.has(2):
        source = source - manipulate.reshape(call[2].astype(INT64), (-1, *[1] * (cache.ndim - 1)))
    if mode == "circular":
        source = source % size
    written = (source >= 0) & (source < length)
    picked = array.take_along_axis(update, array.clip(source, 0, length - 1), axis)
    return array.where(written, picked, cache)
