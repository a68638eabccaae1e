"""The bits of numbers, read as another type of the same width."""

import numpy as np

from graphir.errors import DTypeError
from graphir.example import Example, Sample
from graphir.node import Array, Op
from graphir.ops.rules import elementwise_axes
from graphir.types import TensorType, as_dtype


def _infer(x: TensorType, *, dtype: str) -> TensorType:
    wanted = as_dtype(dtype)
    if wanted.itemsize != x.dtype.itemsize:
        raise DTypeError(f"the bits of {x} are not those of {wanted}: the widths must be equal; cast first")
    if wanted.kind == "b" and x.dtype.kind != "b":
        raise DTypeError(f"the bits of {x} may not be those of a bool; compare with zero instead")
    return x.with_dtype(wanted)


def _kernel(x: Array, *, dtype: str) -> Array:
    return np.asarray(x).view(dtype)


bitcast: Op = Op(
    "bitcast",
    "The same bits read as another dtype of the same width.",
    arity=1,
    attrs={"dtype": "dtype"},
    infer=_infer,
    kernel=_kernel,
    vjp="bits carry no derivative",
    axes=elementwise_axes,
    examples=(
        Example((Sample((3, 4), "float32"),), {"dtype": "int32"}),
        Example((Sample((3,), "int64", -9, 9),), {"dtype": "float64"}),
        Example((Sample((3,), "bool"),), {"dtype": "uint8"}),
        Example((Sample((), "uint16", 0, 9),), {"dtype": "float16"}),
    ),
)
