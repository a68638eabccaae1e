"""Picking by integer positions, and the adjoints, which add at positions. Negative positions count from the end."""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.dims import Dim
from graphir.errors import ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Op
from graphir.ops.rules import INTEGERS, NUMBERS, letters, need_axis, need_kind
from graphir.types import TensorType

LONG_SLICE = 64
"""Elements of a slice from which on slices are added one by one."""
_INDEX_HINT = "indices are integers; cast them"


def check_range(indices: Array, size: int) -> None:
    """ShapeError unless -size <= index < size for every index."""
    if indices.size and (indices.min() < -size or indices.max() >= size):
        bad = indices[(indices < -size) | (indices >= size)].flat[0]
        raise ShapeError(f"index {bad} is out of range for an axis of size {size}")


# ---- take: whole slices along one axis ----


def _infer_take(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    need_kind(indices, INTEGERS, _INDEX_HINT)
    need_axis(x, axis)
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _take_kernel(x: Array, indices: Array, *, axis: int) -> Array:
    check_range(indices, x.shape[axis])
    return np.take(x, indices, axis)


def _take_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names, axis, index = letters(types[0].rank), attrs["axis"], letters(types[1].rank, "i")
    out = (*names[:axis], *index, *names[axis + 1 :])
    return AxisRule((names, index), out, None, frozenset({names[axis]}))


take: Op = Op(
    "take",
    "Slices of x along one axis at integer positions; the positions' axes replace it.",
    arity=2,
    attrs={"axis": "int"},
    infer=_infer_take,
    kernel=_take_kernel,
    vjp=(
        lambda ct, out, x, indices, *, axis: scatter_add(ct, indices, axis=axis, size=x.type.shape[axis]),
        None,
    ),
    axes=_take_axes,
    examples=(
        Example((Sample((5, 3)), Sample((4,), "int64", -5, 5)), {"axis": 0}),
        Example((Sample((2, 5)), Sample((2, 3), "int32", 0, 5)), {"axis": 1}),
        Example((Sample((5,)), Sample((), "int64", 0, 5)), {"axis": 0}),
    ),
)


def _infer_scatter(updates: TensorType, indices: TensorType, *, axis: int, size: Dim) -> TensorType:
    need_kind(updates, NUMBERS)
    need_kind(indices, INTEGERS, _INDEX_HINT)
    if updates.shape[axis : axis + indices.rank] != indices.shape:
        raise ShapeError(f"updates {updates} must have the shape of the indices {indices} from axis {axis} on")
    return updates.with_shape((*updates.shape[:axis], size, *updates.shape[axis + indices.rank :]))


def _scatter_kernel(updates: Array, indices: Array, *, axis: int, size: int) -> Array:
    check_range(indices, size)
    out = np.zeros((*updates.shape[:axis], size, *updates.shape[axis + indices.ndim :]), updates.dtype)
    before: Any = (slice(None),) * axis
    if updates.size >= LONG_SLICE * indices.size:  # as np.add.at does it, in its order, but slice by slice
        for place in np.ndindex(indices.shape):
            out[(*before, int(indices[place]))] += updates[(*before, *place)]
    else:
        np.add.at(out, (*before, indices), updates)
    return out


def _scatter_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    axis, index = attrs["axis"], letters(types[1].rank, "i")
    rest = letters(types[0].rank - len(index))
    left, right = rest[:axis], rest[axis:]
    return AxisRule(((*left, *index, *right), index), (*left, "v", *right), "sum", frozenset({"v"}))


scatter_add: Op = Op(
    "scatter_add",
    "Zeros with slices added at integer positions of one axis: the adjoint of take.",
    arity=2,
    attrs={"axis": "int", "size": "dim"},
    infer=_infer_scatter,
    kernel=_scatter_kernel,
    vjp=(lambda ct, out, updates, indices, *, axis, size: take(ct, indices, axis=axis), None),
    axes=_scatter_axes,
    examples=(
        Example((Sample((4, 3)), Sample((4,), "int64", 0, 5)), {"axis": 0, "size": 5}),
        Example((Sample((2, 4)), Sample((4,), "int64", 0, 3)), {"axis": 1, "size": 3}),
    ),
)

# ---- take_along_axis: one position for each element ----


def _along_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names, axis = letters(types[0].rank), attrs["axis"]
    picked = (*names[:axis], "i", *names[axis + 1 :])
    return AxisRule((names, picked), picked, None, frozenset({names[axis]}))


def _infer_along(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    need_kind(indices, INTEGERS, _INDEX_HINT)
    need_axis(x, axis)
    if (
        indices.rank != x.rank
        or indices.shape[:axis] + indices.shape[axis + 1 :] != x.shape[:axis] + x.shape[axis + 1 :]
    ):
        raise ShapeError(f"indices {indices} must have the shape of {x} but for axis {axis}")
    return x.with_shape(indices.shape)


def _along_kernel(x: Array, indices: Array, *, axis: int) -> Array:
    check_range(indices, x.shape[axis])
    return np.take_along_axis(x, indices, axis)


take_along_axis: Op = Op(
    "take_along_axis",
    "For each element of the indices, the element of x at that position of one axis.",
    arity=2,
    attrs={"axis": "int"},
    infer=_infer_along,
    kernel=_along_kernel,
    vjp=(
        lambda ct, out, x, indices, *, axis: scatter_add_along_axis(ct, indices, axis=axis, size=x.type.shape[axis]),
        None,
    ),
    axes=_along_axes,
    examples=(
        Example((Sample((3, 5)), Sample((3, 2), "int64", -5, 5)), {"axis": 1}),
        Example((Sample((4, 2)), Sample((1, 2), "int64", 0, 4)), {"axis": 0}),
    ),
)


def _infer_scatter_along(updates: TensorType, indices: TensorType, *, axis: int, size: Dim) -> TensorType:
    need_kind(updates, NUMBERS)
    need_kind(indices, INTEGERS, _INDEX_HINT)
    need_axis(updates, axis)
    if updates.shape != indices.shape:
        raise ShapeError(f"updates {updates} and indices {indices} must have one shape")
    return updates.with_shape((*updates.shape[:axis], size, *updates.shape[axis + 1 :]))


def _scatter_along_kernel(updates: Array, indices: Array, *, axis: int, size: int) -> Array:
    check_range(indices, size)
    out = np.zeros((*updates.shape[:axis], size, *updates.shape[axis + 1 :]), updates.dtype)
    where = [
        np.arange(n).reshape([-1 if k == axis_ else 1 for k in range(indices.ndim)])
        for axis_, n in enumerate(indices.shape)
    ]
    where[axis] = indices
    np.add.at(out, tuple(where), updates)
    return out


def _scatter_along_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names, axis = letters(types[0].rank), attrs["axis"]
    out = (*names[:axis], "v", *names[axis + 1 :])
    return AxisRule((names, names), out, "sum", frozenset({"v"}))


scatter_add_along_axis: Op = Op(
    "scatter_add_along_axis",
    "Zeros with each element added at its position of one axis: the adjoint of take_along_axis.",
    arity=2,
    attrs={"axis": "int", "size": "dim"},
    infer=_infer_scatter_along,
    kernel=_scatter_along_kernel,
    vjp=(lambda ct, out, updates, indices, *, axis, size: take_along_axis(ct, indices, axis=axis), None),
    axes=_scatter_along_axes,
    examples=(
        Example((Sample((3, 2)), Sample((3, 2), "int64", 0, 5)), {"axis": 1, "size": 5}),
        Example((Sample((3, 2)), Sample((3, 2), "int64", 0, 4)), {"axis": 0, "size": 4}),
    ),
)
