"""Feeds: the inputs of a job on one rank. Chunks stay here once they were read."""

import numpy as np

from graphir.dataset import Dataset
from graphir.node import Array
from workers.data import Source, open_source


class Feed:
    """One input of a job: an array, some of its rows, or an open dataset. Chunks stay here once they were read."""

    def __init__(self, value: Array | Dataset, dtype: str, begin: int = 0, total: int | None = None) -> None:
        """Of an array, perhaps some rows only: the first is row `begin` of `total`."""
        self._value: Array | Source = open_source(value) if isinstance(value, Dataset) else value
        self._dtype, self._begin, self._total = np.dtype(dtype), begin, total
        self._chunks: dict[tuple[int, int], Array] = {}
        self._whole: Array | None = None

    def whole(self) -> Array:
        """All of it."""
        if self._whole is None:
            array = self._value.whole() if isinstance(self._value, Source) else self._value
            self._whole = array.astype(self._dtype, order="C", copy=False)
        return self._whole

    def rows(self, axis: int) -> int:
        """The size along an axis; rows that are not here count as well."""
        return self._total if axis == 0 and self._total is not None else self._value.shape[axis]

    def slice(self, axis: int, begin: int, end: int) -> Array:
        """A part along an axis."""
        key = begin, end
        if key not in self._chunks:
            if isinstance(self._value, Source) and axis == 0:
                self._chunks[key] = self._value.read(begin, end).astype(self._dtype, copy=False)
            else:
                first = self._begin if axis == 0 else 0
                self._chunks[key] = part(self.whole(), axis, begin - first, end - first)
        return self._chunks[key]


def part(array: Array, axis: int, begin: int, end: int) -> Array:
    """A contiguous slice along one axis."""
    return np.ascontiguousarray(array[(slice(None),) * axis + (slice(begin, end),)])
