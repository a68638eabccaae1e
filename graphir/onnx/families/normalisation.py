"""Normalisations, and Dropout as it is at inference."""

from graphir import array, manipulate
from graphir.errors import FormatError
from graphir.expr import Expr
from graphir.onnx.call import Call, F, reads, scalar


def _columns(values: Expr, rank: int) -> Expr:
    """A vector along axis 1."""
    return manipulate.reshape(values, [1 if axis != 1 else -1 for axis in range(rank)])


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
    wide = [_columns(value, x.ndim) for value in (scale, bias, mean, variance)]
    root: Expr = F["sqrt"](wide[3] + call.attr("epsilon", 1e-5))
    found[0] = ((x - wide[2]) / root * wide[0] + wide[1]).astype(x.dtype)
    return found


@reads("InstanceNormalization")
def _instance(call: Call) -> Expr:
    x = call[0]
    axes = list(range(2, x.ndim))
    centred = x - array.mean(x, axes, keepdims=True)
    root: Expr = F["sqrt"](array.var(x, axes, keepdims=True) + call.attr("epsilon", 1e-5))
    return centred / root * _columns(call[1], x.ndim) + _columns(call[2], x.ndim)


@reads("LpNormalization")
def _lp(call: Call) -> Expr:
    x = call[0]
    axis, p = call.attr("axis", -1), call.attr("p", 2)
    if p not in (1, 2):
        raise FormatError(f"LpNormalization has p 1 or 2, not {p}; export the model again")
    size: Expr = F["abs"](x).sum(axis, keepdims=True) if p == 1 else F["sqrt"](F["square"](x).sum(axis, keepdims=True))
    zero = size == 0
    return array.where(zero, scalar(0, x), x / array.where(zero, scalar(1, x), size))


@reads("Dropout")
def _dropout(call: Call) -> list[Expr | None]:
    """The value itself and a mask of trues: models are read as they are at inference."""
    x = call[0]
    training = bool(call.numbers(2).reshape(())) if call.has(2) else False
    if training:
        ratio = float(call.numbers(1).reshape(())) if call.has(1) else 0.5
        if ratio != 0.0:
            raise FormatError(
                "Dropout in training mode draws random numbers, which is not supported; export without it"
            )
    return [x, array.full(x.shape, True, "bool")]
