"""Normalisations. Statistics over the batch are sums over a dimension that may be cut."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from graphir import array, dims, elementwise, manipulate
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr, as_expr
from graphir.origin import located


class BatchNorm(NamedTuple):
    """The normalised value, and the running mean and variance to carry to the next step."""

    out: Expr
    mean: Expr
    var: Expr


def channels(values: Any, x: Expr) -> Expr:
    """A vector along axis 1 of x."""
    vector = as_expr(values)
    if vector.shape != (x.shape[1],):
        raise ShapeError(f"{vector.node.type} must have one number for each channel, axis 1 of {x.node.type}")
    return manipulate.reshape(vector, (1, vector.shape[0], *[1] * (x.ndim - 2)))


def _last(x: Expr, axes: int, **scales: Any) -> tuple[int, ...]:
    """The last axes of x, whose shape the scales must have."""
    if not 1 <= axes <= x.ndim:
        raise AttributeValueError(f"axes counts the last axes of {x.node.type}: from 1 to {x.ndim}, not {axes}")
    for name, value in scales.items():
        if value is not None and as_expr(value).shape != x.shape[x.ndim - axes :]:
            raise ShapeError(
                f"{name} {as_expr(value).node.type} must have the shape of the last {axes} axes of {x.node.type}"
            )
    return tuple(range(x.ndim - axes, x.ndim))


def _scaled(x: Expr, weight: Any, bias: Any) -> Expr:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias


def _standard(x: Expr, axes: Sequence[int], eps: float) -> Expr:
    centred = x - array.mean(x, axes, keepdims=True)
    spread = array.mean(elementwise.square(centred), axes, keepdims=True)
    return centred / elementwise.sqrt(spread + eps)


@located
def batch_norm(
    x: Any,
    mean: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> BatchNorm:
    """x [batch, channels, ...] normalised over all axes but 1 (Ioffe, Szegedy, ICML 2015).

    training: by the batch's own mean and variance; then mean and var, [channels], move towards these (the unbiased
    variance) by `momentum`, as in torch.nn.functional.batch_norm. Otherwise by mean and var, which stay.
    """
    value, old_mean, old_var = as_expr(x), as_expr(mean), as_expr(var)
    if value.ndim < 2:
        raise ShapeError(f"batch_norm needs [batch, channels, ...], not {value.node.type}")
    axes = [axis for axis in range(value.ndim) if axis != 1]
    scale = [None if v is None else channels(v, value) for v in (weight, bias)]
    wide_mean, wide_var = channels(old_mean, value), channels(old_var, value)
    if not training:
        even = (value - wide_mean) / elementwise.sqrt(wide_var + eps)
        return BatchNorm(_scaled(even, *scale), old_mean, old_var)
    own_mean, own_var = array.mean(value, axes), array.var(value, axes, correction=1)
    moved = [old * (1 - momentum) + new * momentum for old, new in ((old_mean, own_mean), (old_var, own_var))]
    return BatchNorm(_scaled(_standard(value, axes, eps), *scale), *moved)


@located
def layer_norm(x: Any, axes: int = 1, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Expr:
    """x normalised over its last `axes` axes (Ba, Kiros, Hinton, arXiv:1607.06450)."""
    value = as_expr(x)
    return _scaled(_standard(value, _last(value, axes, weight=weight, bias=bias), eps), weight, bias)


@located
def rms_norm(x: Any, axes: int = 1, weight: Any = None, *, eps: float = 1e-6) -> Expr:
    """x divided by its root mean square over its last axes (Zhang, Sennrich, NeurIPS 2019)."""
    value = as_expr(x)
    squares = array.mean(elementwise.square(value), _last(value, axes, weight=weight), keepdims=True)
    return _scaled(value / elementwise.sqrt(squares + eps), weight, None)


@located
def group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Expr:
    """x [batch, channels, ...] normalised over each of `groups` groups of channels (Wu, He, ECCV 2018)."""
    value = as_expr(x)
    each = dims.exact_quotient(value.shape[1], groups) if value.ndim > 1 else None
    if each is None:
        raise ShapeError(f"the channels (axis 1) of {value.node.type} do not divide into {groups} groups")
    split = manipulate.reshape(value, (value.shape[0], groups, each, *value.shape[2:]))
    even = manipulate.reshape(_standard(split, tuple(range(2, split.ndim)), eps), value.shape)
    return _scaled(even, *(None if v is None else channels(v, value) for v in (weight, bias)))


@located
def instance_norm(x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Expr:
    """x [batch, channels, sizes...] normalised over the spatial axes of each channel."""
    value = as_expr(x)
    if value.ndim < 3:
        raise ShapeError(f"instance_norm needs [batch, channels, sizes...], not {value.node.type}")
    even = _standard(value, tuple(range(2, value.ndim)), eps)
    return _scaled(even, *(None if v is None else channels(v, value) for v in (weight, bias)))
