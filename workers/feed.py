"""Feeds: the inputs of a job on one rank. Chunks stay here once they were read.

Of a feed that is batched, the rows of each iteration are taken from what is here: all of it, or the parts of the data from which
the rank's chunks are drawn (`Minibatch.parts`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from graphir.dataset import Dataset
from graphir.node import Array
from graphir.partition.minibatch import Minibatch
from workers.data import Source, open_source


class Feed:
    """One input of a job: an array, some of its rows, or an open dataset; `axes` are those that are batched."""

    def __init__(
        self,
        value: Array | Dataset,
        dtype: str,
        begin: int = 0,
        total: int | None = None,
        batch: Minibatch | None = None,
        axes: tuple[int, ...] = (),
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Of an array, perhaps some rows only: the first is row `begin` of `total`. reading: entered while a dataset is read."""
        self._reading = reading
        self._value: Array | Source = open_source(value) if isinstance(value, Dataset) else value
        self._dtype, self._begin, self._total = np.dtype(dtype), begin, total
        self._chunks: dict[tuple[int, int, int], Array] = {}
        self._whole: Array | None = None
        self._batch, self._axes, self._rows = batch, axes, np.empty(0, np.intp)
        self._read: dict[tuple[int, int], Array] = {}

    def turn(self, rows: Array) -> None:
        """From now on, give these rows along the batched axes."""
        self._rows, self._whole = rows, None
        self._chunks.clear()

    def whole(self) -> Array:
        """All of it."""
        if self._whole is None:
            self._whole = self._plain(self._picked(None, 0, len(self._rows)) if self._axes else self._everything())
        return self._whole

    def rows(self, axis: int) -> int:
        """The size along an axis; rows that are not here count as well."""
        if axis in self._axes:
            return len(self._rows)
        return self._total if axis == 0 and self._total is not None else self._value.shape[axis]

    def verify(self) -> None:
        """Raise if what was read of a dataset is a view of a file that has changed since."""
        if isinstance(self._value, Source):
            self._value.verify()

    def slice(self, axis: int, begin: int, end: int) -> Array:
        """A part along an axis."""
        key = axis, begin, end
        if key not in self._chunks:
            if axis in self._axes:
                self._chunks[key] = self._plain(self._picked(axis, begin, end))
            elif isinstance(self._value, Source) and axis == 0 and not self._axes:
                with self._reading():
                    self._chunks[key] = self._value.read(begin, end).astype(self._dtype, copy=False)
            elif isinstance(self._value, Source) and axis == 1 and self._value.columns and not self._axes:
                with self._reading():
                    self._chunks[key] = self._plain(self._value.across(begin, end))
            else:
                first = self._begin if axis == 0 else 0
                self._chunks[key] = part(self.whole(), axis, begin - first, end - first)
        return self._chunks[key]

    def _picked(self, axis: int | None, begin: int, end: int) -> Array:
        """The batch's rows along every batched axis, but only those from `begin` to `end` along `axis`."""
        assert self._batch is not None
        first, array = self._source(*self._batch.drawn(begin, end) if axis == 0 else (0, self._batch.total))
        for along in self._axes:
            rows = self._rows[begin:end] if along == axis else self._rows
            if along == 0 and first:
                rows = rows - first
                assert rows.size == 0 or rows.min() >= 0, "rows that are not here"
            array = np.take(array, rows, axis=along)
        return array

    def _source(self, begin: int, end: int) -> tuple[int, Array]:
        """What these rows are taken from, and the number of its first row."""
        if not isinstance(self._value, Source):
            return self._begin, self._value
        if 0 not in self._axes:
            begin, end = 0, self._value.shape[0]
        if (begin, end) not in self._read:
            with self._reading():
                self._read[begin, end] = self._value.read(begin, end)
        return begin, self._read[begin, end]

    def _everything(self) -> Array:
        if not isinstance(self._value, Source):
            return self._value
        with self._reading():
            return self._value.whole()

    def _plain(self, array: Array) -> Array:
        return array.astype(self._dtype, order="C", copy=False)


def part(array: Array, axis: int, begin: int, end: int) -> Array:
    """A contiguous slice along one axis."""
    return np.ascontiguousarray(array[(slice(None),) * axis + (slice(begin, end),)])
