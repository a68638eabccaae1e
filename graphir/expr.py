"""Expr, the user's face of a node: operators, promotion, explicit broadcasts and casts, numpy dispatch.

An Expr holds one node and nothing else. Operators follow the Array API standard (2024.12), so `==` compares
elementwise; nodes below compare by identity. numpy's own functions called on an expression go through the tables
of `graphir.methods`.
"""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, TypeAlias, final

import numpy as np

from graphir.errors import DTypeError, GraphError, ShapeError
from graphir.literal import Literal
from graphir.methods import FUNCTIONS as FUNCTIONS
from graphir.methods import NUMPY as NUMPY
from graphir.methods import Methods
from graphir.node import Node, Op, describe_call
from graphir.ops import arithmetic, contraction, layout, select, transcendental
from graphir.ops.sources import constant as constant_op
from graphir.origin import located
from graphir.types import (
    BOOL,
    INT64,
    DType,
    Shape,
    broadcast_shapes,
    float_for,
    promote,
    promote_scalar,
    show_shape,
)

Operand: TypeAlias = "Expr | bool | int | float | np.generic | np.ndarray[Any, Any] | list[Any]"


@final
class Expr(Methods):
    """A symbolic array. Made by `gi.input`, `gi.constant` and operations on other expressions."""

    __slots__ = ("node",)
    __hash__ = None  # type: ignore[assignment]  # == is elementwise, so an Expr cannot be a dictionary key

    def __init__(self, node: Node) -> None:
        self.node = node

    # ---- what it is ----

    @property
    def shape(self) -> Shape:
        """Dimensions: numbers, and texts for symbolic sizes."""
        return self.node.type.shape

    @property
    def dtype(self) -> DType:
        """The numpy dtype."""
        return self.node.type.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.node.type.shape)

    @property
    def T(self) -> "Expr":  # the standard's name
        """The matrix transpose; the axes reversed for other ranks, as in numpy."""
        return Expr(layout.permute(self.node, axes=tuple(reversed(range(self.ndim)))))

    @property
    def mT(self) -> "Expr":  # the standard's name
        """The last two axes exchanged."""
        if self.ndim < 2:
            raise ShapeError(f"mT needs two axes or more; the value is {self.node.type}")
        return Expr(contraction.transpose(self.node))

    def __repr__(self) -> str:
        node = self.node
        if node.op.name == "input":
            return f"<Expr {node.attr('name')}: {node.type}>"
        return f"<Expr {node.type} = {describe_call(node.op, node.inputs, node.attrs)}, {node.origin}>"

    @located
    def __len__(self) -> int:
        first = self.shape[0] if self.shape else None
        if not isinstance(first, int):
            raise ShapeError(f"the length of {self.node.type} is not a number; use gi.size('n') for a named size")
        return first

    def __iter__(self) -> Iterator["Expr"]:
        return iter([self[k] for k in range(len(self))])

    @located
    def __getitem__(self, key: Any) -> "Expr":
        result: Expr = FUNCTIONS["getitem"](self, key)
        return result

    @located
    def __bool__(self) -> bool:
        raise _no_number(self, "a truth value", "gi.where or the logical functions")

    @located
    def __float__(self) -> float:
        raise _no_number(self, "a number", "gi.evaluate")

    __int__ = __index__ = __complex__ = __float__

    @located
    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray[Any, Any]:
        raise _no_number(self, "an array of numbers", "gi.evaluate")

    @located
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        reductions = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min"}
        if method == "reduce" and ufunc.__name__ in reductions:
            return _from_numpy(reductions[ufunc.__name__], inputs, {"axis": 0, **kwargs})
        if method != "__call__" or kwargs:
            what = (
                f"np.{ufunc.__name__}.{method}" if method != "__call__" else f"np.{ufunc.__name__} with {list(kwargs)}"
            )
            raise GraphError(f"{what} has no meaning on expressions; call the function without it")
        return _from_numpy(ufunc.__name__, inputs, {})

    @located
    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        place = "linalg." if func.__module__ == "numpy.linalg" else ""
        return _from_numpy(place + func.__name__, args, kwargs)

    # ---- operators ----

    def __add__(self, other: Operand) -> "Expr":
        return binary(arithmetic.add, self, other)

    def __radd__(self, other: Operand) -> "Expr":
        return binary(arithmetic.add, other, self)

    def __sub__(self, other: Operand) -> "Expr":
        return binary(arithmetic.subtract, self, other)

    def __rsub__(self, other: Operand) -> "Expr":
        return binary(arithmetic.subtract, other, self)

    def __mul__(self, other: Operand) -> "Expr":
        return binary(arithmetic.multiply, self, other)

    def __rmul__(self, other: Operand) -> "Expr":
        return binary(arithmetic.multiply, other, self)

    def __truediv__(self, other: Operand) -> "Expr":
        return binary(arithmetic.divide, self, other, floats=True)

    def __rtruediv__(self, other: Operand) -> "Expr":
        return binary(arithmetic.divide, other, self, floats=True)

    def __floordiv__(self, other: Operand) -> "Expr":
        return binary(arithmetic.floor_divide, self, other)

    def __rfloordiv__(self, other: Operand) -> "Expr":
        return binary(arithmetic.floor_divide, other, self)

    def __mod__(self, other: Operand) -> "Expr":
        return binary(arithmetic.remainder, self, other)

    def __rmod__(self, other: Operand) -> "Expr":
        return binary(arithmetic.remainder, other, self)

    def __pow__(self, other: Operand) -> "Expr":
        if type(other) is int and other == 2:
            return unary(arithmetic.square, self)
        return binary(transcendental.pow_, self, other)

    def __rpow__(self, other: Operand) -> "Expr":
        return binary(transcendental.pow_, other, self)

    def __matmul__(self, other: Operand) -> "Expr":
        return FUNCTIONS["matmul"](self, other)  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Operand) -> "Expr":
        return FUNCTIONS["matmul"](other, self)  # type: ignore[no-any-return]

    def __neg__(self) -> "Expr":
        return unary(arithmetic.negative, self)

    def __pos__(self) -> "Expr":
        return unary(arithmetic.positive, self)

    def __abs__(self) -> "Expr":
        return unary(arithmetic.abs_, self)

    def __eq__(self, other: object) -> "Expr":  # type: ignore[override]  # elementwise, by the standard
        return binary(select.equal, self, other, keep_bool=True)

    def __ne__(self, other: object) -> "Expr":  # type: ignore[override]  # elementwise, by the standard
        return binary(select.not_equal, self, other, keep_bool=True)

    def __lt__(self, other: Operand) -> "Expr":
        return binary(select.less, self, other)

    def __le__(self, other: Operand) -> "Expr":
        return binary(select.less_equal, self, other)

    def __gt__(self, other: Operand) -> "Expr":
        return binary(select.greater, self, other)

    def __ge__(self, other: Operand) -> "Expr":
        return binary(select.greater_equal, self, other)

    def __and__(self, other: Operand) -> "Expr":
        return binary(select.bitwise_and, self, other, keep_bool=True)

    __rand__ = __and__

    def __or__(self, other: Operand) -> "Expr":
        return binary(select.bitwise_or, self, other, keep_bool=True)

    __ror__ = __or__

    def __xor__(self, other: Operand) -> "Expr":
        return binary(select.bitwise_xor, self, other, keep_bool=True)

    __rxor__ = __xor__

    def __invert__(self) -> "Expr":
        return Expr(select.bitwise_invert(self.node))

    def __lshift__(self, other: Operand) -> "Expr":
        return binary(select.bitwise_left_shift, self, other)

    def __rshift__(self, other: Operand) -> "Expr":
        return binary(select.bitwise_right_shift, self, other)


def _no_number(expr: Expr, what: str, instead: str) -> DTypeError:
    return DTypeError(f"{expr!r} is symbolic and has no {what.removeprefix('a ').removeprefix('an ')}; use {instead}")


_NUMPY_NAMES = {
    "absolute": "abs", "fabs": "abs", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin", "arcsinh": "asinh",
    "arctan": "atan", "arctan2": "atan2", "arctanh": "atanh", "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift", "right_shift": "bitwise_right_shift", "power": "pow", "float_power": "pow",
    "true_divide": "divide", "mod": "remainder", "rint": "round", "concatenate": "concat", "amax": "max",
    "amin": "min", "around": "round", "transpose": "transpose",
}  # fmt: skip


def _from_numpy(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    short = name.removeprefix("linalg.")
    function = NUMPY.get(name) or FUNCTIONS.get(_NUMPY_NAMES.get(short, short))
    if function is None:
        near = get_close_matches(short, [*FUNCTIONS, *NUMPY], n=2, cutoff=0.75)
        instead = f"; is {' or '.join(near)} what you need?" if near else ""
        raise GraphError(
            f"np.{name} is not available on expressions; compose it from the functions of graphir{instead}"
        )
    defaults = {"dtype": None, "out": None, "initial": np._NoValue, "where": np._NoValue}
    kept = {
        k: v for k, v in kwargs.items() if not (k in defaults and (v is defaults[k] or (k == "where" and v is True)))
    }
    try:
        return function(*args, **kept)
    except TypeError as error:
        raise GraphError(f"np.{name} on expressions does not take these arguments: {error}") from None


# ---- coercion ----


@located
def literal_expr(value: Any, dtype: DType | None = None) -> Expr:
    """A constant expression from a number or an array."""
    try:
        array = np.asarray(value, dtype)
    except (ValueError, OverflowError) as error:
        raise DTypeError(f"{value!r:.80} is not an array of {dtype or 'numbers'}: {error}") from None
    if array.dtype.kind not in "biuf":
        hint = "; for the size of a named dimension use gi.size" if isinstance(value, str) else ""
        raise DTypeError(f"{value!r:.80} of type {type(value).__name__} is not an array of numbers{hint}")
    return Expr(constant_op(value=Literal(array)))


def as_expr(value: Any) -> Expr:
    """The value itself if it is an expression, otherwise a constant."""
    return value if type(value) is Expr else literal_expr(value)


def cast(expr: Expr, dtype: DType) -> Expr:
    """The expression in a dtype; itself if it has it."""
    return expr if expr.node.type.dtype == dtype else Expr(select.cast(expr.node, dtype=dtype.name))


@located
def broadcast_to(expr: Expr, shape: Shape) -> Expr:
    """The expression broadcast by numpy's rule to a shape that it fits."""
    node = expr.node
    own = node.type.shape
    if own == shape:
        return expr
    if len(own) > len(shape) or broadcast_shapes(own, shape) != shape:
        raise ShapeError(f"{node.type} does not broadcast to {show_shape(shape)}")
    first = len(shape) - len(own)
    kept = [axis for axis, d in enumerate(own) if d != 1 or shape[first + axis] == 1]
    if len(kept) < len(own):
        node = layout.reshape(node, shape=tuple(own[axis] for axis in kept))
    return Expr(layout.broadcast(node, shape=shape, axes=tuple(first + axis for axis in kept)))


def unary(op: Op, x: Any, floats: bool = False) -> Expr:
    """Apply an elementwise op to one value; integers become float64 where the op needs floats."""
    expr = as_expr(x)
    dtype = expr.node.type.dtype
    if floats and dtype.kind != "f":
        expr = cast(expr, float_for(dtype))
    elif dtype.kind == "b":
        expr = cast(expr, INT64)
    return Expr(op(expr.node))


def binary(op: Op, a: Any, b: Any, *, floats: bool = False, keep_bool: bool = False) -> Expr:
    """Apply an elementwise op to two values after promotion and broadcasting."""
    if type(a) is Expr and type(b) is Expr:
        x, y = a.node, b.node
        if x.type is y.type and x.type.dtype.kind == "f":
            return Expr(op(x, y))
    return _fitted(op, a, b, floats, keep_bool)


@located
def _fitted(op: Op, a: Any, b: Any, floats: bool, keep_bool: bool) -> Expr:
    left, right = match_dtypes(a, b, floats=floats, keep_bool=keep_bool)
    shape = broadcast_shapes(left.shape, right.shape)
    return Expr(op(broadcast_to(left, shape).node, broadcast_to(right, shape).node))


def match_dtypes(a: Any, b: Any, *, floats: bool = False, keep_bool: bool = True) -> tuple[Expr, Expr]:
    """Both values as expressions of their common dtype; Python numbers adapt to the other side."""
    weak = [type(v) in (bool, int, float) for v in (a, b)]
    if weak[0] and not weak[1]:
        right = as_expr(b)
        dtype = promote_scalar(right.dtype, a)
    elif weak[1] and not weak[0]:
        left = as_expr(a)
        dtype = promote_scalar(left.dtype, b)
    else:
        dtype = promote(as_expr(a).dtype, as_expr(b).dtype)
    if floats:
        dtype = float_for(dtype)
    elif dtype == BOOL and not keep_bool:
        dtype = INT64
    return _to(a, dtype), _to(b, dtype)


def _to(value: Any, dtype: DType) -> Expr:
    return literal_expr(value, dtype) if type(value) in (bool, int, float) else cast(as_expr(value), dtype)
