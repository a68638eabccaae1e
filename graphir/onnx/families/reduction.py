"""Reductions, positions of extremes, and softmax."""

from collections.abc import Callable

import numpy as np

from graphir import array, manipulate
from graphir.expr import Expr
from graphir.onnx.call import Call, F, axis_of, reads
from graphir.types import INT64, as_dtype


def _sum(x: Expr, axes: list[int], keep: bool) -> Expr:
    return array.sum(x, axes, dtype=x.dtype, keepdims=keep)


def _mean(x: Expr, axes: list[int], keep: bool) -> Expr:
    if x.dtype.kind == "f":
        return array.mean(x, axes, keepdims=keep)
    return _sum(x, axes, keep) // array.count(x, tuple(axes))


def _extreme(name: str) -> Callable[[Expr, list[int], bool], Expr]:
    def reduce(x: Expr, axes: list[int], keep: bool) -> Expr:
        """bool goes through uint8: false < true."""
        if any(x.shape[axis] == 0 for axis in axes):
            return _of_nothing(x, axes, keep, name)
        if x.dtype.kind == "b":
            return F[name](x.astype(as_dtype("uint8")), axes, keepdims=keep).astype(x.dtype)
        return F[name](x, axes, keepdims=keep)

    return reduce


def _of_nothing(x: Expr, axes: list[int], keep: bool, name: str) -> Expr:
    """The neutral element, for axes of size 0."""
    low, high = (-np.inf, np.inf) if x.dtype.kind == "f" else (0, 1)
    if x.dtype.kind in "iu":
        low, high = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
    shape = [1 if axis in axes else d for axis, d in enumerate(x.shape) if keep or axis not in axes]
    return array.full(shape, low if name == "max" else high, x.dtype)


_REDUCTIONS: dict[str, Callable[[Expr, list[int], bool], Expr]] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _extreme("max"),
    "ReduceMin": _extreme("min"),
    "ReduceProd": lambda x, axes, keep: array.prod(x, axes, dtype=x.dtype, keepdims=keep),
    "ReduceL1": lambda x, axes, keep: _sum(F["abs"](x), axes, keep),
    "ReduceL2": lambda x, axes, keep: _through_floats(F["sqrt"], _sum(F["square"](x), axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: _sum(F["square"](x), axes, keep),
    "ReduceLogSum": lambda x, axes, keep: _through_floats(F["log"], _sum(x, axes, keep)),
    "ReduceLogSumExp": lambda x, axes, keep: array.logsumexp(x, axes, keepdims=keep).astype(x.dtype),
}


def _through_floats(function: Callable[[Expr], Expr], x: Expr) -> Expr:
    return function(x).astype(x.dtype)


@reads(*_REDUCTIONS)
def _reduce(call: Call) -> Expr:
    x = call[0]
    axes = call.axes(1)
    if not axes:
        axes = [] if call.attr("noop_with_empty_axes", 0) else list(range(x.ndim))
    axes = sorted(array.normal_axis(axis, x.ndim) for axis in axes)
    return _REDUCTIONS[call.node.op_type](x, axes, bool(call.attr("keepdims", 1)))


@reads("ArgMax", "ArgMin")
def _position(call: Call) -> Expr:
    x = call[0]
    axis = axis_of(call, 0, x.ndim)
    find = array.argmax if call.node.op_type == "ArgMax" else array.argmin
    keep = bool(call.attr("keepdims", 1))
    if not call.attr("select_last_index", 0):
        return find(x, axis, keepdims=keep)
    first = find(manipulate.flip(x, axis), axis, keepdims=keep)
    return array.count(x, (axis,)).astype(INT64) - 1 - first


@reads("Softmax", "LogSoftmax", "Hardmax")
def _softmax(call: Call) -> Expr:
    """Along one axis; before operator set 13 along all axes from it on."""
    x = call[0]
    old = call.opset < 13
    axis = axis_of(call, 1 if old else -1, x.ndim)
    axes = tuple(range(axis, x.ndim)) if old else (axis,)
    match call.node.op_type:
        case "Softmax":
            return array.softmax(x, axes)
        case "LogSoftmax":
            return array.log_softmax(x, axes)
    first = array.argmax(x, axis, keepdims=True)
    counted = manipulate.reshape(array.arange(str(x.shape[axis])), [-1 if a == axis else 1 for a in range(x.ndim)])
    return (first == counted).astype(x.dtype)
