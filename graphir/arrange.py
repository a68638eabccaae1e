"""Functions that lay out, count, accumulate and order elements: what the Array API (2024.12) has beyond the rest.

Each is built from ops, so derivatives and axis rules come by themselves. Sizes may be named unless a function says
otherwise. Sorting is always stable, and a NaN counts as greater than every number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphir import array, dims
from graphir.array import accumulator, constant, full, normal_axis, where, zeros, zeros_like
from graphir.dims import Dim
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import FUNCTIONS, Expr, as_expr, broadcast_to, cast, match_dtypes, unary
from graphir.manipulate import concat, expand_dims, reshape
from graphir.node import Op
from graphir.ops import indexing, layout, ordering, scans, select
from graphir.ops.sources import iota, size
from graphir.origin import located
from graphir.types import BOOL, Shape, as_dtype

# ---- creation ----


@located
def asarray(value: Any, /, *, dtype: Any = None) -> Expr:
    """An expression from a number, an array or an expression."""
    made = as_expr(value) if type(value) is Expr or dtype is None else constant(value, dtype)
    return made if dtype is None else cast(made, as_dtype(dtype))


@located
def empty(shape: Any, dtype: Any = "float64") -> Expr:
    """A value for whose elements nothing is promised; here they are 0, so that evaluation is deterministic."""
    return zeros(shape, dtype)


@located
def empty_like(x: Any, /, dtype: Any = None) -> Expr:
    """`empty` in the shape, and unless given the dtype, of x."""
    return zeros_like(as_expr(x), dtype)


@located
def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Expr]:
    """A grid from one vector for each axis; 'xy' exchanges the first two axes of the result, 'ij' does not."""
    values = [as_expr(a) for a in arrays]
    if indexing not in ("xy", "ij"):
        raise AttributeValueError(f"indexing is 'xy' or 'ij', not {indexing!r}")
    wrong = [v for v in values if v.ndim > 1]
    if wrong:
        raise ShapeError(f"meshgrid needs vectors, not {wrong[0].node.type}; flatten it first")
    places = list(range(len(values)))
    if indexing == "xy" and len(values) > 1:
        places[:2] = 1, 0
    shape: list[Dim] = [1] * len(values)
    for value, place in zip(values, places, strict=True):
        shape[place] = value.shape[0] if value.ndim else 1
    return [
        broadcast_to(reshape(v, tuple(d if a == place else 1 for a, d in enumerate(shape))), tuple(shape))
        for v, place in zip(values, places, strict=True)
    ]


def _positions(count: Dim) -> Expr:
    return Expr(iota(shape=(count,)))


@located
def one_hot(x: Any, classes: Any, /, *, axis: int = -1, dtype: Any = "float64") -> Expr:
    """1 at the position that x gives along a new axis of size `classes`, 0 elsewhere; all 0 where x is out of range."""
    value, count = as_expr(x), dims.dim(classes)
    if value.dtype.kind not in "iu":
        raise DTypeError(f"one_hot needs integer positions, not {value.node.type}; cast them")
    at = normal_axis(axis, value.ndim + 1)
    along = reshape(_positions(count), tuple(count if a == at else 1 for a in range(value.ndim + 1)))
    return cast(expand_dims(value, at) == along, as_dtype(dtype))


def _diagonals(x: Any) -> tuple[Expr, Expr]:
    """The value, and for each element of its matrices the number of the diagonal that it is on."""
    value = as_expr(x)
    if value.ndim < 2:
        raise ShapeError(f"needs a matrix or a stack of matrices, not {value.node.type}")
    rows, columns = value.shape[-2:]
    return value, _positions(columns) - expand_dims(_positions(rows), 1)


@located
def tril(x: Any, /, k: int = 0) -> Expr:
    """x with 0 above the k-th diagonal of each matrix."""
    value, diagonal = _diagonals(x)
    return where(diagonal <= k, value, constant(0, value.dtype))


@located
def triu(x: Any, /, k: int = 0) -> Expr:
    """x with 0 below the k-th diagonal of each matrix."""
    value, diagonal = _diagonals(x)
    return where(diagonal >= k, value, constant(0, value.dtype))


# ---- parts of a number ----


@located
def real(x: Any, /) -> Expr:
    """x itself: there are no complex dtypes here."""
    return as_expr(x)


@located
def imag(x: Any, /) -> Expr:
    """0 in the shape and dtype of x: there are no complex dtypes here."""
    return zeros_like(as_expr(x))


@located
def conj(x: Any, /) -> Expr:
    """x itself: there are no complex dtypes here."""
    return as_expr(x)


# ---- layout ----


@located
def roll(x: Any, /, shift: Any, axis: Any = None) -> Expr:
    """Elements moved on by `shift` places, those past the end to the front; without axis in the flattened value."""
    value = as_expr(x)
    if axis is None:
        moved = _rolled(reshape(value, (-1,)), int(np.sum(shift)), 0)
        return reshape(moved, value.shape)
    try:
        moves = list(np.broadcast(shift, axis))
    except ValueError:
        raise AttributeValueError(
            f"shift {shift} and axis {axis} do not belong together; give as many of each"
        ) from None
    for step, along in moves:
        value = _rolled(value, int(step), normal_axis(along, value.ndim))
    return value


def _rolled(x: Expr, shift: int, axis: int) -> Expr:
    count = x.shape[axis]
    if isinstance(count, str):
        positions = (_positions(count) - shift) % Expr(size(dim=count))
        return Expr(indexing.take(x.node, positions.node, axis=axis))
    start = -shift % count if count else 0
    if start == 0:
        return x
    parts = [
        layout.slice_(x.node, axis=axis, start=first, stop=last, step=1) for first, last in ((start, count), (0, start))
    ]
    return Expr(layout.concat(*parts, axis=axis))


@located
def tile(x: Any, repetitions: Any, /) -> Expr:
    """x as a whole repeated along each axis; missing repetitions and missing axes count as 1 in front."""
    value = as_expr(x)
    several = repetitions if isinstance(repetitions, Sequence) and not isinstance(repetitions, str) else (repetitions,)
    rank = max(len(several), value.ndim)
    times: Shape = (1,) * (rank - len(several)) + tuple(dims.dim(r) for r in several)
    shape: Shape = (1,) * (rank - value.ndim) + value.shape
    apart = reshape(value, tuple(d for axis in range(rank) for d in (1, shape[axis])))
    spread = broadcast_to(apart, tuple(d for axis in range(rank) for d in (times[axis], shape[axis])))
    return reshape(spread, tuple(dims.multiply(r, d) for r, d in zip(times, shape, strict=True)))


@located
def repeat(x: Any, repeats: Any, /, axis: int | None = None) -> Expr:
    """Each element repeated in place; without axis of the flattened value.

    repeats: one number or name, or a number for each position of an axis of known size.
    """
    value = as_expr(x) if axis is not None else reshape(as_expr(x), (-1,))
    at = normal_axis(axis or 0, value.ndim)
    count = value.shape[at]
    if isinstance(repeats, Expr):
        raise ShapeError("repeats must be numbers, for the size of the result depends on them; use gi.take")
    if not isinstance(repeats, str) and np.ndim(repeats):
        if not isinstance(count, int) or np.shape(repeats) not in ((1,), (count,)):
            raise ShapeError(
                f"{np.shape(repeats)} repeats do not fit axis {at} of {value.node.type}; give one for each"
            )
        positions = constant(np.repeat(np.arange(count), repeats))
        return Expr(indexing.take(value.node, positions.node, axis=at))
    times = dims.dim(repeats)
    before, after = value.shape[: at + 1], value.shape[at + 1 :]
    spread = broadcast_to(reshape(value, (*before, 1, *after)), (*before, times, *after))
    return reshape(spread, (*before[:-1], dims.multiply(count, times), *after))


_PAD_MODES = ("edge", "reflect", "symmetric", "wrap")


@located
def pad(x: Any, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0) -> Expr:
    """x made longer at both ends of its axes, as numpy's pad with mode constant, edge, reflect, symmetric or wrap.

    pad_width: a number, a pair (before, after), or a pair for each axis. Modes but constant need known sizes.
    """
    value = as_expr(x)
    if mode != "constant" and mode not in _PAD_MODES:
        raise AttributeValueError(f"pad mode {mode!r} is not one of constant, {', '.join(_PAD_MODES)}")
    widths, fills = (_pairs(given, value) for given in (pad_width, constant_values))
    if widths.dtype.kind not in "iu" or (widths < 0).any():
        raise AttributeValueError(
            f"pad_width {pad_width} must be integers of at least 0; slice to make a value shorter"
        )
    for axis, (width, fill) in enumerate(zip(widths.tolist(), fills.tolist(), strict=True)):
        if any(width):
            value = _padded(value, axis, width, fill) if mode == "constant" else _extended(value, axis, width, mode)
    return value


def _pairs(given: Any, value: Expr) -> Any:
    try:
        return np.broadcast_to(np.asarray(given), (value.ndim, 2))
    except ValueError:
        raise AttributeValueError(f"{given} is not a number or a pair for each axis of {value.node.type}") from None


def _padded(x: Expr, axis: int, width: list[int], fill: list[Any]) -> Expr:
    count = x.shape[axis]
    if not any(fill):
        longer = dims.add(count, sum(width))
        return Expr(layout.place(x.node, axis=axis, size=longer, start=width[0], step=1))
    ends = [full((*x.shape[:axis], w, *x.shape[axis + 1 :]), v, x.dtype) for w, v in zip(width, fill, strict=True)]
    return concat([ends[0], x, ends[1]], axis)


def _extended(x: Expr, axis: int, width: list[int], mode: str) -> Expr:
    count = x.shape[axis]
    if not isinstance(count, int) or count == 0:
        raise ShapeError(f"pad with mode {mode} needs a known size over 0 along axis {axis} of {x.node.type}")
    positions: Any = np.pad(np.arange(count), width, mode=mode)  # type: ignore[call-overload]  # one of _PAD_MODES
    return Expr(indexing.take(x.node, constant(positions).node, axis=axis))


@located
def diff(x: Any, /, n: int = 1, axis: int = -1, *, prepend: Any = None, append: Any = None) -> Expr:
    """The differences of neighbours along an axis, n times over; of bool whether neighbours differ."""
    value = as_expr(x)
    at = normal_axis(axis, value.ndim)
    if n < 0:
        raise AttributeValueError(f"diff is taken n >= 0 times, not {n}")
    if n == 0:
        return value
    if prepend is not None or append is not None:
        value = concat([_end(part, value, at) for part in (prepend, value, append) if part is not None], at)
    for _ in range(n):
        later, earlier = (value[(slice(None),) * at + (k,)] for k in (slice(1, None), slice(None, -1)))
        value = later != earlier if value.dtype == BOOL else later - earlier
    return value


def _end(end: Any, like: Expr, axis: int) -> Expr:
    value = as_expr(end)
    return value if value.ndim else broadcast_to(value, (*like.shape[:axis], 1, *like.shape[axis + 1 :]))


# ---- counting and accumulating ----


@located
def count_nonzero(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """How many elements are not 0, as int64."""
    return array.sum(cast(as_expr(x), BOOL), axis, keepdims=keepdims)


def _scan(op: Op, x: Any, axis: int | None, dtype: Any, first: int, include_initial: bool) -> Expr:
    value = accumulator(x, dtype)
    if axis is None and value.ndim != 1:
        raise ShapeError(f"needs axis= for {value.node.type}; only one-axis values do without")
    at = normal_axis(axis or 0, value.ndim)
    result = Expr(op(value.node, axis=at))
    return concat([Expr(scans.full_at(value.node, at, 1, first)), result], at) if include_initial else result


@located
def cumulative_sum(x: Any, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False) -> Expr:
    """The sums of the first 1, 2, ... elements along an axis; with include_initial a 0 comes before them."""
    return _scan(scans.cumulative_sum, x, axis, dtype, 0, include_initial)


@located
def cumulative_prod(x: Any, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False) -> Expr:
    """The products of the first 1, 2, ... elements along an axis; with include_initial a 1 comes before them."""
    return _scan(scans.cumulative_prod, x, axis, dtype, 1, include_initial)


# ---- order ----


def _ordered(op: Op, x: Any, axis: int | None, descending: bool) -> Expr:
    value = as_expr(x) if axis is not None else reshape(as_expr(x), (-1,))
    return Expr(op(value.node, axis=normal_axis(0 if axis is None else axis, value.ndim), descending=bool(descending)))


@located
def sort(x: Any, /, axis: int | None = -1, *, descending: bool = False, stable: bool = True) -> Expr:
    """The elements in order along an axis, or of the flattened value; always stable."""
    return _ordered(ordering.sort, x, axis, descending)


@located
def argsort(x: Any, /, axis: int | None = -1, *, descending: bool = False, stable: bool = True) -> Expr:
    """The positions of the elements in order along an axis, or in the flattened value; always stable."""
    return _ordered(ordering.argsort, x, axis, descending)


@located
def top_k(x: Any, k: Any, /, *, axis: int = -1, largest: bool = True) -> tuple[Expr, Expr]:
    """The k largest elements (or smallest) along an axis in order, and their positions; equal ones by position."""
    value = as_expr(x)
    at = normal_axis(axis, value.ndim)
    order = ordering.argsort(value.node, axis=at, descending=bool(largest))
    first = layout.slice_(order, axis=at, start=0, stop=dims.dim(k), step=1)
    return Expr(indexing.take_along_axis(value.node, first, axis=at)), Expr(first)


@located
def searchsorted(x1: Any, x2: Any, /, side: str = "left", sorter: Any = None) -> Expr:
    """Where to insert each element of x2 into the ascending vector x1, before ('left') or after its equals ('right').

    sorter: the positions that bring x1 into ascending order, as argsort gives them.
    """
    ordered, values = match_dtypes(x1, x2)
    if sorter is not None:
        ordered = array.take(ordered, sorter, axis=0)
    return Expr(ordering.searchsorted(ordered.node, values.node, side=side))


# ---- comparison ----


@located
def isclose(x1: Any, x2: Any, /, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Expr:
    """Whether |x1 - x2| <= atol + rtol * |x2|, elementwise; equal infinities are close."""
    left, right = match_dtypes(x1, x2, floats=True)
    near = (abs(left - right) <= atol + rtol * abs(right)) & unary(select.isfinite, right)
    close = near | (left == right)
    return close | ((left != left) & (right != right)) if equal_nan else close


@located
def allclose(x1: Any, x2: Any, /, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Expr:
    """Whether all elements are close (see `isclose`), as a 0-d bool."""
    return array.all(isclose(x1, x2, rtol, atol, equal_nan))


FUNCTIONS |= {
    function.__name__: function
    for function in (
        empty_like, meshgrid, tril, triu, roll, tile, repeat, pad, diff, count_nonzero, cumulative_sum,
        cumulative_prod, searchsorted, isclose, allclose, real, imag,
    )
}  # fmt: skip
FUNCTIONS["conjugate"] = conj
