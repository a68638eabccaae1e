"""Ops that choose or change kind: cast, where, comparison, logic, bits; none carries a derivative of its own
but cast and where."""

from typing import Any

import numpy as np

from graphir.errors import ShapeError
from graphir.example import Example, Sample
from graphir.node import Node, Op, Rule
from graphir.ops.choose import choose
from graphir.ops.layout import fill_like
from graphir.ops.rules import (
    ALL,
    INTEGERS,
    NUMBERS,
    elementwise_axes,
    need_kind,
    need_same,
    pointwise,
    predicate,
    samples,
)
from graphir.types import TensorType, as_dtype


def _infer_cast(x: TensorType, *, dtype: str) -> TensorType:
    return x.with_dtype(as_dtype(dtype))


def _cast_vjp(ct: Node, out: Node, x: Node, *, dtype: str) -> Node | None:
    return cast(ct, dtype=x.type.dtype.name) if x.type.dtype.kind == "f" else None


cast: Op = Op(
    "cast",
    "The value in another dtype, as numpy's astype converts.",
    arity=1,
    attrs={"dtype": "dtype"},
    infer=_infer_cast,
    kernel=lambda x, *, dtype: x.astype(dtype, copy=False),
    vjp=(_cast_vjp,),
    axes=elementwise_axes,
    examples=(
        Example((Sample((3, 4), "float64"),), {"dtype": "float32"}),
        Example((Sample((3,), "int64", 0, 5),), {"dtype": "float64"}),
        Example((Sample((3,), "bool"),), {"dtype": "int32"}),
    ),
)


def _infer_where(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    need_kind(condition, "b", "compare first, as in where(x > 0, x, y)")
    need_same((x, y))
    if condition.shape != x.shape:
        raise ShapeError(f"shapes differ: condition {condition}, values {x}; broadcast explicitly")
    return x


where: Op = Op(
    "where",
    "x where the condition holds, y elsewhere.",
    arity=3,
    infer=_infer_where,
    kernel=choose,
    vjp=(
        None,
        lambda ct, out, c, x, y: where(c, ct, fill_like(ct, 0)),
        lambda ct, out, c, x, y: where(c, fill_like(ct, 0), ct),
    ),
    axes=elementwise_axes,
    examples=(Example((Sample((3, 4), "bool"), Sample((3, 4)), Sample((3, 4)))),),
)


def _any_kind(x: TensorType) -> TensorType:
    need_kind(x, ALL)
    return x


stop_gradient: Op = Op(
    "stop_gradient",
    "The value itself, held constant by differentiation.",
    arity=1,
    infer=_any_kind,
    kernel=lambda x: x,
    vjp="stop_gradient: held constant on purpose",
    axes=elementwise_axes,
    examples=(samples("float64", 1),),
    linear=True,
    cheap=True,
)

_STEP = "piecewise constant: the derivative is zero wherever it exists"


def _predicate(name: str, doc: str, kernel: Rule, kinds: str = NUMBERS, arity: int = 2) -> Op:
    return Op(
        name,
        doc,
        arity=arity,
        infer=predicate(kinds),
        kernel=kernel,
        vjp=_STEP,
        axes=elementwise_axes,
        examples=(
            samples("float64" if "f" in kinds else "bool", arity, 0, 3),
            samples("int64" if "i" in kinds else "bool", arity, 0, 3),
        ),
    )


equal: Op = _predicate("equal", "x == y, elementwise.", np.equal, ALL)
not_equal: Op = _predicate("not_equal", "x != y, elementwise.", np.not_equal, ALL)
less: Op = _predicate("less", "x < y, elementwise.", np.less)
less_equal: Op = _predicate("less_equal", "x <= y, elementwise.", np.less_equal)
greater: Op = _predicate("greater", "x > y, elementwise.", np.greater)
greater_equal: Op = _predicate("greater_equal", "x >= y, elementwise.", np.greater_equal)
isnan: Op = _predicate("isnan", "Whether each element is a NaN.", np.isnan, NUMBERS, 1)
isinf: Op = _predicate("isinf", "Whether each element is an infinity.", np.isinf, NUMBERS, 1)
isfinite: Op = _predicate("isfinite", "Whether each element is neither NaN nor infinite.", np.isfinite, NUMBERS, 1)
signbit: Op = _predicate("signbit", "Whether the sign bit is set (also of -0.0).", np.signbit, NUMBERS, 1)
logical_and: Op = _predicate("logical_and", "x and y, elementwise.", np.logical_and, "b")
logical_or: Op = _predicate("logical_or", "x or y, elementwise.", np.logical_or, "b")
logical_xor: Op = _predicate("logical_xor", "Exactly one of x and y, elementwise.", np.logical_xor, "b")
logical_not: Op = _predicate("logical_not", "not x, elementwise.", np.logical_not, "b", 1)


def _bitwise(name: str, doc: str, kernel: Rule, kinds: str = "b" + INTEGERS, arity: int = 2, high: int = 7) -> Op:
    examples: tuple[Any, ...] = (samples("int32", arity, 0, high), samples("uint8", arity, 0, high))
    return Op(
        name,
        doc,
        arity=arity,
        infer=pointwise(kinds),
        kernel=kernel,
        vjp="integers carry no derivative",
        axes=elementwise_axes,
        examples=examples,
    )


bitwise_and: Op = _bitwise("bitwise_and", "Bits set in both x and y.", np.bitwise_and)
bitwise_or: Op = _bitwise("bitwise_or", "Bits set in x or y.", np.bitwise_or)
bitwise_xor: Op = _bitwise("bitwise_xor", "Bits set in exactly one of x and y.", np.bitwise_xor)
bitwise_invert: Op = _bitwise("bitwise_invert", "Bits not set in x.", np.invert, arity=1)
bitwise_left_shift: Op = _bitwise("bitwise_left_shift", "x shifted left by y bits.", np.left_shift, INTEGERS)
bitwise_right_shift: Op = _bitwise("bitwise_right_shift", "x shifted right by y bits.", np.right_shift, INTEGERS)
