"""The functions of the Array API standard (2024.12) on expressions, and a few of numpy's: `gi.*`.

Elementwise functions promote and broadcast; reductions take `axis` (None, an int or several) and `keepdims`.
Every function is built from ops, so derivatives and axis rules come by themselves. Manipulation and indexing
are in `graphir.manipulate`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphir import dims, expr
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import FUNCTIONS, Expr, as_expr, binary, broadcast_to, cast, match_dtypes, unary
from graphir.node import Op
from graphir.ops import arithmetic, indexing, layout, reduction, select, sources, transcendental
from graphir.origin import located
from graphir.products import einsum as einsum
from graphir.products import element_count
from graphir.products import matmul as matmul
from graphir.types import BOOL, INT64, as_dtype, as_shape, broadcast_shapes, float_for

Function = Callable[..., Expr]

# ---- leaves and creation ----


@located
def input(name: str, shape: Any = (), dtype: Any = "float64") -> Expr:
    """A named leaf, fed at evaluation. shape: ints and names of sizes, such as ("n", 64)."""
    return Expr(sources.input_(name=str(name), dtype=as_dtype(dtype).name, shape=as_shape(shape)))


@located
def constant(value: Any, dtype: Any = None) -> Expr:
    """An array that becomes part of the graph (copied if it could change)."""
    return expr.literal_expr(value, None if dtype is None else as_dtype(dtype))


@located
def size(name: str) -> Expr:
    """The size of a named dimension, as a 0-d int64; in a cut job the whole job's size."""
    return Expr(sources.size(dim=dims.dim(name)))


@located
def full(shape: Any, fill_value: Any, dtype: Any = None) -> Expr:
    """`fill_value` everywhere."""
    return broadcast_to(constant(fill_value, dtype), as_shape(shape))


@located
def zeros(shape: Any, dtype: Any = "float64") -> Expr:
    """0 everywhere."""
    return full(shape, 0.0, dtype)


@located
def ones(shape: Any, dtype: Any = "float64") -> Expr:
    """1 everywhere."""
    return full(shape, 1.0, dtype)


@located
def full_like(x: Expr, fill_value: Any, dtype: Any = None) -> Expr:
    """`fill_value` in the shape, and unless given the dtype, of x."""
    return full(x.shape, fill_value, x.dtype if dtype is None else dtype)


@located
def zeros_like(x: Expr, dtype: Any = None) -> Expr:
    """0 in the shape of x."""
    return full_like(x, 0, dtype)


@located
def ones_like(x: Expr, dtype: Any = None) -> Expr:
    """1 in the shape of x."""
    return full_like(x, 1, dtype)


@located
def arange(start: Any, stop: Any = None, step: Any = 1, *, dtype: Any = None) -> Expr:
    """start, start + step, ... before stop. `arange("n")` counts along a named size; then step is 1."""
    if stop is None:
        start, stop = 0, start
    if isinstance(stop, str):
        if start != 0 or step != 1:
            raise AttributeValueError("arange over a named size starts at 0 in steps of 1; shift and scale the result")
        counted = Expr(sources.iota(shape=(dims.dim(stop),)))
        return counted if dtype is None else cast(counted, as_dtype(dtype))
    return constant(np.arange(start, stop, step, dtype=dtype))


@located
def linspace(start: float, stop: float, num: int, *, dtype: Any = "float64", endpoint: bool = True) -> Expr:
    """`num` evenly spaced numbers."""
    return constant(np.linspace(start, stop, num, dtype=as_dtype(dtype), endpoint=endpoint))


@located
def eye(rows: Any, columns: Any = None, *, k: int = 0, dtype: Any = "float64") -> Expr:
    """1 on the k-th diagonal, 0 elsewhere; sizes may be named."""
    shape = as_shape((rows, rows if columns is None else columns))
    i, j = sources.iota(shape=shape[:1]), sources.iota(shape=shape[1:])
    row = Expr(layout.broadcast(i, shape=shape, axes=(0,)))
    column = Expr(layout.broadcast(j, shape=shape, axes=(1,)))
    return cast(row + k == column, as_dtype(dtype))


# ---- elementwise ----


def _unary(op: Op, floats: bool) -> Function:
    return lambda x, /: unary(op, x, floats)


def _binary(op: Op, floats: bool = False, keep_bool: bool = False) -> Function:
    return lambda x1, x2, /: binary(op, x1, x2, floats=floats, keep_bool=keep_bool)


def _float_binary(op: Op) -> Function:
    return _binary(op, floats=True)


_UNARY_FLOAT = (
    transcendental.exp, transcendental.expm1, transcendental.log, transcendental.log1p, transcendental.log2,
    transcendental.log10, transcendental.sin, transcendental.cos, transcendental.tan, transcendental.asin,
    transcendental.acos, transcendental.atan, transcendental.sinh, transcendental.cosh, transcendental.tanh,
    transcendental.asinh, transcendental.acosh, transcendental.atanh, arithmetic.sqrt, arithmetic.reciprocal,
)  # fmt: skip
_UNARY = (
    arithmetic.negative, arithmetic.positive, arithmetic.square, arithmetic.sign, arithmetic.abs_, arithmetic.floor,
    arithmetic.ceil, arithmetic.trunc, select.isnan, select.isinf, select.isfinite, select.signbit,
)  # fmt: skip
_BINARY = (
    arithmetic.add, arithmetic.subtract, arithmetic.multiply, arithmetic.maximum, arithmetic.minimum,
    arithmetic.floor_divide, arithmetic.remainder, transcendental.pow_, select.less, select.less_equal,
    select.greater, select.greater_equal, select.bitwise_left_shift, select.bitwise_right_shift,
)  # fmt: skip
_BINARY_FLOAT = (
    arithmetic.divide, arithmetic.copysign, arithmetic.nextafter, transcendental.atan2, transcendental.hypot,
    transcendental.logaddexp,
)  # fmt: skip
_BINARY_ANY = (select.equal, select.not_equal, select.bitwise_and, select.bitwise_or, select.bitwise_xor)
_LOGICAL = (select.logical_and, select.logical_or, select.logical_xor)

ELEMENTWISE: dict[str, Function] = {
    **{op.name: _unary(op, True) for op in _UNARY_FLOAT},
    **{op.name: _unary(op, False) for op in _UNARY},
    **{op.name: _binary(op) for op in _BINARY},
    **{op.name: _float_binary(op) for op in _BINARY_FLOAT},
    **{op.name: _binary(op, keep_bool=True) for op in _BINARY_ANY},
}


def _logical(op: Op) -> Function:
    def function(x1: Any, x2: Any, /) -> Expr:
        return binary(op, cast(as_expr(x1), BOOL), cast(as_expr(x2), BOOL), keep_bool=True)

    return function


ELEMENTWISE |= {op.name: _logical(op) for op in _LOGICAL}
ELEMENTWISE["logical_not"] = lambda x, /: Expr(select.logical_not(cast(as_expr(x), BOOL).node))
ELEMENTWISE["bitwise_invert"] = lambda x, /: Expr(select.bitwise_invert(as_expr(x).node))
for _name, _function in ELEMENTWISE.items():
    _function.__name__ = _function.__qualname__ = _name


@located
def round(x: Any, /) -> Expr:
    """The nearest integer, halves to even; integers are kept."""
    value = as_expr(x)
    return Expr(arithmetic.round_(value.node)) if value.dtype.kind == "f" else value


@located
def clip(x: Any, min: Any = None, max: Any = None) -> Expr:
    """x limited to [min, max]."""
    value = as_expr(x)
    if min is not None:
        value = ELEMENTWISE["maximum"](value, min)
    return value if max is None else ELEMENTWISE["minimum"](value, max)


@located
def where(condition: Any, x1: Any, x2: Any, /) -> Expr:
    """x1 where the condition holds, x2 elsewhere."""
    chosen = cast(as_expr(condition), BOOL)
    left, right = match_dtypes(x1, x2)
    shape = broadcast_shapes(chosen.shape, broadcast_shapes(left.shape, right.shape))
    parts = [broadcast_to(part, shape).node for part in (chosen, left, right)]
    return Expr(select.where(*parts))


@located
def astype(x: Any, dtype: Any) -> Expr:
    """The value in another dtype, converted as numpy's astype does."""
    return cast(as_expr(x), as_dtype(dtype))


# ---- reductions ----


def normal_axis(axis: Any, rank: int) -> int:
    """An axis counted from the front; ShapeError if it is out of range."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is out of range for a value with {rank} axes")
    return int(axis) % rank


def _axes(axis: Any, rank: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(rank))
    several = axis if isinstance(axis, Sequence) else (axis,)
    found = sorted(normal_axis(a, rank) for a in several)
    if len(set(found)) != len(found):
        raise ShapeError(f"axis {axis} names an axis twice")
    return tuple(found)


def _reduce(op: Op, value: Expr, axis: Any, keepdims: bool) -> Expr:
    axes = _axes(axis, value.ndim)
    return _keep(Expr(op(value.node, axes=axes)) if axes else value, value, axes, keepdims)


def _keep(result: Expr, value: Expr, axes: tuple[int, ...], keepdims: bool) -> Expr:
    if not keepdims or not axes:
        return result
    shape = tuple(1 if axis in axes else d for axis, d in enumerate(value.shape))
    return Expr(layout.reshape(result.node, shape=shape))


def accumulator(x: Any, dtype: Any) -> Expr:
    """The operand of a sum or product: small integers and bool become 64-bit, as in the standard."""
    value = as_expr(x)
    if dtype is not None:
        return cast(value, as_dtype(dtype))
    if value.dtype.kind == "u":
        return cast(value, as_dtype("uint64"))
    return cast(value, INT64) if value.dtype.kind in "bi" else value


@located
def sum(x: Any, /, axis: Any = None, *, dtype: Any = None, keepdims: bool = False) -> Expr:
    """The sum over axes."""
    return _reduce(layout.reduce_sum, accumulator(x, dtype), axis, keepdims)


@located
def prod(x: Any, /, axis: Any = None, *, dtype: Any = None, keepdims: bool = False) -> Expr:
    """The product over axes."""
    return _reduce(reduction.reduce_prod, accumulator(x, dtype), axis, keepdims)


@located
def max(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """The largest element over axes; ties share the derivative evenly."""
    return _reduce(reduction.reduce_max, as_expr(x), axis, keepdims)


@located
def min(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """The smallest element over axes; ties share the derivative evenly."""
    return _reduce(reduction.reduce_min, as_expr(x), axis, keepdims)


@located
def all(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """Whether all elements are true."""
    return _reduce(reduction.reduce_all, cast(as_expr(x), BOOL), axis, keepdims)


@located
def any(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """Whether any element is true."""
    return _reduce(reduction.reduce_any, cast(as_expr(x), BOOL), axis, keepdims)


def floating(x: Any) -> Expr:
    """The value, in float64 if it is of no floating dtype."""
    value = as_expr(x)
    return cast(value, float_for(value.dtype))


@located
def logsumexp(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """log(sum(exp(x))) over axes, without overflow."""
    return _reduce(reduction.logsumexp, floating(x), axis, keepdims)


@located
def count(value: Expr, axes: tuple[int, ...]) -> Expr:
    """The number of elements along axes, in the value's dtype; symbolic sizes stay symbolic."""
    total = element_count(tuple(value.shape[axis] for axis in axes))
    if isinstance(total, int):
        return constant(total, value.dtype)
    return cast(Expr(sources.size(dim=total)), value.dtype)


@located
def mean(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """The arithmetic mean over axes."""
    value = floating(x)
    return sum(value, axis, keepdims=keepdims) / count(value, _axes(axis, value.ndim))


@located
def var(x: Any, /, axis: Any = None, *, correction: float = 0.0, keepdims: bool = False) -> Expr:
    """The variance over axes, divided by the number of elements less `correction`."""
    value = floating(x)
    squares = ELEMENTWISE["square"](value - mean(value, axis, keepdims=True))
    number = count(value, _axes(axis, value.ndim))
    return sum(squares, axis, keepdims=keepdims) / (number - correction if correction else number)


@located
def std(x: Any, /, axis: Any = None, *, correction: float = 0.0, keepdims: bool = False) -> Expr:
    """The standard deviation over axes."""
    return ELEMENTWISE["sqrt"](var(x, axis, correction=correction, keepdims=keepdims))


@located
def softmax(x: Any, /, axis: Any = -1) -> Expr:
    """exp(x) / sum(exp(x)) over axes, without overflow."""
    value = floating(x)
    return Expr(reduction.softmax(value.node, axes=_axes(axis, value.ndim)))


@located
def log_softmax(x: Any, /, axis: Any = -1) -> Expr:
    """log(softmax(x)), accurate where softmax is tiny."""
    value = floating(x)
    return value - logsumexp(value, axis, keepdims=True)


def _position(op: Op, x: Any, axis: int | None, keepdims: bool) -> Expr:
    value = as_expr(x)
    flat = value if axis is not None else Expr(layout.reshape(value.node, shape=(element_count(value.shape),)))
    where_ = 0 if axis is None else normal_axis(axis, value.ndim)
    result = Expr(op(flat.node, axis=where_))
    return _keep(result, value, _axes(axis, value.ndim), keepdims)


@located
def argmax(x: Any, /, axis: int | None = None, *, keepdims: bool = False) -> Expr:
    """The position of the first largest element along an axis, or in the flattened value."""
    return _position(reduction.argmax, x, axis, keepdims)


@located
def argmin(x: Any, /, axis: int | None = None, *, keepdims: bool = False) -> Expr:
    """The position of the first smallest element along an axis, or in the flattened value."""
    return _position(reduction.argmin, x, axis, keepdims)


# ---- picking ----


@located
def take(x: Any, indices: Any, /, axis: int | None = None) -> Expr:
    """Slices of x along an axis at integer positions; the axis may be left out for one-axis values."""
    value, index = as_expr(x), as_expr(indices)
    if axis is None and value.ndim != 1:
        raise ShapeError(f"take needs axis= for {value.node.type}; only one-axis values do without")
    return Expr(indexing.take(value.node, index.node, axis=normal_axis(axis or 0, value.ndim)))


@located
def take_along_axis(x: Any, indices: Any, /, axis: int = -1) -> Expr:
    """For each element of the indices, the element of x at that position of the axis; other axes broadcast."""
    value, index = as_expr(x), as_expr(indices)
    if value.ndim != index.ndim:
        raise ShapeError(f"indices {index.node.type} need as many axes as {value.node.type}")
    at = normal_axis(axis, value.ndim)
    rest = broadcast_shapes(*[(*v.shape[:at], 1, *v.shape[at + 1 :]) for v in (value, index)])
    grown = [broadcast_to(v, (*rest[:at], v.shape[at], *rest[at + 1 :])).node for v in (value, index)]
    return Expr(indexing.take_along_axis(*grown, axis=at))


FUNCTIONS |= ELEMENTWISE
FUNCTIONS |= {
    function.__name__: function
    for function in (
        round, clip, where, astype, sum, prod, max, min, all, any, logsumexp, mean, var, std, softmax, argmax, argmin,
        take, take_along_axis, matmul, einsum, full_like, zeros_like, ones_like,
    )
}  # fmt: skip
