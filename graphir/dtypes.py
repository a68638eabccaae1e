"""The dtypes by name, and the Array API's functions that ask about them."""

from typing import Any

import numpy as np

from graphir.errors import AttributeValueError, DTypeError
from graphir.expr import FUNCTIONS, Expr
from graphir.origin import located
from graphir.types import BOOL, FLOAT32, FLOAT64, INT64, DType, as_dtype, promote, promote_scalar

int8, int16, int32, uint8, uint16, uint32, uint64, float16 = (
    np.dtype(name) for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64", "float16")
)
bool_, int64, float32, float64 = BOOL, INT64, FLOAT32, FLOAT64

_KINDS = {
    "bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "iu", "real floating": "f",
    "complex floating": "c", "numeric": "iufc",
}  # fmt: skip


def _dtype_of(value: Any) -> DType:
    """The dtype of an expression or an array, or the dtype that a name stands for."""
    return value.dtype if type(value) is Expr else as_dtype(getattr(value, "dtype", value))


@located
def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype that values and dtypes promote to; Python numbers are weak."""
    scalars = [v for v in arrays_and_dtypes if type(v) in (bool, int, float)]
    strong = [_dtype_of(v) for v in arrays_and_dtypes if type(v) not in (bool, int, float)]
    if not strong:
        raise DTypeError("result_type needs at least one array or dtype, not Python numbers only")
    dtype = strong[0]
    for other in strong[1:]:
        dtype = promote(dtype, other)
    for scalar in scalars:
        dtype = promote_scalar(dtype, scalar)
    return dtype


@located
def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether promotion may turn the dtype of a value, or a dtype, into another."""
    source, target = _dtype_of(from_), as_dtype(to)
    return promote(source, target) == target


@located
def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind ("integral", "real floating", ...), equals a dtype, or is any of a tuple of these."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str):
        if kind not in _KINDS:
            raise AttributeValueError(f"kind {kind!r} is not known; use a dtype or one of {', '.join(_KINDS)}")
        return as_dtype(dtype).kind in _KINDS[kind]
    return as_dtype(dtype) == as_dtype(kind)


@located
def finfo(type: Any, /) -> np.finfo[Any]:
    """The limits of a float dtype: bits, eps, max, min, smallest_normal, dtype."""
    dtype = _dtype_of(type)
    if dtype.kind != "f":
        raise DTypeError(f"finfo needs a float dtype, not {dtype.name}; use iinfo for integers")
    return np.finfo(dtype)


@located
def iinfo(type: Any, /) -> np.iinfo[Any]:
    """The limits of an integer dtype: bits, max, min, dtype."""
    dtype = _dtype_of(type)
    if dtype.kind not in "iu":
        raise DTypeError(f"iinfo needs an integer dtype, not {dtype.name}; use finfo for floats")
    return np.iinfo(dtype)


FUNCTIONS |= {"result_type": result_type, "can_cast": can_cast}
