"""Arrays as numpy writes them, alone or as members of an archive."""

import io
import sys
import tokenize
from math import prod
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from graphir import tensors
from graphir.dims import PARSING
from graphir.tensors import Array
from workers.data.file import File, Table, decoded

_HEADER_BYTES = 1 << 17  # more than numpy accepts as an .npy header
_PREFIX = 12  # magic, version, and the longest form of the header's length
_ERRORS = (
    ValueError, TypeError, SyntaxError, EOFError, OverflowError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip


class Layout(NamedTuple):
    """An .npy header: what the bytes from `offset` on mean."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int

    def array(self, buffer: memoryview | Array, offset: int) -> Array:
        """The whole array in these bytes."""
        return np.ndarray(self.shape, self.dtype, buffer=buffer, offset=offset, order=self.order)


def open_npy(file: File) -> Table:
    """An .npy file."""
    if file.dataset.column is not None:
        raise file.fault("an .npy file has no columns; leave column out")
    return npy_at(file, 0, file.size)


def npy_at(file: File, begin: int, size: int) -> Table:
    """The .npy file that lies at `begin` of a file's bytes."""
    layout = read_layout(file, io.BytesIO(_head(file, begin, size)), size)
    start = begin + layout.offset
    if layout.order == "C" or len(layout.shape) < 2:
        return contiguous(file, layout.dtype, layout.shape, start)

    def fetched() -> Array:
        return layout.array(file.bytes.view(start, begin + size), 0)

    def whole() -> Array:  # rows lie apart from one another, so from elsewhere all of it is fetched, once
        return fetched() if mapped else decoded.get((file.identity, begin), fetched)

    mapped = file.bytes.path is not None
    return Table(layout.dtype, layout.shape, lambda first, last: whole()[first:last], whole, mapped)


def _head(file: File, begin: int, size: int) -> bytes:
    """The bytes of the header, perhaps some more."""
    prefix = bytes(file.bytes.view(begin, begin + min(size, _PREFIX)))
    width = 2 if prefix[6:7] == b"\1" else 4
    length = int.from_bytes(prefix[8 : 8 + width], "little")
    return bytes(file.bytes.view(begin, begin + min(size, _PREFIX + length, _HEADER_BYTES)))


def contiguous(file: File, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Table:
    """An array in C order whose bytes begin at `offset`: of rows, only their own bytes are taken."""
    size, width = prod(shape) * dtype.itemsize, prod(shape[1:]) * dtype.itemsize

    def whole() -> Array:
        return np.ndarray(shape, dtype, buffer=file.bytes.view(offset, offset + size))

    def rows(start: int, stop: int) -> Array:
        found = file.bytes.view(offset + start * width, offset + stop * width)
        return np.ndarray((stop - start, *shape[1:]), dtype, buffer=found)

    return Table(dtype, shape, rows, whole, file.bytes.path is not None)


def read_layout(file: File, stream: IO[bytes], size: int) -> Layout:
    """Parse an .npy header and check it against the `size` of header and data."""
    try:
        version = npy.read_magic(stream)
        # Version 3 differs in the encoding of field names only, and fields are refused below.
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with PARSING:  # it holds a Python literal
            shape, fortran, dtype = read_header(stream)
        shape, offset = tuple(map(int, shape)), stream.tell()
    except _ERRORS as error:
        raise file.fault(f"not a readable .npy header ({error}); save it again with numpy.save") from error
    if dtype.hasobject:
        raise file.fault("holds pickled Python objects, which are never loaded; save an array of numbers")
    if dtype.newbyteorder("=") not in tensors.DTYPES:
        known = ", ".join(sorted(map(str, tensors.DTYPES)))
        raise file.fault(f"dtype {dtype} is not one of {known}; convert it before saving")
    extent = prod(size or 1 for size in shape) * dtype.itemsize
    if any(size < 0 for size in shape) or len(shape) > tensors.MAX_RANK or extent > sys.maxsize:
        raise file.fault(f"its shape {shape!r:.80} is not possible; the file is damaged, save it again")
    need = offset + prod(shape) * dtype.itemsize
    if need != size:
        state = "is truncated, copy it again" if need > size else "holds more than one array, save it again"
        raise file.fault(f"shape {shape} of {dtype} needs {need} bytes and there are {size}; it {state}")
    return Layout(dtype, shape, "F" if fortran else "C", offset)
