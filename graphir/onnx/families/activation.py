"""Activations, in forms whose derivatives are finite wherever the function is."""

import math

from graphir import manipulate
from graphir.expr import Expr
from graphir.onnx.call import Call, F, reads, scalar
from graphir.ops import special


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)), accurate for large negative x as well."""
    return F["exp"](-F["logaddexp"](scalar(0, x), -x))


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x))"""
    return F["logaddexp"](x, scalar(0, x))


def _exponential_below(x: Expr, alpha: Expr) -> Expr:
    """x above 0, alpha * (exp(x) - 1) below."""
    below: Expr = F["where"](x > 0, scalar(0, x), x)
    return F["where"](x > 0, x, alpha * F["expm1"](below))


@reads("Relu")
def _relu(call: Call) -> Expr:
    x = call[0]
    return F["where"](x <= 0, scalar(0, x), x)


@reads("LeakyRelu", "PRelu")
def _leaky(call: Call) -> Expr:
    x = call[0]
    slope = call[1] if call.node.op_type == "PRelu" else scalar(call.attr("alpha", 0.01), x)
    if slope.ndim == 1 and call.opset < 7 and x.ndim > 2:
        slope = manipulate.reshape(slope, (slope.shape[0], *[1] * (x.ndim - 2)))  # one for each channel then
    return F["where"](x > 0, x, slope * x)


@reads("ThresholdedRelu")
def _thresholded(call: Call) -> Expr:
    x = call[0]
    return F["where"](x > scalar(call.attr("alpha", 1.0), x), x, scalar(0, x))


@reads("Elu")
def _elu(call: Call) -> Expr:
    return _exponential_below(call[0], scalar(call.attr("alpha", 1.0), call[0]))


@reads("Selu")
def _selu(call: Call) -> Expr:
    x = call[0]
    alpha = scalar(call.attr("alpha", 1.67326319217681884765625), x)
    return scalar(call.attr("gamma", 1.05070102214813232421875), x) * _exponential_below(x, alpha)


@reads("Celu")
def _celu(call: Call) -> Expr:
    x = call[0]
    alpha = scalar(call.attr("alpha", 1.0), x)
    below: Expr = F["where"](x > 0, scalar(0, x), x / alpha)
    return F["where"](x > 0, x, alpha * F["expm1"](below))


@reads("Sigmoid")
def _sigmoid(call: Call) -> Expr:
    return sigmoid(call[0])


@reads("HardSigmoid")
def _hard_sigmoid(call: Call) -> Expr:
    x = call[0]
    return F["clip"](x * scalar(call.attr("alpha", 0.2), x) + scalar(call.attr("beta", 0.5), x), 0.0, 1.0)


@reads("HardSwish")
def _hard_swish(call: Call) -> Expr:
    x = call[0]
    return x * F["clip"](x * scalar(1 / 6, x) + 0.5, 0.0, 1.0)


@reads("Softplus")
def _softplus(call: Call) -> Expr:
    return softplus(call[0])


@reads("Softsign")
def _softsign(call: Call) -> Expr:
    return call[0] / (F["abs"](call[0]) + 1)


@reads("Mish")
def _mish(call: Call) -> Expr:
    return call[0] * F["tanh"](softplus(call[0]))


@reads("Swish")
def _swish(call: Call) -> Expr:
    x = call[0]
    return x * sigmoid(x * scalar(call.attr("alpha", 1.0), x))


@reads("Gelu")
def _gelu(call: Call) -> Expr:
    x = call[0]
    if call.attr("approximate", "none") == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
        return 0.5 * x * (F["tanh"](inner) + 1)
    return 0.5 * x * (Expr(special.erf((x * math.sqrt(0.5)).node)) + 1)


@reads("Shrink")
def _shrink(call: Call) -> Expr:
    x = call[0]
    bias, edge = scalar(call.attr("bias", 0.0), x), scalar(call.attr("lambd", 0.5), x)
    inner: Expr = F["where"](x > edge, x - bias, scalar(0, x))
    return F["where"](x < -edge, x + bias, inner)
