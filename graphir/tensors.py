"""Named arrays as safetensors bytes: views on read, one copy on write.

A file is an 8-byte little-endian header length, a JSON header and the tensors' bytes. `read` checks
the whole header against the data before it returns: every range lies in the data, and the ranges
cover it without hole or overlap. So a view made later cannot fail on its bounds, and whatever the
bytes are, nothing but FormatError and LimitError comes out of `read`.

Invariants: arrays are read-only; `Tensors[name]` is aligned, native and free of invalid bools;
equal arrays and metadata make equal bytes, in the order of the reference implementation.
"""

import json
import mmap
import os
import secrets
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphir.errors import DTypeError, FormatError, LimitError

Array: TypeAlias = NDArray[Any]
Path: TypeAlias = str | os.PathLike[str]

MAX_HEADER = 100_000_000
MAX_RANK = 64
METADATA = "__metadata__"

# The formats' dtypes in the order of the reference implementation, which writes the last one first.
_CODES = (
    ("BOOL", "?"), ("U8", "u1"), ("I8", "i1"), ("I16", "<i2"), ("U16", "<u2"), ("F16", "<f2"), ("I32", "<i4"),
    ("U32", "<u4"), ("F32", "<f4"), ("C64", "<c8"), ("F64", "<f8"), ("I64", "<i8"), ("U64", "<u8"),
)  # fmt: skip
_STORED = {code: np.dtype(text) for code, text in _CODES}
_FOREIGN_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "BF16": 16,
}  # fmt: skip
_BITS = {code: 8 * dtype.itemsize for code, dtype in _STORED.items()} | _FOREIGN_BITS
_CODE_OF = {dtype.newbyteorder("="): code for code, dtype in _STORED.items()}
_RANK_OF = {code: rank for rank, (code, _) in enumerate(_CODES)}

DTYPES: frozenset[np.dtype[Any]] = frozenset(_CODE_OF)
"""The dtypes, in native byte order, that a file can hold and numpy can read."""


class Entry(NamedTuple):
    """One tensor as the header describes it; `begin` and `end` count from the start of the data."""

    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Tensors(Mapping[str, Array]):
    """The tensors of one safetensors file, each made on first use as a view of the bytes."""

    __slots__ = ("_arrays", "_data", "_source", "entries", "metadata", "start")

    def __init__(
        self, data: memoryview, start: int, entries: dict[str, Entry], metadata: dict[str, str], source: str
    ) -> None:
        self._data, self.start, self._source = data, start, source
        self._arrays: dict[str, Array] = {}
        self.entries = entries
        self.metadata = metadata

    def __getitem__(self, name: str) -> Array:
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = self._checked(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __repr__(self) -> str:
        return f"<{len(self)} tensors of {self._source}>"

    # Element-wise comparison of arrays has no truth value, so a mapping of them has no equality.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def offset(self, name: str) -> int:
        """Where the tensor's bytes begin, counted from the start of the file."""
        return self.start + self.entries[name].begin

    def dtype(self, name: str) -> np.dtype[Any]:
        """The tensor's dtype as it is stored; FormatError if numpy has none like it."""
        code = self.entries[name].code
        dtype = _STORED.get(code)
        if dtype is None:
            raise FormatError(
                f"{self._source}: tensor {name!r} has dtype {code}, which numpy does not have; "
                "convert it to F32 or F16 before saving"
            )
        return dtype

    def view(self, name: str) -> Array:
        """The bytes as they lie: perhaps misaligned, bools unchecked, and never a copy."""
        return np.ndarray(self.entries[name].shape, self.dtype(name), buffer=self._data, offset=self.offset(name))

    def _checked(self, name: str) -> Array:
        view = self.view(name)
        if has_invalid_bool(view):
            raise FormatError(
                f"{self._source}: tensor {name!r} at byte {self.offset(name)} is BOOL and holds bytes other "
                "than 0 and 1; save it again from a boolean array, or store it as U8"
            )
        array = np.require(view, view.dtype.newbyteorder("="), ["C", "A"])
        array.setflags(write=False)
        return array


def has_invalid_bool(array: Array) -> bool:
    """Whether a bool array holds bytes other than 0 and 1, with which numpy may read out of bounds."""
    return array.dtype == np.bool_ and bool(array.view(np.uint8).max(initial=0) > 1)


def read(
    data: bytes | bytearray | memoryview, *, max_header: int = MAX_HEADER, source: str = "safetensors data"
) -> Tensors:
    """Check the header and give views of `data`; `source` names the data in error messages."""
    view = memoryview(data).toreadonly().cast("B")
    head = read_header(lambda begin, end: view[begin:end], len(view), max_header=max_header, source=source)
    return Tensors(view, head.start, head.entries, head.metadata, source)


def read_header(
    fetch: Callable[[int, int], memoryview], size: int, *, max_header: int = MAX_HEADER, source: str
) -> Tensors:
    """Check the header of `size` bytes of which `fetch` gives parts; the tensors have types and offsets but no views."""
    start = _header_end(fetch(0, min(size, 8)), size, max_header, source)
    header = _parse(bytes(fetch(8, start)), source)
    metadata = _metadata(header.pop(METADATA, {}), source)
    entries = {name: _entry(name, value, source) for name, value in header.items()}
    _check_cover(entries, start, size - start, source)
    return Tensors(memoryview(b""), start, entries, metadata, source)


def open_file(path: Path, *, max_header: int = MAX_HEADER) -> Tensors:
    """`read` a memory-mapped file; OSError if it cannot be opened at all."""
    source = os.fspath(path)
    return read(map_file(source)[0], max_header=max_header, source=source)


def map_file(path: Path) -> tuple[memoryview, os.stat_result]:
    """A regular file's bytes, mapped read-only, with the status of the very file that is mapped."""
    # Opened without blocking, so that a named pipe is refused instead of waited for.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{os.fspath(path)}: not a regular file; copy its content into one")
        if status.st_size == 0:  # an empty file cannot be mapped
            return memoryview(b""), status
        return memoryview(mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ)), status
    finally:
        os.close(descriptor)


def _header_end(first: memoryview, size: int, max_header: int, source: str) -> int:
    if size < 8:
        raise FormatError(f"{source}: {size} bytes cannot hold a header length; is the file truncated?")
    length = int.from_bytes(first, "little")
    if length > max_header:
        raise LimitError(
            f"{source}: the first 8 bytes announce a header of {length} bytes (the file has {size}), over "
            f"the limit of {max_header}; if this is a safetensors file, raise max_header"
        )
    if 8 + length > size:
        raise FormatError(
            f"{source}: the header should end at byte {8 + length} but the file ends at byte {size}; "
            "it is truncated or not a safetensors file"
        )
    return 8 + length


def _parse(raw: bytes, source: str) -> dict[str, Any]:
    def fail(what: str, position: int = 0) -> NoReturn:
        place = f"{source}: header at byte {8 + position}"
        raise FormatError(f"{place}: {what}; the file is damaged or no safetensors file, save it again")

    if raw[:1] != b"{":
        fail("it does not start with '{'")
    try:
        text = raw.decode()
        header: dict[str, Any] = json.loads(
            text, object_pairs_hook=_unique, parse_int=_whole, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        fail(f"not UTF-8 ({error.reason})", error.start)
    except json.JSONDecodeError as error:
        fail(f"not JSON ({error.msg})", len(text[: error.pos].encode()))
    except ValueError as error:  # from the three functions below
        fail(str(error))
    except RecursionError:
        fail("nested too deeply")
    if "\\u" in text:
        _check_surrogates(header, fail)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {_shorten(repr(name))} occurs more than once")
    return result


def _whole(digits: str) -> int:
    if digits[0] == "-" or len(digits) > 19:  # also keeps a million digits away from int()
        raise ValueError(f"{_shorten(digits)} is not a non-negative integer below 10**19")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_surrogates(header: dict[str, Any], fail: Callable[[str], NoReturn]) -> None:
    # A JSON escape can smuggle in half a surrogate pair, which no UTF-8 text can hold.
    metadata = header.get(METADATA)
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    for text in (*header, *(text for pair in pairs for text in pair if isinstance(text, str))):
        try:
            text.encode()
        except UnicodeEncodeError:
            fail(f"{_shorten(ascii(text))} holds an unpaired surrogate")


def _metadata(value: Any, source: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise FormatError(f"{source}: {METADATA} is not an object; it must map text to text")
    for key, item in value.items():
        if not isinstance(item, str):
            raise FormatError(f"{source}: {METADATA} value of {key!r} is not text; store it as a JSON string")
    return value


def _entry(name: str, value: Any, source: str) -> Entry:
    def fail(what: str) -> NoReturn:
        raise FormatError(f"{source}: tensor {name!r}: {what}; the file is damaged, save it again")

    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        fail("its description is not an object with dtype, shape and data_offsets")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _BITS:
        fail(f"unknown dtype {_shorten(repr(code))} (known: {', '.join(_BITS)})")
    if not _are_whole(shape) or len(shape) > MAX_RANK:
        fail(f"its shape {_shorten(repr(shape))} is not a list of at most {MAX_RANK} non-negative integers")
    if not _are_whole(offsets) or len(offsets) != 2:
        fail(f"its data_offsets {_shorten(repr(offsets))} are not two non-negative integers")
    # numpy counts zero-length axes as ones when it guards against overflow, and so does this.
    if prod(size or 1 for size in shape) * _BITS[code] > 8 * sys.maxsize:
        fail(f"its shape {_shorten(repr(shape))} overflows the address space")
    bits, (begin, end) = prod(shape) * _BITS[code], offsets
    if bits % 8 or end - begin != bits // 8:
        fail(f"shape {shape} of {code} needs {bits / 8:.16g} bytes, but data_offsets are {begin}:{end}")
    return Entry(code, tuple(shape), begin, end)


def _are_whole(value: Any) -> bool:
    # Negative integers were refused by the parser; bool is a kind of int and must be told apart.
    return isinstance(value, list) and all(type(item) is int for item in value)


def _check_cover(entries: dict[str, Entry], start: int, size: int, source: str) -> None:
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != position:
            kind = "an overlap" if entry.begin < position else "a hole"
            raise FormatError(
                f"{source}: tensor {name!r} begins at byte {start + entry.begin}, but the tensors before it "
                f"end at byte {start + position}: {kind}; save the file again"
            )
        position = entry.end
    if position != size:
        remedy = "it is truncated, copy it again" if position > size else "remove the surplus bytes"
        raise FormatError(
            f"{source}: the tensors end at byte {start + position} but the file ends at byte {start + size}; {remedy}"
        )


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def write(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """The arrays as safetensors bytes; equal input makes equal bytes."""
    header, names = _header(arrays, metadata)
    return b"".join((header, *(as_bytes(arrays[name]) for name in names)))


def write_file(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write to a temporary file beside `path`, one array at a time, and rename it: all or nothing."""
    header, names = _header(arrays, metadata)
    target = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(header)
            for name in names:
                file.write(as_bytes(arrays[name]))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:  # an interrupt, too, must not leave the temporary file behind
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _header(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None) -> tuple[bytes, list[str]]:
    """The header with its length, and the names in the order in which their data follows."""
    codes = {name: _code(name, array) for name, array in arrays.items()}
    names = sorted(codes, key=lambda name: (-_RANK_OF[codes[name]], name))
    header: dict[str, Any] = {}
    if metadata:
        header[METADATA] = {key: metadata[key] for key in sorted(_checked_metadata(metadata))}
    position = 0
    for name in names:
        end = position + arrays[name].nbytes
        offsets = [position, end]
        header[name] = {"dtype": codes[name], "shape": list(arrays[name].shape), "data_offsets": offsets}
        position = end
    try:
        raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"a tensor name or metadata text holds an unpaired surrogate ({error}); use valid Unicode text"
        ) from error
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw, names


def _code(name: object, array: object) -> str:
    if not isinstance(name, str) or name == METADATA:
        raise FormatError(f"{name!r} cannot name a tensor; use a text other than {METADATA!r}")
    if not isinstance(array, np.ndarray):
        raise DTypeError(f"tensor {name!r} is a {type(array).__name__}; convert it with numpy.asarray first")
    code = _CODE_OF.get(array.dtype.newbyteorder("="))
    if code is None:
        known = " or ".join(map(str, _CODE_OF))
        raise DTypeError(
            f"tensor {name!r} has dtype {array.dtype}, which safetensors does not have; cast it to {known}"
        )
    return code


def _checked_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    for pair in metadata.items():
        if not all(isinstance(text, str) for text in pair):
            raise FormatError(f"metadata {_shorten(repr(pair))} is not a pair of texts; convert both to str")
    return metadata


def as_bytes(array: Array) -> memoryview:
    """The bytes of an array in C order, little-endian; its own memory where that is so already."""
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    return flat.view(np.uint8).data
