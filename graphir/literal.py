"""Literal: the immutable array inside a constant node, compared and hashed by content."""

import hashlib
from typing import Any, final

import numpy as np
import numpy.typing as npt

from graphir.types import TensorType, as_dtype, tensor_type


@final
class Literal:
    """A read-only C-contiguous array with its content digest (SHA-256 of dtype, shape and bytes)."""

    __slots__ = ("array", "digest")

    def __init__(self, value: npt.ArrayLike) -> None:
        array = np.asarray(value)
        # copied unless it is our own or cannot change, so that later writes by the owner do not reach the graph
        array = np.array(array, dtype=as_dtype(array.dtype), order="C", copy=array.flags.writeable or None)
        array.flags.writeable = False
        self.array: npt.NDArray[Any] = array
        head = f"{array.dtype.name}{array.shape}".encode()
        self.digest = hashlib.sha256(head + array.tobytes()).digest() if array.nbytes < 4096 else _digest(head, array)

    @property
    def type(self) -> TensorType:
        """dtype and shape"""
        return tensor_type(as_dtype(self.array.dtype), self.array.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        if self.array.size <= 6:
            return f"Literal({self.array.tolist()})"
        return f"Literal({self.type}, {self.digest.hex()[:12]})"


def _digest(head: bytes, array: npt.NDArray[Any]) -> bytes:
    hasher = hashlib.sha256(head)
    hasher.update(array.data.cast("B") if array.ndim else array.tobytes())
    return hasher.digest()
