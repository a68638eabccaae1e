"""Picking and writing by positions: Gather, Scatter, OneHot, Compress and their kin."""

from collections.abc import Callable

import numpy as np

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.errors import AttributeValueError, FormatError, ShapeError
from graphir.expr import Expr
from graphir.nn.windows import cut
from graphir.onnx.call import Call, F, axis_of, reads
from graphir.ops import indexing
from graphir.products import element_count
from graphir.types import INT64


@reads("Gather")
def _gather(call: Call) -> Expr:
    return array.take(call[0], call[1], axis_of(call, 0, call[0].ndim))


@reads("GatherElements")
def _gather_elements(call: Call) -> Expr:
    """Axes other than the one gathered along may be shorter in the positions."""
    x, indices = call[0], call[1]
    axis = axis_of(call, 0, x.ndim)
    return Expr(indexing.take_along_axis(_fitted(x, indices, axis).node, indices.node, axis=axis))


def _fitted(x: Expr, indices: Expr, axis: int) -> Expr:
    for other, d in enumerate(indices.shape):
        if other != axis and d != x.shape[other]:
            x = cut(x, other, 0, d)
    return x


def _flat_positions(indices: Expr, shape: tuple[Dim, ...]) -> Expr:
    """Row-major positions in `shape` from its coordinates along the last axis; negative ones count from the end."""
    last = indices.shape[-1]
    total: Expr | None = None
    for k in range(int(last)):
        place = manipulate.reshape(_at(indices, k), indices.shape[:-1]).astype(INT64)
        size = array.constant(shape[k], INT64) if isinstance(shape[k], int) else array.size(str(shape[k]))
        place = F["where"](place < 0, place + size, place)
        total = place if total is None else total * size + place
    if total is None:
        raise ShapeError("positions need at least one coordinate")
    return total


def _at(x: Expr, k: int) -> Expr:
    return x[..., k : k + 1]


@reads("GatherND")
def _gather_nd(call: Call) -> Expr:
    x, indices = call[0], call[1]
    batch = int(call.attr("batch_dims", 0))
    depth = indices.shape[-1]
    if not isinstance(depth, int) or batch + depth > x.ndim:
        raise ShapeError(f"positions {indices.node.type} do not fit {x.node.type} with {batch} batch axes")
    inner, rest = x.shape[batch : batch + depth], x.shape[batch + depth :]
    flat = manipulate.reshape(x, (*x.shape[:batch], element_count(inner), *rest))
    places = _flat_positions(indices, inner)
    if batch == 0:
        return array.take(flat, places, 0)
    count, lead = element_count(x.shape[:batch]), x.shape[:batch]
    rows = manipulate.reshape(flat, (dims.multiply(count, element_count(inner)), *rest))
    own = element_count(places.shape[batch:])
    table = manipulate.reshape(places, (count, own))
    offset = manipulate.expand_dims(array.arange(str(count)), 1) * _number(element_count(inner))
    return manipulate.reshape(array.take(rows, table + offset, 0), (*lead, *places.shape[batch:], *rest))


def _number(d: Dim) -> Expr:
    return array.constant(d, INT64) if isinstance(d, int) else array.size(d)


@reads("ScatterND")
def _scatter_nd(call: Call) -> Expr:
    x, indices, updates = call[0], call[1], call[2]
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        raise ShapeError("the number of coordinates must be known")
    inner, rest = x.shape[:depth], x.shape[depth:]
    places = manipulate.reshape(_flat_positions(indices, inner), (element_count(indices.shape[:-1]),))
    data = manipulate.reshape(x, (element_count(inner), *rest))
    new = manipulate.reshape(updates, (places.shape[0], *rest))
    return manipulate.reshape(_write(data, places, new, 0, call.attr("reduction", "none")), x.shape)


@reads("Scatter", "ScatterElements")
def _scatter_elements(call: Call) -> Expr:
    x, indices, updates = call[0], call[1], call[2]
    axis = axis_of(call, 0, x.ndim)
    if any(a != b for k, (a, b) in enumerate(zip(x.shape, indices.shape, strict=True)) if k != axis):
        raise ShapeError(f"positions {indices.node.type} must have the shape of {x.node.type} but for axis {axis}")
    size = x.shape[axis]

    reduction = call.attr("reduction", "none")
    if reduction not in ("none", "add"):
        return _joined(x, indices, updates, axis, reduction)

    def add(values: Expr) -> Expr:
        return Expr(indexing.scatter_add_along_axis(values.node, indices.node, axis=axis, size=size))

    return x + add(updates) if reduction == "add" else _combined(x, updates, add)


def add_at(values: Expr, places: Expr, axis: int, size: Dim) -> Expr:
    """Zeros of `size` along an axis with slices added at positions."""
    return Expr(indexing.scatter_add(values.node, places.node, axis=axis, size=size))


def _write(x: Expr, places: Expr, updates: Expr, axis: int, reduction: str) -> Expr:
    """Slices written at positions of one axis."""

    def add(values: Expr) -> Expr:
        return add_at(values, places, axis, x.shape[axis])

    if reduction in ("none", "add"):
        return x + add(updates) if reduction == "add" else _combined(x, updates, add)
    spread = manipulate.reshape(places, (*[1] * axis, places.shape[0], *[1] * (x.ndim - axis - 1)))
    return _joined(x, manipulate.broadcast_to(spread, updates.shape), updates, axis, reduction)


def _combined(x: Expr, updates: Expr, add: Callable[[Expr], Expr]) -> Expr:
    """Updates in place of what is there; positions must be distinct, as the standard demands."""
    written = add(updates.astype(INT64)) > 0 if x.dtype.kind == "b" else add(updates)
    touched = add(array.ones_like(updates, INT64)) > 0
    return array.where(touched, written, x)


_JOIN = {"max": ("max", "maximum"), "min": ("min", "minimum"), "mul": ("prod", "multiply")}


def _joined(x: Expr, places: Expr, updates: Expr, axis: int, reduction: str) -> Expr:
    """x joined with the reduction over all updates of each position: a mask over (position, update) finds them."""
    if reduction not in _JOIN:
        raise AttributeValueError(f"scattering has no reduction {reduction!r}; use none, add, mul, max or min")
    reduce, join = _JOIN[reduction]
    last = x.ndim - 1
    size = _number(x.shape[axis])
    placed = manipulate.moveaxis(F["where"](places < 0, places.astype(INT64) + size, places.astype(INT64)), axis, last)
    new = manipulate.expand_dims(manipulate.moveaxis(updates, axis, last), last)
    mine = manipulate.expand_dims(placed, last) == manipulate.expand_dims(array.arange(str(x.shape[axis])), 1)
    neutral = 1 if reduction == "mul" else _extreme(x, largest=reduction == "min")
    found = F[reduce](array.where(mine, new, array.constant(neutral, x.dtype)), -1)
    return F[join](x, manipulate.moveaxis(found.astype(x.dtype), last, axis))


def _extreme(x: Expr, largest: bool) -> float | int:
    if x.dtype.kind == "f":
        return float("inf") if largest else float("-inf")
    info = np.iinfo(x.dtype)
    return int(info.max if largest else info.min)


@reads("OneHot")
def _one_hot(call: Call) -> Expr:
    indices, values = call[0], call[2]
    depth = call.dims(1)[0]
    axis = array.normal_axis(call.attr("axis", -1), indices.ndim + 1)
    positions = indices.astype(INT64)
    size = _number(depth)
    positions = F["where"](positions < 0, positions + size, positions)
    counted = manipulate.reshape(array.arange(str(depth)), [-1 if k == axis else 1 for k in range(indices.ndim + 1)])
    return array.where(manipulate.expand_dims(positions, axis) == counted, values[1], values[0])


@reads("Compress")
def _compress(call: Call) -> Expr:
    x = call[0]
    places = np.flatnonzero(call.numbers(1))
    if "axis" not in call.attributes:
        return array.take(manipulate.reshape(x, (-1,)), places, 0)
    return array.take(x, places, axis_of(call, 0, x.ndim))


@reads("NonZero")
def _non_zero(call: Call) -> Expr:
    return array.constant(np.array(np.nonzero(call.numbers(0)), INT64))


@reads("ReverseSequence")
def _reverse_sequence(call: Call) -> Expr:
    """Position t of a sequence of length l becomes l - 1 - t where t < l."""
    x, lengths = call[0], call[1]
    time, batch = call.attr("time_axis", 0), call.attr("batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise FormatError("ReverseSequence has the axes 0 and 1; export the model again")
    steps = manipulate.expand_dims(array.arange(str(x.shape[time])), batch)
    length = manipulate.expand_dims(lengths, time)
    places = array.where(steps < length, length - 1 - steps, steps)
    tail = manipulate.reshape(places, (*places.shape, *[1] * (x.ndim - 2)))
    return array.take_along_axis(x, tail, time)
