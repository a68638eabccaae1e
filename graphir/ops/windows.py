"""The windows over the last axes of a value, as a view of it, and the adjoint, which adds them back."""

from math import prod

import numpy as np

from graphir.axes import AxisRule
from graphir.errors import AttributeValueError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Op
from graphir.ops.correlate import Ints, Windows, add_windows, view
from graphir.ops.rules import ALL, NUMBERS, letters, need_kind
from graphir.types import TensorType


def _reach(kernel: Ints, outputs: Ints, strides: Ints, dilations: Ints) -> Ints:
    return Windows(kernel, strides, dilations, (0,) * len(kernel), outputs).reach


def infer_windows(x: TensorType, *, kernel: Ints, outputs: Ints, strides: Ints, dilations: Ints) -> TensorType:
    """Leading axes, outputs, kernel."""
    need_kind(x, ALL)
    lead = x.rank - len(kernel)
    if lead < 0 or not len(kernel) == len(outputs) == len(strides) == len(dilations):
        raise AttributeValueError(
            f"kernel, outputs, strides and dilations must have one number for each last axis of {x}"
        )
    if min([*kernel, *outputs, *strides, *dilations], default=1) < 1:
        raise AttributeValueError("kernel, outputs, strides and dilations are at least 1")
    sizes, reach = x.shape[lead:], _reach(kernel, outputs, strides, dilations)
    if any(isinstance(d, str) or d < r for d, r in zip(sizes, reach, strict=True)):
        raise ShapeError(f"windows that reach over {reach} do not fit into the last axes of {x}")
    return x.with_shape((*x.shape[:lead], *outputs, *kernel))


def _infer_unwindows(x: TensorType, *, sizes: Ints, strides: Ints, dilations: Ints) -> TensorType:
    need_kind(x, NUMBERS)
    rank = len(sizes)
    lead = x.rank - 2 * rank
    if lead < 0 or not rank == len(strides) == len(dilations) or min([*strides, *dilations], default=1) < 1:
        raise AttributeValueError(
            f"sizes, strides and dilations must have one number for each two of the last axes of {x}"
        )
    parts = x.shape[lead:]
    if any(isinstance(d, str) for d in parts):
        raise ShapeError(f"windows need axes of known size, not {x}")
    reach = _reach(tuple(map(int, parts[rank:])), tuple(map(int, parts[:rank])), strides, dilations)
    if any(s < r for s, r in zip(sizes, reach, strict=True)):
        raise ShapeError(f"windows that reach over {reach} do not fit into {sizes}")
    return x.with_shape((*x.shape[:lead], *sizes))


def _windows_kernel(x: Array, *, kernel: Ints, outputs: Ints, strides: Ints, dilations: Ints) -> Array:
    rank = len(kernel)
    lead = x.ndim - rank
    found = view(x, Windows(kernel, strides, dilations, (0,) * rank, outputs))
    order = (*range(lead), *range(lead + rank, lead + 2 * rank), *range(lead, lead + rank))
    return found.transpose(order)


def _unwindows_kernel(x: Array, *, sizes: Ints, strides: Ints, dilations: Ints) -> Array:
    rank = len(sizes)
    lead = x.ndim - 2 * rank
    g = Windows(x.shape[lead + rank :], strides, dilations, (0,) * rank, x.shape[lead : lead + rank])
    order = (*range(lead), *range(lead + rank, lead + 2 * rank), *range(lead, lead + rank))
    apart = all(s >= r for s, r in zip(strides, _reach(g.kernel, (1,) * rank, (1,) * rank, dilations), strict=True))
    full = apart and prod(g.kernel) * prod(g.outputs) == prod(sizes)
    out = np.empty((*x.shape[:lead], *sizes), x.dtype) if full else np.zeros((*x.shape[:lead], *sizes), x.dtype)
    add_windows(out, x.transpose(order), g, alone=apart)
    return out


def _axes(types: tuple[TensorType, ...], inner: int, outer: int) -> AxisRule:
    """Leading axes are kept; the last ones of both sides are whole."""
    lead = letters(types[0].rank - inner)
    left, right = letters(inner, "x"), letters(outer, "y")
    return AxisRule(((*lead, *left),), (*lead, *right), None, frozenset((*left, *right)))


windows: Op = Op(
    "windows",
    "The windows over the last axes: (leading axes, outputs, kernel); window o of an axis begins at o * stride.",
    arity=1,
    attrs={"kernel": "ints", "outputs": "ints", "strides": "ints", "dilations": "ints"},
    infer=infer_windows,
    kernel=_windows_kernel,
    vjp=(
        lambda ct, out, x, *, kernel, outputs, strides, dilations: unwindows(
            ct, sizes=x.type.shape[x.type.rank - len(kernel) :], strides=strides, dilations=dilations
        ),
    ),
    axes=lambda types, attrs: _axes(types, len(attrs["kernel"]), 2 * len(attrs["kernel"])),
    examples=(
        Example((Sample((2, 5)),), {"kernel": (3,), "outputs": (3,), "strides": (1,), "dilations": (1,)}),
        Example((Sample((2, 4, 6)),), {"kernel": (2, 2), "outputs": (2, 2), "strides": (2, 3), "dilations": (1, 2)}),
    ),
    linear=True,
    cheap=True,
)

unwindows: Op = Op(
    "unwindows",
    "The elements of windows added at their places among zeros of `sizes`: the adjoint of windows.",
    arity=1,
    attrs={"sizes": "ints", "strides": "ints", "dilations": "ints"},
    infer=_infer_unwindows,
    kernel=_unwindows_kernel,
    vjp=(
        lambda ct, out, x, *, sizes, strides, dilations: windows(
            ct,
            kernel=x.type.shape[x.type.rank - len(sizes) :],
            outputs=x.type.shape[x.type.rank - 2 * len(sizes) : x.type.rank - len(sizes)],
            strides=strides,
            dilations=dilations,
        ),
    ),
    axes=lambda types, attrs: _axes(types, 2 * len(attrs["sizes"]), len(attrs["sizes"])),
    examples=(
        Example((Sample((2, 3, 3)),), {"sizes": (5,), "strides": (1,), "dilations": (1,)}),
        Example((Sample((2, 2, 2, 2, 2)),), {"sizes": (4, 6), "strides": (2, 3), "dilations": (1, 2)}),
    ),
    linear=True,
)
