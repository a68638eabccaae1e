"""Picking elements by one index array for each of several axes, and the adjoint, which adds at those positions.

The index arrays have one shape; its axes come first in what is picked. Negative positions count from the end, and
a position out of range is an error, as everywhere. `take` in `graphir.ops.indexing` is the case of one axis.
"""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op
from graphir.ops.indexing import check_range
from graphir.ops.rules import INTEGERS, NUMBERS, letters, need_axis, need_kind, need_same
from graphir.types import Shape, TensorType


def _parts(types: tuple[TensorType, ...], axes: tuple[int, ...]) -> tuple[TensorType, Shape]:
    """The value and the index arrays' one shape; typed errors unless these are alike and one for each axis."""
    if not axes or list(axes) != sorted(set(axes)) or len(types) != len(axes) + 1:
        raise AttributeValueError(
            f"needs a value, increasing axes and an index array for each; got {axes} and {len(types)} inputs"
        )
    indices = types[1:]
    for index in indices:
        need_kind(index, INTEGERS, "indices are integers; cast them")
    need_same(indices)
    return types[0], indices[0].shape


def _without(shape: tuple[Any, ...], axes: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(d for axis, d in enumerate(shape) if axis not in axes)


def _infer_take_at(*types: TensorType, axes: tuple[int, ...]) -> TensorType:
    x, picked = _parts(types, axes)
    for axis in axes:
        need_axis(x, axis)
    return x.with_shape((*picked, *_without(x.shape, axes)))


def _front(x: Array, axes: tuple[int, ...]) -> Array:
    return np.moveaxis(x, axes, range(len(axes)))


def _take_at_kernel(x: Array, *indices: Array, axes: tuple[int, ...]) -> Array:
    for index, axis in zip(indices, axes, strict=True):
        check_range(index, x.shape[axis])
    return np.asarray(_front(x, axes)[indices])


def _take_at_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names, index, axes = letters(types[0].rank), letters(types[1].rank, "i"), attrs["axes"]
    output = (*index, *_without(names, axes))
    return AxisRule((names, *[index] * len(axes)), output, None, frozenset(names[axis] for axis in axes))


def _take_at_vjp(position: int, ct: Node, out: Node, x: Node, *indices: Node, axes: tuple[int, ...]) -> Node | None:
    if position:
        return None
    return scatter_add_at(ct, *indices, axes=axes, sizes=tuple(x.type.shape[axis] for axis in axes))


take_at: Op = Op(
    "take_at",
    "The elements of x at positions given by one index array for each of `axes`; the positions' axes come first.",
    arity=None,
    attrs={"axes": "ints"},
    infer=_infer_take_at,
    kernel=_take_at_kernel,
    vjp=_take_at_vjp,
    axes=_take_at_axes,
    examples=(
        Example((Sample((3, 4)), Sample((5,), "int64", -3, 3), Sample((5,), "int64", -4, 4)), {"axes": (0, 1)}),
        Example((Sample((3, 2, 4)), Sample((2, 2), "int32", 0, 3), Sample((2, 2), "int32", 0, 4)), {"axes": (0, 2)}),
        Example((Sample((2, 4)), Sample((), "int64", 0, 4)), {"axes": (1,)}),
    ),
)


def _infer_scatter_at(*types: TensorType, axes: tuple[int, ...], sizes: tuple[Dim, ...]) -> TensorType:
    updates, picked = _parts(types, axes)
    need_kind(updates, NUMBERS)
    if updates.shape[: len(picked)] != picked or len(sizes) != len(axes):
        raise ShapeError(f"updates {updates} must begin with the axes of the indices {types[1]}, one size an axis")
    shape = list(updates.shape[len(picked) :])
    if axes[0] < 0 or axes[-1] >= len(shape) + len(axes):
        raise ShapeError(f"axes {axes} are out of range for a value with {len(shape) + len(axes)} axes")
    for axis, size in zip(axes, sizes, strict=True):
        shape.insert(axis, size)
    return updates.with_shape(tuple(shape))


def _scatter_at_kernel(updates: Array, *indices: Array, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Array:
    for index, size in zip(indices, sizes, strict=True):
        check_range(index, size)
    out = np.zeros((*sizes, *updates.shape[indices[0].ndim :]), updates.dtype)
    np.add.at(out, indices, updates)
    return np.moveaxis(out, range(len(axes)), axes)


def _scatter_at_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    axes, index = attrs["axes"], letters(types[1].rank, "i")
    rest = letters(types[0].rank - len(index))
    output = list(rest)
    for axis in axes:
        output.insert(axis, f"v{axis}")
    whole = frozenset(f"v{axis}" for axis in axes)
    return AxisRule(((*index, *rest), *[index] * len(axes)), tuple(output), "sum", whole)


def _scatter_at_vjp(
    position: int, ct: Node, out: Node, updates: Node, *indices: Node, axes: tuple[int, ...], sizes: tuple[Dim, ...]
) -> Node | None:
    return None if position else take_at(ct, *indices, axes=axes)


scatter_add_at: Op = Op(
    "scatter_add_at",
    "Zeros of `sizes` along `axes` with elements added at positions: the adjoint of take_at.",
    arity=None,
    attrs={"axes": "ints", "sizes": "dims"},
    infer=_infer_scatter_at,
    kernel=_scatter_at_kernel,
    vjp=_scatter_at_vjp,
    axes=_scatter_at_axes,
    examples=(
        Example(
            (Sample((5,)), Sample((5,), "int64", -3, 3), Sample((5,), "int64", 0, 4)), {"axes": (0, 1), "sizes": (3, 4)}
        ),
        Example(
            (Sample((2, 2, 3)), Sample((2, 2), "int32", 0, 3), Sample((2, 2), "int32", 0, 4)),
            {"axes": (0, 2), "sizes": (3, 4)},
        ),
    ),
)
