"""Archives of .npy members. A stored member is read like a file; a compressed one is decompressed once a process."""

import io
import lzma
import os
import zipfile
import zlib

import numpy as np

from graphir.errors import DatasetError
from graphir.tensors import Array
from workers.data.file import File, Reader, Table, decoded
from workers.data.npy import Layout, npy_at, read_layout

_PIECE = 1 << 20  # bytes decompressed in one call
_BUFFER = 1 << 16  # bytes that are read at a time of an archive's directory
_LOCAL_HEADER = 30  # fixed part of the header before each member of a zip file
_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, NotImplementedError,
    RuntimeError, OverflowError, MemoryError,
)  # fmt: skip


def open_npz(file: File) -> Table:
    """A member of an .npz file."""
    try:
        with _archive(file, _BUFFER) as archive:
            info = _member(file, archive)
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                return npy_at(file, *_stored_extent(file, info))
            with archive.open(info) as stream:
                layout = read_layout(file, stream, info.file_size)
    except DatasetError:
        raise
    except _ERRORS as error:
        raise file.fault(f"not a readable .npz file ({error}); save it with numpy.savez") from error
    key = (file.identity, info.filename)

    def whole() -> Array:
        return decoded.get(key, lambda: _decompress(file, info, layout))

    return Table(layout.dtype, layout.shape, lambda start, stop: whole()[start:stop], whole)


def _archive(file: File, buffer: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BufferedReader(Reader(file.bytes), buffer))


def _member(file: File, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name, suffix = os.path.splitext(info.filename)
        if suffix == ".npy":
            if name in members:
                raise file.fault(f"holds two members named {info.filename!r}; save it again")
            members[name] = info
    return members[file.column(members)]


def _stored_extent(file: File, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of an uncompressed member begin in the file, and how many there are."""
    begin = info.header_offset
    if 0 <= begin <= file.size - _LOCAL_HEADER:
        local = bytes(file.bytes.view(begin, begin + _LOCAL_HEADER))
        if local[:4] == b"PK\3\4":
            # The lengths of name and extra field are taken here: they differ from those in the directory.
            name, extra = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
            begin += _LOCAL_HEADER + name + extra
            if info.compress_size == info.file_size <= file.size - begin:
                return begin, info.file_size
    raise file.fault(f"member {info.filename!r} is not where the directory says; save the file again")


def _decompress(file: File, info: zipfile.ZipInfo, layout: Layout) -> Array:
    try:
        with _archive(file, 8 * _PIECE) as archive, archive.open(info) as stream:
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
    except DatasetError:
        raise
    except _ERRORS as error:
        raise file.fault(f"cannot be decompressed ({error}); save it again") from error
    array = np.require(layout.array(flat, 0), layout.dtype.newbyteorder("="), ["C", "A"])
    array.setflags(write=False)
    return array
