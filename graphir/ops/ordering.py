"""Sorting along one axis, and places in a sorted vector. Always stable; a NaN counts as greater than every number."""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op
from graphir.ops.indexing import scatter_add_along_axis
from graphir.ops.rules import ALL, letters, need_axis, need_kind
from graphir.ops.scans import along_axes
from graphir.types import INT64, TensorType

# ---- sort ----


def _infer_sort(x: TensorType, *, axis: int, descending: bool) -> TensorType:
    need_kind(x, ALL)
    need_axis(x, axis)
    return x


def _sort_kernel(x: Array, *, axis: int, descending: bool) -> Array:
    if not descending:
        return np.sort(x, axis, kind="stable")
    return np.flip(np.sort(np.flip(x, axis), axis, kind="stable"), axis)


def _argsort_kernel(x: Array, *, axis: int, descending: bool) -> Array:
    if not descending:
        return np.asarray(np.argsort(x, axis, kind="stable"), np.int64)
    last = x.shape[axis] - 1
    return np.asarray(last - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis), np.int64)


def _sort_vjp(ct: Node, out: Node, x: Node, *, axis: int, descending: bool) -> Node:
    order = argsort(x, axis=axis, descending=descending)
    return scatter_add_along_axis(ct, order, axis=axis, size=x.type.shape[axis])


_EXAMPLES = (
    Example((Sample((3, 4)),), {"axis": 1, "descending": False}),
    Example((Sample((5, 2)),), {"axis": 0, "descending": True}),
    Example((Sample((2, 0), "float32"),), {"axis": 1, "descending": True}),
    Example((Sample((8,), "int32", 0, 3),), {"axis": 0, "descending": True}),
)

sort: Op = Op(
    "sort",
    "The elements in order along one axis.",
    arity=1,
    attrs={"axis": "int", "descending": "bool"},
    infer=_infer_sort,
    kernel=_sort_kernel,
    vjp=(_sort_vjp,),
    axes=along_axes,
    examples=_EXAMPLES,
    cost=10,
)
argsort: Op = Op(
    "argsort",
    "The positions of the elements in order along one axis; equal elements keep the order of their positions.",
    arity=1,
    attrs={"axis": "int", "descending": "bool"},
    infer=lambda x, *, axis, descending: _infer_sort(x, axis=axis, descending=descending).with_dtype(INT64),
    kernel=_argsort_kernel,
    vjp="a position: it carries no derivative",
    axes=along_axes,
    examples=_EXAMPLES,
    cost=10,
)

# ---- searchsorted ----


def _infer_search(ordered: TensorType, values: TensorType, *, side: str) -> TensorType:
    need_kind(ordered, ALL)
    if side not in ("left", "right"):
        raise AttributeValueError(f"side is 'left' or 'right', not {side!r}")
    if ordered.rank != 1:
        raise ShapeError(f"needs a vector to search in, not {ordered}; search the rows one by one")
    if ordered.dtype != values.dtype:
        raise DTypeError(f"dtypes differ: {ordered} and {values}; cast one of them")
    return values.with_dtype(INT64)


def _search_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    """How many elements come before a value is a sum over pieces of the ordered vector."""
    names = letters(types[1].rank)
    return AxisRule((("s",), names), names, "sum")


searchsorted: Op = Op(
    "searchsorted",
    "For each value how many elements of an ascending vector are less ('left'), or less or equal ('right').",
    arity=2,
    attrs={"side": "str"},
    infer=_infer_search,
    kernel=lambda ordered, values, *, side: np.asarray(np.searchsorted(ordered, values, side), np.int64),
    vjp="a position: it carries no derivative",
    axes=_search_axes,
    # the ranges are such that what is drawn for the first inputs is in order
    examples=(
        Example((Sample((4,), "float64", -1, 2.7), Sample((3, 4))), {"side": "left"}),
        Example((Sample((4,), "int32", 0, 33), Sample((6,), "int32", 0, 5)), {"side": "right"}),
    ),
    cost=10,
)
