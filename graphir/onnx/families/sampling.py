"""Values between grid points, at positions that the inputs' values decide: GridSample, RoiAlign, DeformConv.

Each axis gives a few taps a position, with weights that are expressions of the position. All taps of all axes are
picked by one gather and summed in one product, so derivatives reach the values and the positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr
from graphir.graph import Graph
from graphir.interpret import evaluate
from graphir.nn.convolution import add_bias
from graphir.nn.windows import Geometry, spatial_sizes
from graphir.onnx.call import Call, F, reads, scalar
from graphir.onnx.families.convolution import kernel_sizes
from graphir.onnx.families.windows import geometry
from graphir.products import element_count
from graphir.types import INT64, DType


@dataclass(frozen=True, slots=True)
class Taps:
    """For each position (batch, place) of one axis: the taps' numbers as floats, and their weights, on a last axis."""

    numbers: Expr
    weights: Expr


def linear_taps(x: Expr) -> Taps:
    """The grid points on both sides."""
    low: Expr = F["floor"](x)
    right = x - low
    return Taps(_following(low, range(2)), manipulate.stack([1 - right, right], -1))


def nearest_taps(x: Expr) -> Taps:
    """The nearest grid point; halves go to the even one."""
    return Taps(manipulate.expand_dims(array.round(x), -1), array.ones_like(manipulate.expand_dims(x, -1)))


def cubic_taps(x: Expr) -> Taps:
    """Four grid points, weighted by cubic convolution (Keys 1981, equation 4) with parameter -0.75."""
    a = -0.75
    low: Expr = F["floor"](x)
    right = x - low
    weights: list[Expr] = []
    for distance in (right + 1, right, 1 - right, 2 - right):
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weights.append(near if 0 < len(weights) < 3 else far)
    return Taps(_following(low, range(-1, 3)), manipulate.stack(weights, -1))


def _following(low: Expr, steps: range) -> Expr:
    return manipulate.expand_dims(low, -1) + scalar(list(steps), low)


def zero_outside(taps: Taps, size: int) -> Taps:
    """Taps outside the axis count nothing."""
    inside = (taps.numbers >= 0) & (taps.numbers <= size - 1)
    return Taps(_limited(taps.numbers, size), array.where(inside, taps.weights, scalar(0, taps.weights)))


def ends_outside(taps: Taps, size: int) -> Taps:
    """Taps outside the axis are its ends."""
    return Taps(_limited(taps.numbers, size), taps.weights)


def _limited(numbers: Expr, size: int) -> Expr:
    """Within the axis; NaN becomes 0."""
    return array.where(numbers > 0, F["minimum"](numbers, size - 1), scalar(0, numbers))


def reflected(x: Expr, size: int, corners: bool) -> Expr:
    """Positions reflected at the first and last grid point, or half a step outside of them."""
    low, span = (0.0, size - 1) if corners else (-0.5, size)
    if span == 0:
        return array.zeros_like(x)
    distance = (x - low) % (2 * span)
    return array.where(distance > span, 2 * span - distance, distance) + low


def _combined(sizes: Sequence[int], taps: Sequence[Taps], dtype: DType) -> tuple[Expr, Expr]:
    """Row-major numbers and weights of all combinations of the axes' taps: (batch, place, combination)."""
    lead = taps[0].numbers.shape[:2]
    flat, weights = array.zeros((*lead, 1), INT64), array.ones((*lead, 1), dtype)
    for size, tap in zip(sizes, taps, strict=True):
        numbers, factors = tap.numbers.astype(INT64), tap.weights.astype(dtype)
        flat = _merged(manipulate.expand_dims(flat, 3) * size + manipulate.expand_dims(numbers, 2))
        weights = _merged(manipulate.expand_dims(weights, 3) * manipulate.expand_dims(factors, 2))
    return flat, weights


def _merged(x: Expr) -> Expr:
    """The last two axes as one."""
    return manipulate.reshape(x, (*x.shape[:2], dims.multiply(x.shape[2], x.shape[3])))


def sampled(x: Expr, taps: Sequence[Taps]) -> Expr:
    """x (batch, channel, grid...) at the places of each batch entry: (batch, channel, place)."""
    sizes = spatial_sizes(x)
    flat, weights = _combined(sizes, taps, x.dtype)
    batch, places, count = flat.shape
    values = manipulate.reshape(x, (*x.shape[:2], math.prod(sizes)))
    picks = manipulate.reshape(flat, (batch, 1, dims.multiply(places, count)))
    picked = manipulate.reshape(array.take_along_axis(values, picks, 2), (*x.shape[:2], places, count))
    return array.einsum("ncpk,npk->ncp", picked, weights)


@reads("GridSample")
def _grid_sample(call: Call) -> Expr:
    x, grid = call[0], call[1]
    sizes, corners = spatial_sizes(x), bool(call.attr("align_corners", 0))
    if grid.ndim != x.ndim or grid.shape[-1] != len(sizes):
        raise ShapeError(f"a grid {grid.node.type} does not fit {x.node.type}: it needs {len(sizes)} numbers a place")
    grid = grid.astype(np.promote_types(grid.dtype, "float32"))
    out = grid.shape[1:-1]
    taps = []
    for axis, size in enumerate(sizes):
        share = manipulate.reshape(grid[..., len(sizes) - 1 - axis], (grid.shape[0], element_count(out))) + 1
        places = share * ((size - 1) / 2) if corners else (share * size - 1) / 2
        taps.append(_padded(call, places, size, corners))
    values = sampled(x if x.dtype.kind == "f" else x.astype("float64"), taps)
    return manipulate.reshape(values, (*x.shape[:2], *out)).astype(x.dtype)


def _padded(call: Call, places: Expr, size: int, corners: bool) -> Taps:
    """The taps by the attributes mode and padding_mode."""
    mode = call.attr("mode", "linear")
    known = {"linear": linear_taps, "nearest": nearest_taps, "cubic": cubic_taps}
    known |= {"bilinear": linear_taps, "bicubic": cubic_taps}  # the names before operator set 20
    padding = call.attr("padding_mode", "zeros")
    if mode not in known or padding not in ("zeros", "border", "reflection"):
        raise AttributeValueError(f"GridSample has no mode {mode!r} with padding {padding!r}; export the model again")
    if padding == "zeros":
        return zero_outside(known[mode](places), size)
    if padding == "border":
        return ends_outside(known[mode](places), size)
    if known[mode] is not cubic_taps:
        return ends_outside(known[mode](reflected(places, size, corners)), size)
    taps = cubic_taps(places)
    return ends_outside(Taps(reflected(taps.numbers, size, corners), taps.weights), size)


@reads("DeformConv")
def _deform_conv(call: Call) -> Expr:
    """A convolution whose windows are sampled at positions moved by offsets (Zhu et al. 2019, equation 1)."""
    x, w, offset = call[0], call[1], call[2]
    groups, parts = int(call.attr("group", 1)), int(call.attr("offset_group", 1))
    g = geometry(call, x, kernel_sizes(call, w))
    rank, batch, channels = len(g.sizes), x.shape[0], x.shape[1]
    each, shared = dims.exact_quotient(channels, parts), dims.exact_quotient(channels, groups)
    made = dims.exact_quotient(w.shape[0], groups)
    if each is None or made is None or shared != w.shape[1] or offset.shape[2:] != g.outputs:
        raise ShapeError(f"kernels {w.node.type} and offsets {offset.node.type} do not fit {x.node.type}")
    taps, many = math.prod(g.kernel), dims.multiply(batch, parts)
    moved = manipulate.reshape(offset, (many, taps, rank, math.prod(g.outputs)))
    found = [zero_outside(linear_taps(_moved(moved, g, axis)), size) for axis, size in enumerate(g.sizes)]
    values = sampled(manipulate.reshape(x, (many, each, *g.sizes)), found)
    if call.has(4):
        mask = manipulate.reshape(call[4], (many, 1, values.shape[2]))
        values = values * mask
    rows = manipulate.reshape(values, (batch, groups, dims.multiply(shared, taps), math.prod(g.outputs)))
    kernels = manipulate.reshape(w, (groups, made, dims.multiply(shared, taps)))
    product = array.einsum("ngko,gmk->ngmo", rows, kernels)
    return add_bias(manipulate.reshape(product, (batch, w.shape[0], *g.outputs)), call.get(3))


def _moved(offset: Expr, g: Geometry, axis: int) -> Expr:
    """Where each tap of each window lies on an axis: (batch, tap * output)."""
    rank = len(g.sizes)
    own = (g.positions(axis) - g.before[axis]).T
    shape = [1] * (2 * rank)
    shape[axis], shape[rank + axis] = own.shape
    fixed = np.broadcast_to(own.reshape(shape), (*g.kernel, *g.outputs)).reshape(1, math.prod(g.kernel), -1)
    return manipulate.reshape(offset[:, :, axis, :] + scalar(fixed, offset), (offset.shape[0], fixed.size))


@reads("RoiAlign")
def _roi_align(call: Call) -> Expr:
    """The mean (or the largest weighted tap) of a grid of samples in each bin (He et al. 2017, section 3)."""
    x, rois, images = call[0], call[1], call[2]
    sizes, bins = spatial_sizes(x), (int(call.attr("output_height", 1)), int(call.attr("output_width", 1)))
    mode = call.attr("mode", "avg")
    if mode not in ("avg", "max") or len(sizes) != 2:
        raise AttributeValueError(f"RoiAlign pools images by avg or max, not {x.node.type} by {mode!r}")
    axes = [_bins(call, rois, axis, bins[axis], mode) for axis in range(2)]
    counts = [count for _, _, count in axes]
    shape = (rois.shape[0], bins[0], counts[0], bins[1], counts[1])
    taps = []
    for axis, (places, weight, _) in enumerate(axes):
        inside = (places >= -1) & (places <= sizes[axis])
        tap = ends_outside(linear_taps(array.clip(places, 0, sizes[axis] - 1)), sizes[axis])
        factor = manipulate.expand_dims(array.where(inside, weight, scalar(0, weight)), -1)
        taps.append(Taps(*[_crossed(value, axis, shape) for value in (tap.numbers, tap.weights * factor)]))
    flat, weights = _combined(sizes, taps, x.dtype)
    flat = flat + manipulate.reshape(images.astype(INT64), (-1, 1, 1)) * math.prod(sizes)
    rows = manipulate.reshape(manipulate.moveaxis(x, 1, -1), (element_count((x.shape[0], *sizes)), x.shape[1]))
    values = array.take(rows, flat, 0) * manipulate.expand_dims(weights, -1)
    spread = manipulate.reshape(values, (*shape, weights.shape[2], x.shape[1]))
    pooled = spread.sum((2, 4, 5)) if mode == "avg" else spread.max((2, 4, 5))
    return manipulate.moveaxis(pooled, -1, 1)


def _bins(call: Call, rois: Expr, axis: int, bins: int, mode: str) -> tuple[Expr, Expr, int]:
    """The samples on one axis: positions and weights (region, bin, sample), and how many samples a bin has."""
    old = call.opset < 16
    half = call.attr("coordinate_transformation_mode", "output_half_pixel" if old else "half_pixel") == "half_pixel"
    scale = float(call.attr("spatial_scale", 1.0))
    start, end = (rois[:, k] * scale - (0.5 if half else 0.0) for k in (1 - axis, 3 - axis))
    length = end - start if half else F["maximum"](end - start, 1.0)
    size = length / bins
    samples = int(call.attr("sampling_ratio", 0))
    own = array.full(rois.shape[:1], samples, rois.dtype) if samples > 0 else F["ceil"](size)
    if samples <= 0:
        samples = max(int(_largest(call, own)), 1)
    counts = manipulate.reshape(F["maximum"](own, 1.0), (-1, 1, 1))
    steps = scalar(np.arange(samples).reshape(1, 1, -1), rois)
    weight = (steps < manipulate.reshape(own, (-1, 1, 1))).astype(rois.dtype) / counts
    if mode == "max":  # bins with fewer samples repeat their last one
        steps, weight = F["minimum"](steps, counts - 1), array.ones_like(weight)
    first, wide = manipulate.reshape(start, (-1, 1, 1)), manipulate.reshape(size, (-1, 1, 1))
    places = first + (scalar(np.arange(bins).reshape(1, -1, 1), rois) + (steps + 0.5) / counts) * wide
    return places, manipulate.broadcast_to(weight, places.shape), samples


def _largest(call: Call, counts: Expr) -> float:
    """The largest number of samples; the regions must be known, since it decides a shape."""
    call.numbers(1)
    return float(evaluate(Graph({"out": counts}), {})["out"].max(initial=1))


def _crossed(x: Expr, axis: int, shape: Sequence[Dim]) -> Expr:
    """(region, bin, sample, tap) of one axis for all bins and samples of both: (region, place, tap)."""
    regions, tap = shape[0], x.shape[3]
    own = (regions, *x.shape[1:3], 1, 1, tap) if axis == 0 else (regions, 1, 1, *x.shape[1:3], tap)
    full = manipulate.broadcast_to(manipulate.reshape(x, own), (*shape, tap))
    return manipulate.reshape(full, (regions, element_count(tuple(shape[1:])), tap))
