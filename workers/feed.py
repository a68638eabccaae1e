"""Feeds: the inputs of a job on one rank. Chunks stay here once they were read."""

import numpy as np

from graphir.dataset import Dataset
from graphir.node import Array
from workers.data import Source, open_source


class Feed:
    """One input of a job: an array, some of its rows, or an open dataset.

    Of a feed with `batched` axes all is here, and what it gives are the rows along them that `turn` names.
    """

    def __init__(
        self,
        value: Array | Dataset,
        dtype: str,
        begin: int = 0,
        total: int | None = None,
        batched: tuple[int, ...] = (),
    ) -> None:
        """Of an array, perhaps some rows only: the first is row `begin` of `total`."""
        self._value: Array | Source = open_source(value) if isinstance(value, Dataset) else value
        self._dtype, self._begin, self._total = np.dtype(dtype), begin, total
        self._chunks: dict[tuple[int, int, int], Array] = {}
        self._whole: Array | None = None
        self._batched, self._batch = batched, np.empty(0, np.intp)
        self._all: Array | None = None

    def turn(self, rows: Array) -> None:
        """From now on, give these rows along the batched axes."""
        self._batch, self._whole = rows, None
        self._chunks.clear()

    def whole(self) -> Array:
        """All of it."""
        if self._whole is None:
            self._whole = self._plain(self._picked(None, self._batch) if self._batched else self._everything())
        return self._whole

    def rows(self, axis: int) -> int:
        """The size along an axis; rows that are not here count as well."""
        if axis in self._batched:
            return len(self._batch)
        return self._total if axis == 0 and self._total is not None else self._value.shape[axis]

    def verify(self) -> None:
        """Raise if what was read of a dataset is a view of a file that has changed since."""
        if isinstance(self._value, Source):
            self._value.verify()

    def slice(self, axis: int, begin: int, end: int) -> Array:
        """A part along an axis."""
        key = axis, begin, end
        if key not in self._chunks:
            if axis in self._batched:
                self._chunks[key] = self._plain(self._picked(axis, self._batch[begin:end]))
            elif isinstance(self._value, Source) and axis == 0 and not self._batched:
                self._chunks[key] = self._value.read(begin, end).astype(self._dtype, copy=False)
            else:
                first = self._begin if axis == 0 else 0
                self._chunks[key] = part(self.whole(), axis, begin - first, end - first)
        return self._chunks[key]

    def _picked(self, axis: int | None, rows: Array) -> Array:
        """The batch's rows along every batched axis, but only some of them along `axis`."""
        if self._all is None:
            self._all = self._everything()
        array = self._all
        for along in self._batched:
            array = np.take(array, rows if along == axis else self._batch, axis=along)
        return array

    def _everything(self) -> Array:
        return self._value.whole() if isinstance(self._value, Source) else self._value

    def _plain(self, array: Array) -> Array:
        return array.astype(self._dtype, order="C", copy=False)


def part(array: Array, axis: int, begin: int, end: int) -> Array:
    """A contiguous slice along one axis."""
    return np.ascontiguousarray(array[(slice(None),) * axis + (slice(begin, end),)])
