"""An open dataset: what it holds, and its rows on demand, from whichever of its files have them.

`take` looks at all files and keeps what it found as the dataset's snapshot; `open_source` of such a dataset opens a file
only when rows of it are read, and raises if it is not the file of the snapshot. Equal rows have equal layout, and so
give equal results, whatever files they come from. Files are compared with the snapshot before and after each read.

Not noticed: bytes of a mapped file that change and change back between two looks, or that keep size, time and number.
A mapped file that shrinks between a look and the use of a view ends the process, as with any mapping.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, pairwise
from threading import Lock
from typing import Any

import numpy as np

from graphir import tensors
from graphir.dataset import Dataset, FileState, Snapshot
from graphir.tensors import Array
from workers.data import locate
from workers.data.file import File, Identity, Table, compare, fault
from workers.data.npy import open_npy
from workers.data.npz import open_npz
from workers.data.parquet import open_parquet
from workers.data.safetensors import open_safetensors

OPEN_FILES = 64
"""How many files of a dataset stay open, and up to how many files rows may be views of mappings."""
LOOKS = 16
"""How many files are looked at, and of those elsewhere read, at one time."""

FORMATS: dict[str, Callable[[File], Table]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".parquet": open_parquet,
}
"""The formats: extension and the function that opens a file of it."""


def take(dataset: Dataset) -> Dataset:
    """The same dataset with an absolute URL and a snapshot of what its files hold now."""
    dataset = replace(dataset, url=locate.absolute(dataset.url), snapshot=None)
    return replace(dataset, snapshot=_look(dataset))


def open_source(dataset: Dataset) -> "Source":
    """Open a dataset; without a snapshot, the headers of its files are read now, and no data."""
    return Source(dataset, dataset.snapshot or _look(dataset))


class Source:
    """An open dataset. `read` and `whole` give read-only arrays: views of mapped files where these allow it."""

    __slots__ = ("_begins", "_lock", "_open", "_viewed", "dataset", "dtype", "shape", "snapshot")

    def __init__(self, dataset: Dataset, snapshot: Snapshot) -> None:
        self.dataset, self.snapshot = dataset, snapshot
        self.dtype, self.shape = np.dtype(snapshot.dtype), snapshot.shape
        self._begins = list(accumulate((file.rows for file in snapshot.files), initial=0))
        self._open: OrderedDict[int, tuple[File, Table]] = OrderedDict()
        self._viewed: dict[int, File] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<{self.dataset}: {self.dtype} {self.shape}>"

    @property
    def rows(self) -> int:
        """The length of axis 0."""
        if not self.shape:
            raise fault(self.dataset, "holds a single number, which has no rows; read the whole of it")
        return self.shape[0]

    def read(self, start: int, stop: int) -> Array:
        """Rows `start` up to `stop`: read-only, C order, native."""
        if not 0 <= start <= stop <= self.rows:
            raise fault(self.dataset, f"has no rows {start}:{stop}; it has {self.rows}")
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1:
            number, first, last = pieces[0]
            return self._kept(number, lambda table: table.rows(first, last))
        joined = np.empty((stop - start, *self.shape[1:]), self.dtype)
        ends = accumulate(last - first for _, first, last in pieces)
        targets = [joined[end - (last - first) : end] for end, (_, first, last) in zip(ends, pieces, strict=True)]
        if any(locate.is_elsewhere(self.snapshot.files[number].url) for number, _, _ in pieces):
            with ThreadPoolExecutor(LOOKS) as pool:
                list(pool.map(self._copy, pieces, targets))
        else:
            for piece, target in zip(pieces, targets, strict=True):
                self._copy(piece, target)
        joined.setflags(write=False)
        return joined

    def whole(self) -> Array:
        """All of it, whatever its rank, in the same form as `read`."""
        return self.read(0, self.rows) if self.shape else self._kept(0, lambda table: table.whole())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that make axis 1, each of which can be read alone; otherwise none."""
        return self.dataset.column if isinstance(self.dataset.column, tuple) else ()

    def across(self, begin: int, end: int) -> Array:
        """All rows of some of the columns, of which there are any; the others are not read."""
        some = replace(self.snapshot, shape=(self.rows, end - begin))
        return Source(replace(self.dataset, column=self.columns[begin:end]), some).whole()

    def verify(self) -> None:
        """Raise if a file that views were given of has changed since."""
        for file in self._viewed.values():
            file.check()

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Number of a file, and its rows from and up to."""
        for number, (begin, end) in enumerate(pairwise(self._begins)):
            first, last = max(start, begin), min(stop, end)
            if first < last:
                yield number, first - begin, last - begin

    def _copy(self, piece: tuple[int, int, int], target: Array) -> None:
        number, first, last = piece
        file, table = self._file(number)
        target[...] = self._block(file, table.rows(first, last))
        file.check()

    def _kept(self, number: int, read: Callable[[Table], Array]) -> Array:
        """What is read of a file, read-only; if it is a view, the file is kept an eye on."""
        file, table = self._file(number)
        array = self._block(file, read(table))
        if table.mapped and not array.flags.owndata:
            if len(self.snapshot.files) > OPEN_FILES:
                array = array.copy()
            else:
                self._viewed[number] = file
        file.check()
        array.setflags(write=False)
        return array

    def _block(self, file: File, block: Array) -> Array:
        """Rows in the form that kernels want; a view of the file's mapping where that is possible."""
        if tensors.has_invalid_bool(block):
            raise file.fault("is boolean but holds bytes other than 0 and 1; store it as uint8")
        return np.require(block, self.dtype, ["C", "A"])

    def _file(self, number: int) -> tuple[File, Table]:
        """A file, open; one of this machine has just been looked at, for a mapping beyond its end must not be touched."""
        with self._lock:
            found = self._open.get(number)
            if found is not None:
                self._open.move_to_end(number)
        if found is None:
            state = self.snapshot.files[number]
            found = _open(self.dataset, state.url, Identity(state.url, state.size, state.tag))
            with self._lock:
                self._open[number] = found
                while len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
        elif found[0].bytes.path is not None:
            found[0].check()
        return found


def _open(dataset: Dataset, url: str, expected: Identity | None = None) -> tuple[File, Table]:
    extension = locate.extension(url)
    if extension not in FORMATS:
        raise fault(dataset, f"the extension {extension!r} is not known; known ones: {', '.join(FORMATS)}", url)
    file = File(dataset, locate.open_bytes(dataset, url))
    if expected is not None:
        compare(dataset, expected, file.identity)
    return file, FORMATS[extension](file)


def _look(dataset: Dataset) -> Snapshot:
    """The snapshot of a dataset as it is now."""
    urls = locate.files(dataset)
    if len(urls) == 1:
        found = [_summary(dataset, urls[0])]
    else:
        with ThreadPoolExecutor(LOOKS) as pool:
            found = list(pool.map(lambda url: _summary(dataset, url), urls))
    (dtype, shape), first = found[0][1:], found[0][0].url
    for state, other, form in found[1:]:
        if not form or not shape:
            raise fault(dataset, "holds a single number, which cannot be joined with other files", state.url)
        if other != dtype or form[1:] != shape[1:]:
            what = (
                f"holds rows of {other} {form[1:]}, while those of {first!r} are {dtype} {shape[1:]}; all files of "
                "a dataset need one dtype and one shape of rows"
            )
            raise fault(dataset, what, state.url)
    if shape:
        shape = (sum(state.rows for state, _, _ in found), *shape[1:])
    return Snapshot(dtype.name, shape, tuple(state for state, _, _ in found))


def _summary(dataset: Dataset, url: str) -> tuple[FileState, np.dtype[Any], tuple[int, ...]]:
    file, table = _open(dataset, url)
    if file.bytes.path is None:
        file.check()  # the header, which was read after the identity, is of the same file
    identity = file.identity
    rows = table.shape[0] if table.shape else 0
    return FileState(identity.url, identity.size, identity.tag, rows), table.dtype.newbyteorder("="), table.shape
