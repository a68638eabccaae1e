"""Normalisations."""

from graphir import array
from graphir.errors import FormatError
from graphir.expr import Expr
from graphir.nn.normalisation import channels, instance_norm
from graphir.onnx.call import Call, F, reads, scalar


@reads("BatchNormalization")
def _batch(call: Call) -> list[Expr | None]:
    x, scale, bias, mean, variance = (call[k] for k in range(5))
    found: list[Expr | None] = [None]
    if call.attr("training_mode", 0):
        axes = [axis for axis in range(x.ndim) if axis != 1]
        momentum = call.attr("momentum", 0.9)
        own_mean, own_variance = array.mean(x, axes), array.var(x, axes)
        found += [
            (mean * momentum + own_mean * (1 - momentum)).astype(mean.dtype),
            (variance * momentum + own_variance * (1 - momentum)).astype(variance.dtype),
        ]
        mean, variance = own_mean, own_variance
    wide = [channels(value, x) for value in (scale, bias, mean, variance)]
    root: Expr = F["sqrt"](wide[3] + call.attr("epsilon", 1e-5))
    found[0] = ((x - wide[2]) / root * wide[0] + wide[1]).astype(x.dtype)
    return found


@reads("InstanceNormalization")
def _instance(call: Call) -> Expr:
    return instance_norm(call[0], call[1], call[2], eps=call.attr("epsilon", 1e-5))


@reads("LpNormalization")
def _lp(call: Call) -> Expr:
    x = call[0]
    axis, p = call.attr("axis", -1), call.attr("p", 2)
    if p not in (1, 2):
        raise FormatError(f"LpNormalization has p 1 or 2, not {p}; export the model again")
    size: Expr = F["abs"](x).sum(axis, keepdims=True) if p == 1 else F["sqrt"](F["square"](x).sum(axis, keepdims=True))
    zero = size == 0
    return array.where(zero, scalar(0, x), x / array.where(zero, scalar(1, x), size))
