"""Narrow products of matrices: one factor has a few columns, so that the other is read once and nothing of it is packed.

BLAS copies both factors into blocks, which takes longer than to multiply by ten columns. Code is made for the number of columns and of terms,
not of rows. Each element's terms are added in an order that the sizes and the width of the processor's vectors decide.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from graphir.node import Array
from workers.backends.llvm import build
from workers.backends.llvm.panels import MOST_COLUMNS, registers, text

LONG = 256
"""Of one column with so many terms BLAS packs nothing."""
LEAST = 1 << 12
"""Elements of the large factor, from which on a call is worth more than BLAS's."""
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 2, ctypes.c_int64)


def matmul(x: Array, y: Array) -> Array:
    """The product of two stacks of matrices."""
    if x.ndim == 2 and x.dtype == y.dtype and x.dtype.isnative and x.dtype.char in "fd":
        found = _narrow(x, y)
        if found is not None:
            return found
    product: Array = np.matmul(x, y)
    return product


def _narrow(x: Array, y: Array) -> Array | None:
    """The product by compiled code; None if neither factor is narrow, or they do not lie in rows."""
    columns = y.shape[1]
    if x.size >= LEAST and (columns > 1 or x.shape[1] < LONG):
        if 0 < columns <= MOST_COLUMNS["rows"] and _in_rows(x):
            return _by_rows(x, y)
        if 0 < columns <= MOST_COLUMNS["sums"] and _in_rows(x.T) and y.flags.c_contiguous:
            sums = _over_rows(x.T, y)
            return None if sums is None else np.ascontiguousarray(sums.T)
    if 1 < x.shape[0] <= MOST_COLUMNS["sums"] and y.size >= LEAST and _in_rows(y) and x.T.flags.c_contiguous:
        return _over_rows(y, x.T)
    return None


def _in_rows(x: Array) -> bool:
    """Whether each row's elements lie beside one another."""
    return x.strides[1] == x.itemsize and x.strides[0] >= x.shape[1] * x.itemsize


def _by_rows(x: Array, y: Array) -> Array | None:
    """x @ y: each row of x is multiplied by all columns while it is in registers."""
    (rows, terms), columns = x.shape, y.shape[1]
    run, lanes = _compiled("rows", x.dtype.name, terms, columns)
    if run is None:
        return None
    packed = np.zeros((columns, -(-terms // lanes) * lanes), x.dtype)
    packed[:, :terms] = y.T
    out = np.empty((rows, columns), x.dtype)
    run(x.ctypes.data, x.strides[0], packed.ctypes.data, out.ctypes.data, rows)
    return out


def _over_rows(x: Array, y: Array) -> Array | None:
    """y.T @ x: sums over the rows of both."""
    (rows, terms), columns = x.shape, y.shape[1]
    run, lanes = _compiled("sums", x.dtype.name, terms, columns)
    if run is None:
        return None
    sums = np.zeros((columns, -(-terms // lanes) * lanes), x.dtype)
    run(x.ctypes.data, x.strides[0], y.ctypes.data, sums.ctypes.data, rows)
    return sums[:, :terms]


@cache
def _compiled(kind: str, dtype: str, terms: int, columns: int) -> tuple[Callable[..., Any] | None, int]:
    """The function and the lanes of a vector."""
    width = build.vector_bytes()
    lanes = width // np.dtype(dtype).itemsize
    if not width:
        return None, lanes
    return _FUNCTION(build.address(text(kind, dtype, terms, columns, lanes, registers(width)))), lanes
