"""Activations: what an operator's attributes mean."""

from graphir import manipulate
from graphir.expr import Expr
from graphir.nn import activation
from graphir.onnx.call import Call, F, reads, scalar


@reads("Relu")
def _relu(call: Call) -> Expr:
    return activation.relu(call[0])


@reads("LeakyRelu", "PRelu")
def _leaky(call: Call) -> Expr:
    x = call[0]
    slope = call[1] if call.node.op_type == "PRelu" else scalar(call.attr("alpha", 0.01), x)
    if slope.ndim == 1 and call.opset < 7 and x.ndim > 2:
        slope = manipulate.reshape(slope, (slope.shape[0], *[1] * (x.ndim - 2)))  # one for each channel then
    return activation.leaky_relu(x, slope)


@reads("ThresholdedRelu")
def _thresholded(call: Call) -> Expr:
    x = call[0]
    return F["where"](x > scalar(call.attr("alpha", 1.0), x), x, scalar(0, x))


@reads("Elu")
def _elu(call: Call) -> Expr:
    return activation.elu(call[0], call.attr("alpha", 1.0))


@reads("Selu")
def _selu(call: Call) -> Expr:
    x = call[0]
    scale, alpha = call.attr("gamma", activation.SELU[0]), call.attr("alpha", activation.SELU[1])
    return scalar(scale, x) * activation.elu(x, alpha)


@reads("Celu")
def _celu(call: Call) -> Expr:
    return activation.celu(call[0], call.attr("alpha", 1.0))


@reads("Sigmoid")
def _sigmoid(call: Call) -> Expr:
    return activation.sigmoid(call[0])


@reads("HardSigmoid")
def _hard_sigmoid(call: Call) -> Expr:
    x = call[0]
    return F["clip"](x * scalar(call.attr("alpha", 0.2), x) + scalar(call.attr("beta", 0.5), x), 0.0, 1.0)


@reads("HardSwish")
def _hard_swish(call: Call) -> Expr:
    return activation.hard_swish(call[0])


@reads("Softplus")
def _softplus(call: Call) -> Expr:
    return activation.softplus(call[0])


@reads("Softsign")
def _softsign(call: Call) -> Expr:
    return activation.softsign(call[0])


@reads("Mish")
def _mish(call: Call) -> Expr:
    return activation.mish(call[0])


@reads("Swish")
def _swish(call: Call) -> Expr:
    x = call[0]
    return x * activation.sigmoid(x * scalar(call.attr("alpha", 1.0), x))


@reads("Gelu")
def _gelu(call: Call) -> Expr:
    return activation.gelu(call[0], approximate=call.attr("approximate", "none") == "tanh")


@reads("Shrink")
def _shrink(call: Call) -> Expr:
    x = call[0]
    return activation.shrink(x, call.attr("lambd", 0.5), call.attr("bias", 0.0))
