"""numpy's functions of shapes and places: stacking, splitting, diagonals."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from graphir import arrange, array, linalg, manipulate, products
from graphir.array import constant, normal_axis, where
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import NUMPY, Expr, as_expr
from graphir.origin import located


def known(x: Expr, axis: int, what: str) -> int:
    """The size of an axis as a number."""
    count = x.shape[axis]
    if not isinstance(count, int):
        raise ShapeError(f"{what} needs the size of axis {axis} of {x.node.type} to be a number")
    return count


# ---- what a value is ----


def shape(a: Any) -> tuple[Dim, ...]:
    """The dimensions."""
    return as_expr(a).shape


def ndim(a: Any) -> int:
    """The number of axes."""
    return as_expr(a).ndim


def size(a: Any, axis: int | None = None) -> Dim:
    """The number of elements, or the length of an axis; a text where it is symbolic."""
    dimensions = as_expr(a).shape
    return products.element_count(dimensions if axis is None else (dimensions[normal_axis(axis, len(dimensions))],))


# ---- layout ----


@located
def ravel(a: Any, order: str = "C") -> Expr:
    """The elements in one axis, the last axis fastest."""
    if order != "C":
        raise AttributeValueError(f"order is 'C', not {order!r}; values have no order in memory here")
    return manipulate.reshape(a, (-1,))


@located
def copy(a: Any, order: Any = None, subok: bool = True) -> Expr:
    """The value itself: expressions never change."""
    return as_expr(a)


@located
def squeeze(a: Any, axis: Any = None) -> Expr:
    """a without the axes of size 1, or without those named."""
    value = as_expr(a)
    return manipulate.squeeze(value, tuple(k for k, d in enumerate(value.shape) if d == 1) if axis is None else axis)


@located
def swapaxes(a: Any, axis1: int, axis2: int) -> Expr:
    """Two axes exchanged."""
    value = as_expr(a)
    axes = list(range(value.ndim))
    first, second = normal_axis(axis1, value.ndim), normal_axis(axis2, value.ndim)
    axes[first], axes[second] = second, first
    return manipulate.permute_dims(value, axes)


def _at_least(rank: int) -> Callable[..., Any]:
    @located
    def grow(*arrays: Any) -> Any:
        grown = tuple(_grown(as_expr(a), rank) for a in arrays)
        return grown[0] if len(grown) == 1 else grown

    return grow


def _grown(x: Expr, rank: int) -> Expr:
    """New axes in front; of three the last one comes at the end, as in numpy."""
    if x.ndim >= rank:
        return x
    if rank == 3 and x.ndim:
        return manipulate.expand_dims(x if x.ndim == 2 else manipulate.expand_dims(x, 0), 2)
    return manipulate.reshape(x, (1,) * (rank - x.ndim) + tuple(x.shape))


def _stacked(rank: int, axis: int) -> Callable[..., Expr]:
    @located
    def stack(tup: Sequence[Any], *, dtype: Any = None, casting: str = "same_kind") -> Expr:
        values = [_grown(as_expr(a), rank) for a in tup]
        along = 0 if axis == 1 and values and values[0].ndim == 1 else axis
        joined = manipulate.concat(values, along)
        return joined if dtype is None else array.astype(joined, dtype)

    return stack


@located
def column_stack(tup: Sequence[Any]) -> Expr:
    """Vectors as the columns of a matrix; matrices side by side."""
    values = [as_expr(a) for a in tup]
    return manipulate.concat([manipulate.expand_dims(v, 1) if v.ndim == 1 else _grown(v, 2) for v in values], 1)


@located
def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Expr]:
    """Parts along an axis: at positions, or so many of sizes as equal as can be."""
    value = as_expr(ary)
    at = normal_axis(axis, value.ndim)
    count = known(value, at, "a split")
    borders = indices_or_sections
    if isinstance(borders, int):
        if borders < 1:
            raise AttributeValueError(f"a split makes one part or more, not {borders}")
        least, more = divmod(count, borders)
        borders = [k * least + min(k, more) for k in range(1, borders)]
    edges = [0, *borders, count]
    before = (slice(None),) * at
    return [value[(*before, slice(*pair))] for pair in pairwise(edges)]


@located
def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Expr]:
    """Parts along an axis: at positions, or so many of one size."""
    value = as_expr(ary)
    at = normal_axis(axis, value.ndim)
    if isinstance(indices_or_sections, int) and known(value, at, "a split") % indices_or_sections:
        raise ShapeError(f"axis {at} of {value.node.type} has no {indices_or_sections} equal parts; use np.array_split")
    return array_split(value, indices_or_sections, at)


@located
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Expr:
    """The diagonal in the planes of two axes, as a new last axis."""
    return linalg.diagonal(manipulate.moveaxis(a, (axis1, axis2), (-2, -1)), offset=offset)


@located
def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Expr:
    """The sum of the diagonal in the planes of two axes."""
    return array.sum(diagonal(a, offset, axis1, axis2), axis=-1, dtype=dtype)


@located
def diag(v: Any, k: int = 0) -> Expr:
    """The k-th diagonal of a matrix, or the matrix with that diagonal and 0 elsewhere."""
    value = as_expr(v)
    if value.ndim == 2:
        return diagonal(value, k)
    if value.ndim != 1:
        raise ShapeError(f"diag needs a vector or a matrix, not {value.node.type}")
    longer = arrange.pad(value, (0, abs(k)))  # element j is for column j, or with k > 0 for row j
    if k > 0:
        longer = manipulate.expand_dims(longer, 1)
    count = longer.shape[0]
    return where(array.eye(count, k=k, dtype="bool"), longer, constant(0, value.dtype))


# ---- order ----


@located
def sort(x: Any, axis: int | None = -1, kind: Any = None, *, stable: bool | None = None) -> Expr:
    """The elements in rising order along an axis; every kind is served by the stable one."""
    return arrange.sort(x, axis)


@located
def argsort(x: Any, axis: int | None = -1, kind: Any = None, *, stable: bool | None = None) -> Expr:
    """The positions that bring the elements into rising order; every kind is served by the stable one."""
    return arrange.argsort(x, axis)


@located
def cumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Expr:
    """The running sum along an axis, or of the flattened value."""
    return arrange.cumulative_sum(x if axis is not None else ravel(x), axis, dtype=dtype)


@located
def cumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Expr:
    """The running product along an axis, or of the flattened value."""
    return arrange.cumulative_prod(x if axis is not None else ravel(x), axis, dtype=dtype)


NUMPY |= {
    function.__name__: function
    for function in (
        shape, ndim, size, ravel, copy, squeeze, swapaxes, column_stack, array_split, split, diagonal, trace, diag,
        sort, argsort, cumsum, cumprod,
    )
}  # fmt: skip
NUMPY |= {f"atleast_{rank}d": _at_least(rank) for rank in (1, 2, 3)}
NUMPY |= {"vstack": _stacked(2, 0), "hstack": _stacked(1, 1), "dstack": _stacked(3, 2)}
NUMPY |= {"flipud": lambda m: manipulate.flip(m, 0), "fliplr": lambda m: manipulate.flip(m, 1)}
