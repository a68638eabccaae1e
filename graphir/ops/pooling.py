"""The largest element of each window over the last axes, and its adjoint. Both go over all windows, one element of a window at a time."""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.errors import ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op
from graphir.ops.arithmetic import divide, multiply, tie_share
from graphir.ops.correlate import Ints, Windows, places
from graphir.ops.layout import reduce_sum, spread
from graphir.ops.rules import FLOATS, NUMBERS, letters, need_kind
from graphir.ops.windows import infer_windows, windows
from graphir.types import TensorType

_ATTRS = {"kernel": "ints", "outputs": "ints", "strides": "ints", "dilations": "ints"}


def _infer_max(x: TensorType, *, kernel: Ints, **attrs: Ints) -> TensorType:
    need_kind(x, NUMBERS)
    found = infer_windows(x, kernel=kernel, **attrs)
    return x.with_shape(found.shape[: x.rank])


def _infer_share(ct: TensorType, x: TensorType, **attrs: Ints) -> TensorType:
    need_kind(x, FLOATS)
    wanted = _infer_max(x, **attrs)
    if ct != wanted:
        raise ShapeError(f"what is shared must be of type {wanted}, not {ct}")
    return x


def _geometry(kernel: Ints, outputs: Ints, strides: Ints, dilations: Ints) -> Windows:
    return Windows(kernel, strides, dilations, (0,) * len(kernel), outputs)


def max_kernel(x: Array, **attrs: Ints) -> Array:
    """The largest elements, along one axis after the other: the largest of the largest."""
    for axis, (size, count, stride, gap) in enumerate(zip(*[attrs[name] for name in _ATTRS], strict=True)):
        before: list[Any] = [slice(None)] * (x.ndim - len(attrs["kernel"]) + axis)
        reach = (count - 1) * stride + 1
        first, *others = [x[(*before, slice(k * gap, k * gap + reach, stride))] for k in range(size)]
        x = np.maximum(first, others[0]) if others else first
        for other in others[1:]:
            np.maximum(x, other, out=x)
    return np.array(x, order="C", copy=None if max(attrs["kernel"]) > 1 else True)


def share_kernel(ct: Array, x: Array, **attrs: Ints) -> Array:
    """What each element gets."""
    g, largest = _geometry(**attrs), max_kernel(x, **attrs)
    taps = list(np.ndindex(g.kernel))
    tied = [np.equal(x[places(g, tap)], largest) for tap in taps]
    count = tied[0].astype(np.min_scalar_type(len(taps)))
    for one in tied[1:]:
        count += one
    part = ct / count.astype(ct.dtype)
    out = np.zeros(x.shape, x.dtype)
    apart = all(s >= (k - 1) * d + 1 for s, k, d in zip(g.strides, g.kernel, g.dilations, strict=True))
    for tap, one in zip(taps, tied, strict=True):
        target = out[places(g, tap)]
        if apart:
            np.multiply(part, one, out=target)
        else:
            target += part * one
    return out


def _parted(given: Node, out: Node, ct: Node, x: Node, **attrs: Ints) -> Node:
    """The adjoint of sharing: what comes back for each window."""
    axes = tuple(range(x.type.rank, x.type.rank + len(attrs["kernel"])))
    wide = windows(x, **attrs)
    shares = tie_share(wide, spread(window_max(x, **attrs), wide, axes))
    return divide(reduce_sum(multiply(windows(given, **attrs), shares), axes=axes), reduce_sum(shares, axes=axes))


def _axes(types: tuple[TensorType, ...], attrs: dict[str, Any], shared: bool) -> AxisRule:
    rank = len(attrs["kernel"])
    lead = letters(types[-1].rank - rank)
    left, right = (*lead, *letters(rank, "x")), (*lead, *letters(rank, "y"))
    whole = frozenset((*left, *right)) - frozenset(lead)
    return AxisRule((right, left), left, None, whole) if shared else AxisRule((left,), right, None, whole)


_CASES: tuple[tuple[Ints, Ints, dict[str, Ints]], ...] = (
    ((2, 6), (2, 3), {"kernel": (2,), "outputs": (3,), "strides": (2,), "dilations": (1,)}),
    ((2, 5, 5), (2, 3, 2), {"kernel": (3, 2), "outputs": (3, 2), "strides": (1, 2), "dilations": (1, 2)}),
)

window_max: Op = Op(
    "window_max",
    "The largest element of each window over the last axes; NaN if one is. Window o of an axis begins at o * stride.",
    arity=1,
    attrs=_ATTRS,
    infer=_infer_max,
    kernel=max_kernel,
    vjp=(lambda ct, out, x, **attrs: window_max_share(ct, x, **attrs),),
    axes=lambda types, attrs: _axes(types, attrs, shared=False),
    examples=tuple([Example((Sample(x),), attrs) for x, _, attrs in _CASES]),
)

window_max_share: Op = Op(
    "window_max_share",
    "The first input's elements, one a window, shared evenly among the largest elements of each window of the second.",
    arity=2,
    attrs=_ATTRS,
    infer=_infer_share,
    kernel=share_kernel,
    vjp=(_parted, None),
    axes=lambda types, attrs: _axes(types, attrs, shared=True),
    examples=tuple([Example((Sample(y), Sample(x)), attrs) for x, y, attrs in _CASES]),
    cost=3,
)
