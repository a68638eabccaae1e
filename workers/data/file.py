"""The bytes of one file: mapped if it is on this machine, fetched by ranges if it is elsewhere.

`Bytes` is all that formats see of a file. Its identity, size and tag, is taken when it is opened; `check` raises if the
file has another one by now.
"""

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from graphir import tensors
from graphir.dataset import Dataset
from graphir.errors import DatasetError, FormatError
from graphir.tensors import Array

CACHE_BYTES = 1 << 30
"""How many bytes of decoded members and row groups a process keeps; the newest one is always kept."""


class Identity(NamedTuple):
    """What a file is known by: another content has another size or another tag."""

    url: str
    size: int
    tag: str

    def __str__(self) -> str:
        return f"{self.size} bytes, {self.tag or 'no tag'}"


class Bytes(Protocol):
    """A file that can be read in parts."""

    @property
    def identity(self) -> Identity:
        """The identity of what was opened."""

    @property
    def path(self) -> str | None:
        """Where the file is on this machine, if it is; then views are of its mapping, which follows its changes."""

    def view(self, begin: int, end: int) -> memoryview:
        """The bytes from `begin` up to `end`, which lie in the file."""

    def now(self) -> Identity:
        """The identity that the file has by now; OSError if it is gone."""


def fault(dataset: Dataset, what: str, url: str | None = None) -> DatasetError:
    """An error that names dataset, column and, if it is one of several, the file."""
    column = "" if dataset.column is None else f" column {dataset.column!r}"
    file = "" if url is None or url == dataset.url else f"file {url!r} "
    return DatasetError(f"dataset {dataset.url!r}{column}: {file}{what}")


def compare(dataset: Dataset, expected: Identity, found: Identity) -> None:
    """Raise if a file is not what was expected."""
    if found[1:] != expected[1:]:
        what = (
            f"has changed since it was first looked at: expected {expected}, found {found}; submit the job again, "
            "and write new data to new files"
        )
        raise fault(dataset, what, expected.url)


@dataclass(frozen=True, slots=True)
class File:
    """One file of a dataset, open."""

    dataset: Dataset
    bytes: Bytes

    @property
    def identity(self) -> Identity:
        """The identity of what was opened."""
        return self.bytes.identity

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.bytes.identity.size

    def fault(self, what: str) -> DatasetError:
        """An error that names this file."""
        return fault(self.dataset, what, self.identity.url)

    def check(self) -> None:
        """Raise if the file is not what was opened any more."""
        try:
            now = self.bytes.now()
        except OSError as error:
            raise self.fault(f"is gone since it was opened ({error.strerror or error})") from error
        compare(self.dataset, self.identity, now)

    def column(self, names: Collection[str]) -> str:
        """The one column that is asked for, which must be one of `names`."""
        if isinstance(self.dataset.column, tuple):
            raise self.fault("several columns can be read of parquet only; name one")
        return self.columns(names)[0]

    def columns(self, names: Collection[str]) -> tuple[str, ...]:
        """The columns that are asked for, which must be among `names`."""
        column = self.dataset.column
        listed = ", ".join(sorted(names)[:20]) + (", ..." if len(names) > 20 else "")
        if column is None:
            raise self.fault(f"needs a column; choose one with column=: {listed or '(it has none)'}")
        wanted = column if isinstance(column, tuple) else (column,)
        missing = [name for name in wanted if name not in names]
        if missing:
            which = "such column" if isinstance(column, str) else f"column {missing[0]!r}"
            raise self.fault(f"has no {which}; it has: {listed or '(none)'}")
        return wanted


@dataclass(frozen=True, slots=True)
class Table:
    """The array in one file: `rows` gives some of axis 0 as they are stored, `whole` all of it; views if `mapped`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: Callable[[int, int], Array]
    whole: Callable[[], Array]
    mapped: bool = False


class LocalBytes:
    """A file of this machine, mapped."""

    __slots__ = ("_data", "identity", "path")

    def __init__(self, dataset: Dataset, path: str) -> None:
        self.path = path
        try:
            self._data, status = tensors.map_file(path)
        except FileNotFoundError as error:
            hint = "" if os.path.isabs(path) else f" (a relative path, looked for in {os.getcwd()})"
            raise fault(dataset, f"no such file{hint}; it must be visible to every worker", path) from error
        except PermissionError as error:
            text = "permission denied; make the file readable for the workers' user"
            raise fault(dataset, text, path) from error
        except (OSError, ValueError, FormatError) as error:
            raise fault(dataset, f"cannot be opened ({error}); check the path and the disk", path) from error
        self.identity = _local_identity(path, status)

    def view(self, begin: int, end: int) -> memoryview:
        """A view of the mapping."""
        return self._data[begin:end]

    def now(self) -> Identity:
        """The identity of the file that has this path now."""
        return _local_identity(self.path, os.stat(self.path))


def _local_identity(path: str, status: os.stat_result) -> Identity:
    return Identity(path, status.st_size, f"mtime {status.st_mtime_ns} inode {status.st_ino}")


class Reader(io.RawIOBase):
    """A file's bytes as an unbuffered stream, for libraries that want one."""

    def __init__(self, file: Bytes) -> None:
        self._file, self._size, self._at = file, file.identity.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise OSError(22, "a position before the file's beginning")
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        found = bytes(self._file.view(self._at, end))
        self._at = end
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class Cache:
    """Arrays by key, least recently used out first once they exceed `limit` bytes together."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._arrays: OrderedDict[tuple[Any, ...], Array] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[Any, ...], make: Callable[[], Array]) -> Array:
        """The array of this key, made only if it is not there."""
        with self._lock:  # held while making, so that two threads do not make the same one
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
            array = self._arrays[key] = make()
            self._size += array.nbytes
            while self._size > self._limit and len(self._arrays) > 1:
                self._size -= self._arrays.popitem(last=False)[1].nbytes
            return array

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """What is kept, the newest last."""
        return list(self._arrays)


decoded = Cache(CACHE_BYTES)
"""What formats had to decode or fetch as a whole, for all datasets of this process."""
