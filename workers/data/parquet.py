"""Columns of .parquet files: one of numbers is a vector; several, or one of lists of a fixed size, are a matrix.

Row groups are the unit of reading: those are decoded that hold rows asked for, and no other columns. A row group that
is wanted only in part is kept, since the next rows are likely to be wanted too.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any

import numpy as np

from graphir import tensors
from graphir.errors import DatasetError, MissingExtraError
from graphir.tensors import Array
from workers.data.file import File, Reader, Table, decoded

_BLOCK = 1 << 17  # bytes of a matrix that columns are written into at a time, so that they stay in a core's cache


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns that are asked for, all of one file. begins: the first row of each row group, and the end."""

    file: File
    names: tuple[str, ...]
    dtype: np.dtype[Any]
    tail: tuple[int, ...]
    begins: tuple[int, ...]
    metadata: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.begins[-1], *self.tail)

    def rows(self, start: int, stop: int) -> Array:
        pieces = list(self._groups(start, stop))
        if len(pieces) == 1:
            group, first, last = pieces[0]
            return self._group(group, first, last)
        made = np.empty((stop - start, *self.tail), self.dtype)
        at = 0
        for group, first, last in pieces:
            made[at : at + last - first] = self._group(group, first, last)
            at += last - first
        return made

    def _groups(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Number of a row group, and its rows from and up to."""
        group = max(bisect_right(self.begins, start) - 1, 0)
        while start < stop:
            begin, end = self.begins[group : group + 2]
            if start < end:
                yield group, start - begin, min(stop, end) - begin
                start = min(stop, end)
            group += 1

    def _group(self, group: int, first: int, last: int) -> Array:
        if last - first == self.begins[group + 1] - self.begins[group]:
            return self._decode(group)
        key = (self.file.identity, self.names, self.tail, group)
        return decoded.get(key, lambda: self._decode(group))[first:last]

    def _decode(self, group: int) -> Array:
        try:
            with _opened(self.file, self.metadata) as opened:
                table = opened.read_row_group(group, columns=list(self.names))
        except DatasetError:
            raise
        except (_arrow().ArrowException, OSError, ValueError) as error:
            raise self.file.fault(f"row group {group} cannot be decoded ({error}); write it again") from error
        columns = [self._numbers(table.column(name), name, self.begins[group]) for name in self.names]
        if len(columns) == 1:
            return columns[0].astype(self.dtype, copy=False)
        made = np.empty((len(columns[0]), len(columns)), self.dtype)
        rows = max(1, _BLOCK // (len(columns) * self.dtype.itemsize))
        for begin in range(0, len(made), rows):
            for number, column in enumerate(columns):
                made[begin : begin + rows, number] = column[begin : begin + rows]
        return made

    def _numbers(self, column: Any, name: str, begin: int) -> Array:
        parts = []
        for chunk in column.chunks:
            array, width = chunk, 1
            while True:
                if array.null_count:
                    at = begin + int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0]) // width
                    text = f"column {name!r} is null in row {at}; fill the gaps, or leave such rows out"
                    raise self.file.fault(text)
                if not _arrow().types.is_fixed_size_list(array.type):
                    break
                width *= array.type.list_size
                array = array.flatten()
            shape = (len(chunk), *self.tail) if len(self.names) == 1 else (len(chunk),)
            parts.append(array.to_numpy(zero_copy_only=False).reshape(shape))
            begin += len(chunk)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, *parts[0].shape[1:]), self.dtype), *parts])


def open_parquet(file: File) -> Table:
    """Columns of a .parquet file."""
    try:
        with _opened(file, None) as opened:
            metadata, schema = opened.metadata, opened.schema_arrow
    except DatasetError:
        raise
    except (_arrow().ArrowException, OSError, ValueError) as error:
        raise file.fault(f"not a readable .parquet file ({error}); write it again") from error
    names = file.columns(schema.names)
    forms = [_form(file, schema, name) for name in names]
    if len(names) > 1 and any(tail for _, tail in forms):
        raise file.fault("a column of lists is read alone; of several columns each needs to hold numbers")
    tail = (len(names),) if isinstance(file.dataset.column, tuple) else forms[0][1]
    groups = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    dtype = reduce(np.promote_types, [dtype for dtype, _ in forms])
    columns = _Columns(file, names, dtype, tail, tuple(accumulate(groups, initial=0)), metadata)
    return Table(dtype, columns.shape, columns.rows, lambda: columns.rows(0, columns.begins[-1]))


def _form(file: File, schema: Any, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype of a column's numbers, and the shape of what one row has of them."""
    if len(schema.get_all_field_indices(name)) > 1:
        raise file.fault(f"has several columns named {name!r}; write it again with names that differ")
    kind, tail = schema.field(name).type, []
    while _arrow().types.is_fixed_size_list(kind):
        tail.append(kind.list_size)
        kind = kind.value_type
    try:
        dtype = np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        dtype = np.dtype(object)
    if dtype not in tensors.DTYPES:
        raise file.fault(f"column {name!r} holds {schema.field(name).type}, not numbers; convert it before writing")
    return dtype, tuple(tail)


def _opened(file: File, metadata: Any) -> Any:
    pq = _arrow().parquet
    return pq.ParquetFile(file.bytes.path or Reader(file.bytes), metadata=metadata, pre_buffer=True)


def _arrow() -> Any:
    """The library, imported when the first file of this format is opened."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"reading parquet needs pyarrow ({error}); pip install 'gradfleet[parquet]'") from error
    return pyarrow
