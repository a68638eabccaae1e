"""Tensor types: a numpy dtype and a shape of dimensions (`graphir.dims`).

Types are interned values: equal ones are the same object, so comparing and hashing them costs next to nothing. Promotion follows the Array API standard 2024.12 where it
speaks and numpy where it does not; Python scalars are weak (NEP 50).
"""

import functools
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphir import dims
from graphir.dims import Dim
from graphir.errors import DTypeError, ShapeError

DType: TypeAlias = np.dtype[Any]
Shape: TypeAlias = tuple[Dim, ...]

DTYPES: tuple[DType, ...] = tuple(
    np.dtype(name)
    for name in (
        [
            "bool",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
        ]
    )
)
BOOL, INT64, FLOAT32, FLOAT64 = (np.dtype(name) for name in ("bool", "int64", "float32", "float64"))
MAX_RANK = 32


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TensorType:
    """The type of a value: its dtype and its shape."""

    dtype: DType
    shape: Shape

    def __new__(cls, dtype: DType, shape: Shape) -> "TensorType":
        """The one type of these parts."""
        with _LOCK:
            known = _TYPES.get((dtype, shape))
            if known is None:
                known = _TYPES[dtype, shape] = object.__new__(cls)
            return known

    def __reduce__(self) -> "tuple[type[TensorType], tuple[DType, Shape]]":
        return TensorType, (self.dtype, self.shape)

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def bind(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape as numbers, given the size of each name."""
        return tuple(d if isinstance(d, int) else dims.evaluate(d, sizes) for d in self.shape)

    def with_shape(self, shape: Shape) -> "TensorType":
        """The same dtype with another shape."""
        return tensor_type(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> "TensorType":
        """The same shape with another dtype."""
        return tensor_type(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"


_LOCK = threading.Lock()
_TYPES: "weakref.WeakValueDictionary[tuple[DType, Shape], TensorType]" = weakref.WeakValueDictionary()


@functools.lru_cache(maxsize=65536)
def tensor_type(dtype: DType, shape: Shape) -> TensorType:
    """The TensorType of checked parts (canonical dims, a supported dtype)."""
    return TensorType(dtype, shape)


def as_dtype(value: object) -> DType:
    """A supported dtype from a dtype, a name or a numpy scalar type; DTypeError otherwise."""
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]  # whatever numpy accepts, checked below
    except TypeError:
        dtype = None
    if dtype is not None:
        dtype = dtype.newbyteorder("=")
        if dtype in DTYPES:
            return DTYPES[DTYPES.index(dtype)]
    known = ", ".join(d.name for d in DTYPES)
    raise DTypeError(f"dtype {value!r} is not supported; use one of {known}")


def as_shape(value: object) -> Shape:
    """A canonical shape from an int, a name or a sequence of them."""
    if isinstance(value, int | str) or not isinstance(value, Sequence):
        value = (value,) if not isinstance(value, tuple | list | np.ndarray) else tuple(value)
    if len(value) > MAX_RANK:
        raise ShapeError(f"a shape has at most {MAX_RANK} axes; this one has {len(value)}")
    return tuple(dims.dim(d) for d in value)


def is_float(dtype: DType) -> bool:
    """Whether values of this dtype can carry derivatives."""
    return dtype.kind == "f"


@functools.lru_cache(maxsize=1024)
def promote(a: DType, b: DType) -> DType:
    """The common dtype of two arrays."""
    return as_dtype(np.promote_types(a, b))


def promote_scalar(dtype: DType, scalar: bool | int | float) -> DType:
    """The common dtype of an array and a Python scalar, which is weak: it changes the kind at most."""
    if isinstance(scalar, bool):
        return dtype
    if isinstance(scalar, int):
        return INT64 if dtype.kind == "b" else dtype
    return dtype if dtype.kind == "f" else FLOAT64


def float_for(dtype: DType) -> DType:
    """The dtype in which a transcendental function of `dtype` is computed: itself, or float64."""
    return dtype if dtype.kind == "f" else FLOAT64


def broadcast_shapes(a: Shape, b: Shape) -> Shape:
    """The common shape by numpy's rule, on symbolic dimensions; ShapeError if there is none."""
    if a == b:
        return a
    rank = max(len(a), len(b))
    left, right = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    out: list[Dim] = []
    for axis, (x, y) in enumerate(zip(left, right, strict=True)):
        if x != y and x != 1 and y != 1:
            raise ShapeError(
                f"shapes {show_shape(a)} and {show_shape(b)} do not broadcast: axis {axis - rank} is {x} on the "
                f"left and {y} on the right; reshape, broadcast or name the sizes alike"
            )
        out.append(y if x == 1 else x)
    return tuple(out)


def show_shape(shape: Shape) -> str:
    """A shape as users write it: (n, 64)."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
