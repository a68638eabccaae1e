"""The discrete Fourier transform of complex values held as pairs of reals.

The transform is symmetric: its adjoint is the one with the other sign of the exponent and the same factor, so one op is
its own derivative. Half transforms of real values are compositions with it.
"""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.errors import AttributeValueError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op
from graphir.ops.rules import FLOATS, letters, need_axis, need_kind
from graphir.types import TensorType


def _infer(x: TensorType, *, axis: int, inverse: bool, scaled: bool) -> TensorType:
    need_kind(x, FLOATS)
    need_axis(x, axis)
    if x.shape[-1] != 2:
        raise ShapeError(f"{x} needs a last axis of size 2, which holds the real and the imaginary part")
    if axis == x.rank - 1:
        raise AttributeValueError(f"axis {axis} of {x} holds real and imaginary parts; transform another one")
    return x


def _kernel(x: Array, *, axis: int, inverse: bool, scaled: bool) -> Array:
    """In single precision for float16 too."""
    if not x.size:
        return x
    wide = np.ascontiguousarray(x, np.promote_types(x.dtype, np.float32))
    values = wide.view(np.result_type(wide.dtype, np.complex64))[..., 0]
    function = np.fft.ifft if inverse else np.fft.fft
    found = function(values, axis=axis, norm="backward" if inverse == scaled else "forward")
    return np.ascontiguousarray(found)[..., None].view(wide.dtype).astype(x.dtype, copy=False)


def _vjp(ct: Node, out: Node, x: Node, *, axis: int, inverse: bool, scaled: bool) -> Node:
    return fourier(ct, axis=axis, inverse=not inverse, scaled=scaled)


def _axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names = letters(types[0].rank)
    return AxisRule((names,), names, None, frozenset({names[attrs["axis"]], names[-1]}))


fourier: Op = Op(
    "fourier",
    "y[k] = sum over m of x[m] exp(-2 pi i k m / n) along one axis; inverse: exp(+...); scaled: the mean instead of the "
    "sum. The last axis holds the real and the imaginary part.",
    arity=1,
    attrs={"axis": "int", "inverse": "bool", "scaled": "bool"},
    infer=_infer,
    kernel=_kernel,
    vjp=(_vjp,),
    axes=_axes,
    examples=(
        Example((Sample((3, 5, 2)),), {"axis": 1, "inverse": False, "scaled": False}),
        Example((Sample((4, 3, 2)),), {"axis": 0, "inverse": True, "scaled": True}),
        Example((Sample((3, 2, 2)),), {"axis": 0, "inverse": False, "scaled": True}),
        Example((Sample((6, 2), "float32"),), {"axis": 0, "inverse": False, "scaled": False}),
    ),
    linear=True,
    cost=20,
)
