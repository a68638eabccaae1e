"""Dataset readers: rows of an array in a file, memory-mapped where the format allows.

`open_source` looks at headers only. `Source.read` gives rows as a view of the mapped file; where the
bytes are not what kernels want (big-endian, Fortran order, misaligned) it gives a copy of those rows,
so equal rows have equal layout, and equal results, whatever file they come from. A compressed member
of an .npz is decompressed once a process, as long as the bounded cache keeps it.

Assumption: files do not change while they are read. A changed size or time stamp is an error, but
a file that shrinks between that check and the access kills the process, as with any mapping.
A new format is one function and one entry of `READERS`.
"""

import io
import lzma
import os
import re
import sys
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import IO, Any, Literal, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.lib import format as npy

from graphir import tensors
from graphir.dataset import Dataset
from graphir.errors import DatasetError, FormatError, LimitError
from graphir.tensors import Array

CACHE_BYTES = 1 << 30
"""How many bytes of decompressed .npz members a process keeps; the newest one is always kept."""

_HEADER_BYTES = 1 << 17  # more than numpy accepts as an .npy header
_PIECE = 1 << 20  # bytes decompressed in one call
_LOCAL_HEADER = 30  # fixed part of the header before each member of a zip file
_NPY_ERRORS = (
    ValueError, TypeError, SyntaxError, EOFError, OverflowError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, NotImplementedError,
    RuntimeError, OverflowError, MemoryError,
)  # fmt: skip


class Fingerprint(NamedTuple):
    """A quick identity of a file: it changes when the file does, and costs no reading."""

    path: str
    size: int
    mtime_ns: int


class Source:
    """An open dataset: what it holds, and its rows on demand."""

    __slots__ = ("_load", "dataset", "dtype", "fingerprint", "shape")

    def __init__(
        self,
        dataset: Dataset,
        fingerprint: Fingerprint,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        load: Callable[[], Array],
    ) -> None:
        self.dataset, self.fingerprint = dataset, fingerprint
        self.dtype, self.shape = dtype.newbyteorder("="), shape
        self._load = load

    def __repr__(self) -> str:
        return f"<{self.dataset}: {self.dtype} {self.shape}>"

    @property
    def rows(self) -> int:
        """The length of axis 0."""
        if not self.shape:
            raise _fault(self.dataset, "holds a single number, which has no rows; read the whole of it")
        return self.shape[0]

    def read(self, start: int, stop: int) -> Array:
        """Rows `start` up to `stop`: read-only, C order, native; a view where the file allows."""
        if not 0 <= start <= stop <= self.rows:
            raise _fault(self.dataset, f"has no rows {start}:{stop}; it has {self.rows}")
        return self._ready(self._unchanged()[start:stop])

    def whole(self) -> Array:
        """All of it, whatever its rank, in the same form as `read`."""
        return self._ready(self._unchanged()[...])

    def _unchanged(self) -> Array:
        path = self.fingerprint.path
        try:
            same = _fingerprint(path, os.stat(path)) == self.fingerprint
        except OSError as error:
            raise _fault(self.dataset, f"is gone since it was opened ({error.strerror})") from error
        if not same:
            raise _fault(self.dataset, "has changed since it was opened; submit the job again")
        return self._load()

    def _ready(self, block: Array) -> Array:
        if tensors.has_invalid_bool(block):
            raise _fault(self.dataset, "is boolean but holds bytes other than 0 and 1; store it as uint8")
        array = np.require(block, self.dtype, ["C", "A"])
        array.setflags(write=False)
        return array


@dataclass(frozen=True, slots=True)
class _File:
    dataset: Dataset
    fingerprint: Fingerprint
    data: memoryview

    def fault(self, what: str) -> DatasetError:
        return _fault(self.dataset, what)

    def source(self, dtype: np.dtype[Any], shape: tuple[int, ...], load: Callable[[], Array]) -> Source:
        return Source(self.dataset, self.fingerprint, dtype, shape, load)

    def column(self, names: Collection[str]) -> str:
        """The asked-for column, which must be one of `names`."""
        column = self.dataset.column
        listed = ", ".join(sorted(names)[:20]) + (", ..." if len(names) > 20 else "")
        if column is None:
            raise self.fault(f"needs a column; choose one with column=: {listed or '(it has none)'}")
        if column not in names:
            raise self.fault(f"has no such column; it has: {listed or '(none)'}")
        return column


def open_source(dataset: Dataset) -> Source:
    """Open a dataset and check its header; no data is read."""
    path = _path(dataset)
    extension = os.path.splitext(path)[1].lower()
    reader = READERS.get(extension)
    if reader is None:
        raise _fault(dataset, f"the extension {extension!r} is not known; known ones: {', '.join(READERS)}")
    try:
        data, status = tensors.map_file(path)
    except FileNotFoundError as error:
        hint = "" if os.path.isabs(path) else f" (a relative path, looked for in {os.getcwd()})"
        raise _fault(dataset, f"no such file{hint}; it must be visible to every worker") from error
    except PermissionError as error:
        raise _fault(dataset, "permission denied; make the file readable for the workers' user") from error
    except (OSError, ValueError, FormatError) as error:
        raise _fault(dataset, f"cannot be opened ({error}); check the path and the disk") from error
    return reader(_File(dataset, _fingerprint(os.path.realpath(path), status), data))


def _fault(dataset: Dataset, what: str) -> DatasetError:
    column = "" if dataset.column is None else f" column {dataset.column!r}"
    return DatasetError(f"dataset {dataset.url!r}{column}: {what}")


def _fingerprint(path: str, status: os.stat_result) -> Fingerprint:
    return Fingerprint(path, status.st_size, status.st_mtime_ns)


def _path(dataset: Dataset) -> str:
    match = re.match(r"([a-z][a-z0-9+.-]*)://([^/]*)(.*)", dataset.url, re.IGNORECASE | re.DOTALL)
    if match is None:
        return dataset.url
    scheme, host, path = match.groups()
    if scheme.lower() != "file":
        raise _fault(dataset, f"the scheme {scheme!r} is not known; give a path or a file:// URL")
    if host not in ("", "localhost"):
        raise _fault(dataset, f"names the host {host!r}; a file:// URL has three slashes: file:///{host}{path}")
    return unquote(path)


# ------------------------------------------------------------------------------------------ .npy


class _Layout(NamedTuple):
    """An .npy header: what the bytes from `offset` on mean."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int

    def array(self, buffer: memoryview | Array, offset: int) -> Array:
        return np.ndarray(self.shape, self.dtype, buffer=buffer, offset=offset, order=self.order)


def _open_npy(file: _File) -> Source:
    if file.dataset.column is not None:
        raise file.fault("an .npy file has no columns; leave column out")
    return _mapped_npy(file, 0, len(file.data))


def _mapped_npy(file: _File, begin: int, size: int) -> Source:
    """The .npy file that lies at `begin` of the mapped data."""
    head = io.BytesIO(bytes(file.data[begin : begin + min(size, _HEADER_BYTES)]))
    layout = _layout(file, head, size)
    array = layout.array(file.data, begin + layout.offset)
    return file.source(layout.dtype, layout.shape, lambda: array)


def _layout(file: _File, stream: IO[bytes], size: int) -> _Layout:
    """Parse an .npy header and check it against the `size` of header and data."""
    try:
        version = npy.read_magic(stream)
        # Version 3 differs in the encoding of field names only, and fields are refused below.
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        shape, offset = tuple(map(int, shape)), stream.tell()
    except _NPY_ERRORS as error:
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
    return _Layout(dtype, shape, "F" if fortran else "C", offset)


# ------------------------------------------------------------------------------------------ .npz


class _Cache:
    """Arrays by key, least recently used out first once they exceed `limit` bytes together."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._arrays: OrderedDict[tuple[Fingerprint, str], Array] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[Fingerprint, str], make: Callable[[], Array]) -> Array:
        with self._lock:  # held while making, so that two threads do not decompress the same member
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
            array = self._arrays[key] = make()
            self._size += array.nbytes
            while self._size > self._limit and len(self._arrays) > 1:
                self._size -= self._arrays.popitem(last=False)[1].nbytes
            return array


_cache = _Cache(CACHE_BYTES)


def _open_npz(file: _File) -> Source:
    try:
        with zipfile.ZipFile(file.fingerprint.path) as archive:
            info = _member(file, archive)
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                return _mapped_npy(file, *_stored_extent(file, info))
            with archive.open(info) as stream:
                layout = _layout(file, stream, info.file_size)
    except _ZIP_ERRORS as error:
        raise file.fault(f"not a readable .npz file ({error}); save it with numpy.savez") from error
    key = (file.fingerprint, info.filename)

    def load() -> Array:
        return _cache.get(key, lambda: _decompress(file, info, layout))

    return file.source(layout.dtype, layout.shape, load)


def _member(file: _File, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name, suffix = os.path.splitext(info.filename)
        if suffix == ".npy":
            if name in members:
                raise file.fault(f"holds two members named {info.filename!r}; save it again")
            members[name] = info
    return members[file.column(members)]


def _stored_extent(file: _File, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of an uncompressed member begin in the file, and how many there are."""
    begin = info.header_offset
    local = bytes(file.data[begin : begin + _LOCAL_HEADER])
    if begin >= 0 and len(local) == _LOCAL_HEADER and local[:4] == b"PK\3\4":
        # The lengths of name and extra field are taken here: they differ from those in the directory.
        name, extra = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
        begin += _LOCAL_HEADER + name + extra
        if info.compress_size == info.file_size <= len(file.data) - begin:
            return begin, info.file_size
    raise file.fault(f"member {info.filename!r} is not where the directory says; save the file again")


def _decompress(file: _File, info: zipfile.ZipInfo, layout: _Layout) -> Array:
    try:
        with zipfile.ZipFile(file.fingerprint.path) as archive, archive.open(info) as stream:
            stream.read(layout.offset)
            flat = np.empty(info.file_size - layout.offset, np.uint8)
            rest = flat.data
            while rest:
                chunk = stream.read(min(len(rest), _PIECE))
                if not chunk:
                    raise EOFError(f"{len(rest)} bytes are missing")
                rest[: len(chunk)] = chunk
                rest = rest[len(chunk) :]
            if stream.read(1):  # at the end, zipfile has checked the CRC
                raise EOFError("there are surplus bytes")
    except _ZIP_ERRORS as error:
        raise file.fault(f"cannot be decompressed ({error}); save it again") from error
    array = np.require(layout.array(flat, 0), layout.dtype.newbyteorder("="), ["C", "A"])
    array.setflags(write=False)
    return array


# ---------------------------------------------------------------------------------- .safetensors


def _open_safetensors(file: _File) -> Source:
    try:
        found = tensors.read(file.data, source="safetensors")
        array = found.view(file.column(found))
    except (FormatError, LimitError) as error:
        raise file.fault(str(error)) from error
    return file.source(array.dtype, array.shape, lambda: array)


READERS: dict[str, Callable[[_File], Source]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
}
"""The formats: extension and the function that opens it."""
