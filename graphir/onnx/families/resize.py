"""Resize and Upsample: along each axis a fixed matrix of interpolation weights, or fixed positions for mode nearest.

The new sizes must be known when the model is read. An axis that keeps its size is left alone, so it may be a named one.
Where the standard's formulas need the length of the new axis, it is the exact scale times the old length, which may
be a fraction.
"""

from dataclasses import dataclass

import numpy as np

from graphir import array
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr
from graphir.node import Array
from graphir.onnx.call import Call, reads, scalar
from graphir.types import BOOL


@dataclass(frozen=True, slots=True)
class Target:
    """What becomes of one axis: old and new size, the exact scale, and the region of mode tf_crop_and_resize."""

    size: int
    new: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    def places(self, mode: str) -> Array:
        """Where each new element lies on the old axis, by the coordinate transformation mode."""
        k, length = np.arange(self.new, dtype=np.float64), self.scale * self.size
        match mode:
            case "half_pixel":
                return (k + 0.5) / self.scale - 0.5
            case "pytorch_half_pixel":
                return (k + 0.5) / self.scale - 0.5 if length > 1 else 0 * k
            case "half_pixel_symmetric":
                return self.size / 2 * (1 - self.new / length) + (k + 0.5) / self.scale - 0.5
            case "align_corners":
                return k * (self.size - 1) / (length - 1) if length != 1 else 0 * k
            case "asymmetric":
                return k / self.scale
            case "tf_crop_and_resize":
                share = k / (length - 1) if length > 1 else 0 * k + 0.5
                return (self.start + share * (self.end - self.start)) * (self.size - 1)
        raise AttributeValueError(f"Resize has no coordinate_transformation_mode {mode!r}; export the model again")


def nearest(places: Array, mode: str) -> Array:
    """The whole number that is nearest to each place."""
    match mode:
        case "round_prefer_floor":
            whole: Array = np.ceil(places - 0.5)
        case "round_prefer_ceil":
            whole = np.floor(places + 0.5)
        case "floor":
            whole = np.floor(places)
        case "ceil":
            whole = np.ceil(places)
        case _:
            raise AttributeValueError(f"Resize has no nearest_mode {mode!r}; export the model again")
    return whole.astype(np.int64)


def linear(x: Array) -> Array:
    """The hat function."""
    found: Array = np.maximum(1 - np.abs(x), 0)
    return found


def cubic(x: Array, a: float) -> Array:
    """Cubic convolution (Keys 1981, equation 4 with parameter a)."""
    d = np.abs(x)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def weights(call: Call, target: Target, places: Array) -> Array:
    """The matrix (new, old) of an axis; what lies outside repeats the ends, or is left out."""
    mode = call.attr("mode", "nearest")
    shrink = min(target.scale, 1.0) if call.attr("antialias", 0) else 1.0
    reach = (1 if mode == "linear" else 2) / shrink
    taps = np.floor(places)[:, None] + np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 2)
    distance = (taps - places[:, None]) * shrink
    values = linear(distance) if mode == "linear" else cubic(distance, call.attr("cubic_coeff_a", -0.75))
    if call.attr("exclude_outside", 0):
        values = np.where((taps < 0) | (taps >= target.size), 0, values)
    values = values / values.sum(axis=1, keepdims=True)
    matrix = np.zeros((target.new, target.size))
    rows = np.broadcast_to(np.arange(target.new)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, target.size - 1).astype(np.int64)), values)
    return matrix


def resized(call: Call, x: Expr, targets: dict[int, Target]) -> Expr:
    """x with some axes resized."""
    mode, transform = call.attr("mode", "nearest"), call.attr("coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear", "cubic"):
        raise AttributeValueError(f"Resize has the modes nearest, linear and cubic, not {mode!r}")
    outside: Expr | None = None
    dtype = x.dtype
    if mode != "nearest" and x.dtype.kind != "f":
        x = x.astype("float64")
    for axis, target in targets.items():
        places = target.places(transform)
        if mode == "nearest":
            chosen = nearest(places, call.attr("nearest_mode", "round_prefer_floor"))
            x = array.take(x, np.clip(chosen, 0, target.size - 1), axis)
        else:
            x = _along(x, weights(call, target, places), axis)
        if transform == "tf_crop_and_resize":
            beyond = ((places < 0) | (places > target.size - 1)).reshape(-1, *[1] * (x.ndim - 1 - axis))
            mask = array.constant(beyond, BOOL)
            outside = mask if outside is None else outside | mask
    result = x.astype(dtype)
    if outside is None:
        return result
    return array.where(outside, scalar(call.attr("extrapolation_value", 0.0), result), result)


def _along(x: Expr, matrix: Array, axis: int) -> Expr:
    """The product of a matrix and one axis."""
    letters = "abcdefghijklmnopqrstuvwxyz"[: x.ndim]
    return array.einsum(f"{letters},Z{letters[axis]}->{letters.replace(letters[axis], 'Z')}", x, scalar(matrix, x))


def _scaled(size: Dim, scale: float, axis: int) -> Target | None:
    """The target of an axis by its scale; None if it stays as it is."""
    if scale == 1.0:
        return None
    known = _known(size, axis)
    return Target(known, int(np.floor(known * scale)), scale)


def _known(size: Dim, axis: int) -> int:
    if isinstance(size, str):
        raise ShapeError(f"axis {axis} of named size {size!r} cannot be resized; fix its size in the model")
    return size


def _by_sizes(call: Call, x: Expr, axes: list[int]) -> dict[int, Target | None]:
    """Targets by the sizes that are asked for, or by the one scale that keeps the aspect ratio."""
    wanted, policy = call.dims(3), call.attr("keep_aspect_ratio_policy", "stretch")
    pairs = list(zip(axes, wanted, strict=True))
    if policy == "stretch":
        return {
            axis: None if new == x.shape[axis] else _exact(_known(x.shape[axis], axis), _known(new, axis))
            for axis, new in pairs
        }
    if policy not in ("not_larger", "not_smaller"):
        raise AttributeValueError(f"Resize has no keep_aspect_ratio_policy {policy!r}; export the model again")
    scales = [_known(new, axis) / _known(x.shape[axis], axis) for axis, new in pairs]
    scale = min(scales) if policy == "not_larger" else max(scales)
    sizes = {axis: _known(x.shape[axis], axis) for axis in axes}
    return {axis: Target(size, int(np.floor(scale * size + 0.5)), scale) for axis, size in sizes.items()}


def _exact(size: int, new: int) -> Target:
    return Target(size, new, new / size)


@reads("Resize")
def _resize(call: Call) -> Expr:
    x = call[0]
    if call.opset < 11:
        return _by_quotients(call)
    axes = [array.normal_axis(axis, x.ndim) for axis in call.attr("axes") or range(x.ndim)]
    if call.has(3) and (call.known(call[3]) is None or call.dims(3)):
        targets = _by_sizes(call, x, axes)
    else:
        scales = [float(s) for s in call.numbers(2).flat]
        targets = {axis: _scaled(x.shape[axis], s, axis) for axis, s in zip(axes, scales, strict=True)}
    if call.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        targets = _cropped(call, x, targets, axes)
    return resized(call, x, {axis: target for axis, target in targets.items() if target is not None})


def _cropped(call: Call, x: Expr, targets: dict[int, Target | None], axes: list[int]) -> dict[int, Target | None]:
    """Targets with the regions of the input roi; the whole of an axis that keeps its size is left alone."""
    roi = [float(v) for v in call.numbers(1).flat]
    found: dict[int, Target | None] = {}
    for axis, start, end in zip(axes, roi[: len(axes)], roi[len(axes) :], strict=True):
        target = targets[axis]
        if target is None and (start, end) != (0.0, 1.0):
            target = _exact(size := _known(x.shape[axis], axis), size)
        found[axis] = None if target is None else Target(target.size, target.new, target.scale, start, end)
    return found


@reads("Upsample")
def _upsample(call: Call) -> Expr:
    return _by_quotients(call)


def _by_quotients(call: Call) -> Expr:
    """Upsample and the Resize of operator set 10: coordinates are divided by the scale, and nearest rounds down."""
    x = call[0]
    if "height_scale" in call.attributes:
        scales = [1.0, 1.0, float(call.need("height_scale")), float(call.need("width_scale"))]
    else:
        scales = [float(s) for s in call.attributes.get("scales") or call.numbers(1).flat]
    mode = call.attr("mode", "nearest").replace("bilinear", "linear")
    old = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    targets = {axis: _scaled(x.shape[axis], scale, axis) for axis, scale in enumerate(scales)}
    same = Call(call.node, call.inputs, old, call.opset, call.reader)
    return resized(same, x, {axis: target for axis, target in targets.items() if target is not None})
