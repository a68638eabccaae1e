"""Activations, in forms whose derivatives are finite wherever the function is."""

import math
from typing import Any

import numpy as np

from graphir import array, elementwise, manipulate
from graphir.array import log_softmax, softmax
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr, as_expr, cast
from graphir.ops import special
from graphir.origin import located
from graphir.types import float_for

__all__ = [
    "celu", "elu", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_swish", "hard_tanh", "leaky_relu",
    "log_sigmoid", "log_softmax", "mish", "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax",
    "softplus", "softsign", "tanh", "tanh_shrink",
]  # fmt: skip

SELU = (1.05070102214813232421875, 1.67326319218681884765625)
"""Scale and alpha of Klambauer and others, "Self-normalizing neural networks", NeurIPS 2017, as ONNX rounds them."""
tanh = elementwise.tanh


def _float(x: Any) -> Expr:
    value = as_expr(x)
    return cast(value, float_for(value.dtype))


def _number(value: Any, like: Expr) -> Expr:
    if isinstance(value, Expr):
        return value
    return array.constant(np.asarray(value), like.dtype)


def _between(x: Expr, low: float, high: float) -> Expr:
    """x limited; NaN stays, and the derivative at the limits is 0."""
    least, most = _number(low, x), _number(high, x)
    return array.where(x <= least, least, array.where(x >= most, most, x))


@located
def sigmoid(x: Any) -> Expr:
    """1 / (1 + exp(-x)), accurate for large negative x as well."""
    value = _float(x)
    return elementwise.exp(-elementwise.logaddexp(_number(0, value), -value))


@located
def log_sigmoid(x: Any) -> Expr:
    """log(sigmoid(x))"""
    return -softplus(-_float(x))


@located
def softplus(x: Any) -> Expr:
    """log(1 + exp(x))"""
    value = _float(x)
    return elementwise.logaddexp(value, _number(0, value))


@located
def relu(x: Any) -> Expr:
    """max(x, 0); NaN stays, and the derivative at 0 is 0."""
    value = as_expr(x)
    return array.where(value <= 0, _number(0, value), value)


@located
def relu6(x: Any) -> Expr:
    """min(max(x, 0), 6); the derivative at 0 and at 6 is 0."""
    return _between(as_expr(x), 0, 6)


@located
def leaky_relu(x: Any, slope: Any = 0.01) -> Expr:
    """x above 0, slope * x below."""
    value = _float(x)
    return array.where(value > 0, value, _number(slope, value) * value)


@located
def prelu(x: Any, slope: Any) -> Expr:
    """leaky_relu with one slope, or one for each channel (axis 1)."""
    value, slopes = _float(x), as_expr(slope)
    if slopes.ndim == 1 and value.ndim > 1:
        slopes = manipulate.reshape(slopes, (1, slopes.shape[0], *[1] * (value.ndim - 2)))
    return leaky_relu(value, slopes)


@located
def elu(x: Any, alpha: Any = 1.0) -> Expr:
    """x above 0, alpha * (exp(x) - 1) below."""
    value = _float(x)
    below = array.where(value > 0, _number(0, value), value)
    return array.where(value > 0, value, _number(alpha, value) * elementwise.expm1(below))


@located
def celu(x: Any, alpha: float = 1.0) -> Expr:
    """x above 0, alpha * (exp(x / alpha) - 1) below."""
    value = _float(x)
    scale = _number(alpha, value)
    below = array.where(value > 0, _number(0, value), value / scale)
    return array.where(value > 0, value, scale * elementwise.expm1(below))


@located
def selu(x: Any) -> Expr:
    """A scaled elu that keeps mean and variance."""
    value = _float(x)
    return _number(SELU[0], value) * elu(value, SELU[1])


@located
def gelu(x: Any, *, approximate: bool = False) -> Expr:
    """x times the normal distribution function of x; approximate: by tanh (Hendrycks, Gimpel, arXiv:1606.08415)."""
    value = _float(x)
    if approximate:
        inner = math.sqrt(2 / math.pi) * (value + 0.044715 * (value * value * value))
        return 0.5 * value * (tanh(inner) + 1)
    return 0.5 * value * (Expr(special.erf((value * math.sqrt(0.5)).node)) + 1)


@located
def silu(x: Any) -> Expr:
    """x * sigmoid(x), also called swish."""
    value = _float(x)
    return value * sigmoid(value)


@located
def mish(x: Any) -> Expr:
    """x * tanh(softplus(x))"""
    value = _float(x)
    return value * tanh(softplus(value))


@located
def softsign(x: Any) -> Expr:
    """x / (1 + |x|)"""
    value = _float(x)
    return value / (elementwise.abs(value) + 1)


@located
def hard_sigmoid(x: Any) -> Expr:
    """x / 6 + 1/2 between 0 and 1."""
    value = _float(x)
    return _between(value * _number(1 / 6, value) + 0.5, 0.0, 1.0)


@located
def hard_swish(x: Any) -> Expr:
    """x * hard_sigmoid(x)"""
    value = _float(x)
    zero = _number(0, value)
    inner = array.where(elementwise.abs(value) >= 3, zero, value)
    return array.where(value <= -3, zero, array.where(value >= 3, value, inner * hard_sigmoid(inner)))


@located
def hard_tanh(x: Any, low: float = -1.0, high: float = 1.0) -> Expr:
    """x between low and high."""
    if low > high:
        raise AttributeValueError(f"hard_tanh limits from low to high, not from {low} to {high}; exchange them")
    return _between(_float(x), low, high)


@located
def tanh_shrink(x: Any) -> Expr:
    """x - tanh(x)"""
    value = _float(x)
    return value - tanh(value)


def shrink(x: Expr, edge: float, bias: float) -> Expr:
    """x moved by `bias` towards 0 outside [-edge, edge], 0 inside; NaN stays."""
    moved = array.where(x > edge, x - _number(bias, x), x + _number(bias, x))
    return array.where(elementwise.abs(x) <= edge, _number(0, x), moved)


@located
def hard_shrink(x: Any, edge: float = 0.5) -> Expr:
    """x outside [-edge, edge], 0 inside."""
    return shrink(_float(x), edge, 0.0)


@located
def soft_shrink(x: Any, edge: float = 0.5) -> Expr:
    """x moved by `edge` towards 0, and 0 inside [-edge, edge]."""
    return shrink(_float(x), edge, edge)


@located
def glu(x: Any, axis: int = -1) -> Expr:
    """The first half along an axis times the sigmoid of the second."""
    value = _float(x)
    at = array.normal_axis(axis, value.ndim)
    size = value.shape[at]
    if not isinstance(size, int) or size % 2:
        raise ShapeError(f"glu halves an axis of known even size; axis {at} of {value.node.type} is {size}")
    first, second = (value[(*[slice(None)] * at, part)] for part in (slice(size // 2), slice(size // 2, None)))
    return first * sigmoid(second)
