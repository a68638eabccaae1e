"""Picking and writing by positions: Gather, Scatter, OneHot, Compress and their kin."""

import numpy as np

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.errors import AttributeValueError, FormatError, ShapeError
from graphir.expr import Expr
from graphir.onnx.call import Call, F, axis_of, reads
from graphir.onnx.families.slicing import cut
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

    def add(values: Expr) -> Expr:
        return Expr(indexing.scatter_add_along_axis(values.node, indices.node, axis=axis, size=size))

    return _combined(x, updates, add, call.attr("reduction", "none"))


def add_at(values: Expr, places: Expr, axis: int, size: Dim) -> Expr:
    """Zeros of `size` along an axis with slices added at positions."""
    return Expr(indexing.scatter_add(values.node, places.node, axis=axis, size=size))


def _write(x: Expr, places: Expr, updates: Expr, axis: int, reduction: str) -> Expr:
    """Slices written at positions of one axis."""

    def add(values: Expr) -> Expr:
        return add_at(values, places, axis, x.shape[axis])

    return _combined(x, updates, add, reduction)


def _combined(x: Expr, updates: Expr, add: "object", reduction: str) -> Expr:
    """Updates joined with what is there; without a reduction positions must be distinct, as the standard demands."""
    if not callable(add):
        raise TypeError("add is a function")
    if reduction == "add":
        total: Expr = x + add(updates)
        return total
    if reduction != "none":
        raise AttributeValueError(f"scattering with reduction {reduction!r} is not supported; use none or add")
    if x.dtype.kind == "b":
        written: Expr = add(updates.astype(INT64)) > 0
    else:
        written = add(updates)
    touched = add(array.ones_like(updates, INT64)) > 0
    return array.where(touched, written, x)


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


@reads("CumSum")
def _cum_sum(call: Call) -> Expr:
    """A product with a triangle of ones."""
    x = call[0]
    axis = array.normal_axis(int(call.numbers(1).reshape(())), x.ndim)
    places = array.arange(str(x.shape[axis]))
    i, j = manipulate.expand_dims(places, 0), manipulate.expand_dims(places, 1)
    before = i > j if call.attr("reverse", 0) else i < j
    mask = (before if call.attr("exclusive", 0) else before | (i == j)).astype(x.dtype)
    moved = manipulate.moveaxis(x, axis, x.ndim - 1)
    return manipulate.moveaxis(array.matmul(moved, mask.T), x.ndim - 1, axis)
