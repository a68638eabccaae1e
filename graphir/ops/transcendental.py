"""Transcendental functions of the Array API standard (2024.12), on floats."""

import math

import numpy as np

from graphir.node import Node, Op, Rule
from graphir.ops.arithmetic import add, divide, elementwise, multiply, negative, sqrt, square, subtract
from graphir.ops.layout import fill_like
from graphir.ops.rules import NUMBERS
from graphir.ops.select import equal, where

_ANY = (-2.0, 2.0)
_POSITIVE = (0.3, 2.0)
_UNIT = (-0.9, 0.9)


def _one(x: Node) -> Node:
    return fill_like(x, 1)


def _unary(name: str, doc: str, kernel: Rule, vjp: Rule, domain: tuple[float, float] = _ANY) -> Op:
    """A function of one float; `vjp(ct, out, x)`."""
    return elementwise(name, doc, kernel, (vjp,), domain, cost=10)


exp: Op = _unary("exp", "e**x", np.exp, lambda ct, out, x: multiply(ct, out))
expm1: Op = _unary("expm1", "e**x - 1, accurate near 0.", np.expm1, lambda ct, out, x: multiply(ct, add(out, _one(x))))
log: Op = _unary("log", "The natural logarithm.", np.log, lambda ct, out, x: divide(ct, x), _POSITIVE)
log1p: Op = _unary(
    "log1p", "log(1 + x), accurate near 0.", np.log1p, lambda ct, out, x: divide(ct, add(x, _one(x))), _POSITIVE
)
log2: Op = _unary(
    "log2",
    "The logarithm to base 2.",
    np.log2,
    lambda ct, out, x: divide(ct, multiply(x, fill_like(x, math.log(2)))),
    _POSITIVE,
)
log10: Op = _unary(
    "log10",
    "The logarithm to base 10.",
    np.log10,
    lambda ct, out, x: divide(ct, multiply(x, fill_like(x, math.log(10)))),
    _POSITIVE,
)
sin: Op = _unary("sin", "The sine of radians.", np.sin, lambda ct, out, x: multiply(ct, cos(x)))
cos: Op = _unary("cos", "The cosine of radians.", np.cos, lambda ct, out, x: negative(multiply(ct, sin(x))))
tan: Op = _unary(
    "tan", "The tangent of radians.", np.tan, lambda ct, out, x: multiply(ct, add(_one(x), square(out))), _UNIT
)
asin: Op = _unary(
    "asin", "The inverse sine.", np.arcsin, lambda ct, out, x: divide(ct, sqrt(subtract(_one(x), square(x)))), _UNIT
)
acos: Op = _unary(
    "acos",
    "The inverse cosine.",
    np.arccos,
    lambda ct, out, x: negative(divide(ct, sqrt(subtract(_one(x), square(x))))),
    _UNIT,
)
atan: Op = _unary("atan", "The inverse tangent.", np.arctan, lambda ct, out, x: divide(ct, add(_one(x), square(x))))
sinh: Op = _unary("sinh", "The hyperbolic sine.", np.sinh, lambda ct, out, x: multiply(ct, cosh(x)))
cosh: Op = _unary("cosh", "The hyperbolic cosine.", np.cosh, lambda ct, out, x: multiply(ct, sinh(x)))
tanh: Op = _unary(
    "tanh", "The hyperbolic tangent.", np.tanh, lambda ct, out, x: multiply(ct, subtract(_one(x), square(out)))
)
asinh: Op = _unary(
    "asinh",
    "The inverse hyperbolic sine.",
    np.arcsinh,
    lambda ct, out, x: divide(ct, sqrt(add(square(x), _one(x)))),
)
acosh: Op = _unary(
    "acosh",
    "The inverse hyperbolic cosine.",
    np.arccosh,
    lambda ct, out, x: divide(ct, multiply(sqrt(subtract(x, _one(x))), sqrt(add(x, _one(x))))),
    (1.3, 3.0),
)
atanh: Op = _unary(
    "atanh",
    "The inverse hyperbolic tangent.",
    np.arctanh,
    lambda ct, out, x: divide(ct, subtract(_one(x), square(x))),
    _UNIT,
)

# ---- functions of two values ----

atan2: Op = elementwise(
    "atan2",
    "The angle of the point (y, x) given as atan2(y, x), in radians.",
    np.arctan2,
    (
        lambda ct, out, y, x: divide(multiply(ct, x), add(square(x), square(y))),
        lambda ct, out, y, x: negative(divide(multiply(ct, y), add(square(x), square(y)))),
    ),
    _ANY,
    _POSITIVE,
    cost=20,
)
hypot: Op = elementwise(
    "hypot",
    "sqrt(x*x + y*y) without overflow.",
    np.hypot,
    (
        lambda ct, out, x, y: multiply(ct, divide(x, out)),
        lambda ct, out, x, y: multiply(ct, divide(y, out)),
    ),
    _ANY,
    _POSITIVE,
    cost=10,
)
logaddexp: Op = elementwise(
    "logaddexp",
    "log(exp(x) + exp(y)) without overflow.",
    np.logaddexp,
    (
        lambda ct, out, x, y: multiply(ct, exp(subtract(x, finite_or_zero(out)))),
        lambda ct, out, x, y: multiply(ct, exp(subtract(y, finite_or_zero(out)))),
    ),
    _ANY,
    _ANY,
    cost=30,
)


def finite_or_zero(out: Node) -> Node:
    """-inf replaced by 0, so that exp(-inf - out) is 0 and not NaN."""
    return where(equal(out, fill_like(out, -math.inf)), fill_like(out, 0), out)


def _pow_base(ct: Node, out: Node, x: Node, y: Node) -> Node:
    """y * x**(y - 1), and 0 where y is 0 whatever x is."""
    exponent = where(equal(y, fill_like(y, 0)), fill_like(y, 1), subtract(y, fill_like(y, 1)))
    return multiply(ct, multiply(y, pow_(x, exponent)))


def _pow_exponent(ct: Node, out: Node, x: Node, y: Node) -> Node:
    """x**y * log(x), with log(0) taken as 0."""
    base = where(equal(x, fill_like(x, 0)), _one(x), x)
    return multiply(ct, multiply(out, log(base)))


pow_: Op = elementwise("pow", "x ** y", np.power, (_pow_base, _pow_exponent), _POSITIVE, _ANY, kinds=NUMBERS, cost=20)
