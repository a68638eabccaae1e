"""A reference to an array in files, read by the workers and never by the client.

Pure data: nothing here opens, looks for or resolves a file. A relative path stays relative until the service that gets
it makes it absolute. That service also adds the snapshot: which files there were, in which order, and what identifies
the content of each, so that whoever reads them later can tell that they are still the same.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from graphir.errors import DatasetError, FormatError


@dataclass(frozen=True, slots=True)
class FileState:
    """One file as it was found. tag: its etag, or what else changes with its content; rows: its part of axis 0."""

    url: str
    size: int
    tag: str
    rows: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a dataset was found to hold: the files in order, joined along axis 0."""

    dtype: str
    shape: tuple[int, ...]
    files: tuple[FileState, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The array at `url`, which may match several files; `column` picks one array or, of a table, several columns."""

    url: str
    column: str | tuple[str, ...] | None = None
    snapshot: Snapshot | None = None

    def __post_init__(self) -> None:
        columns = self.column if isinstance(self.column, tuple) else (self.column,)
        if not columns or len(set(columns)) < len(columns):
            raise DatasetError(f"dataset {self.url!r}: column lists no names, or one twice; name each column once")
        for name, value in (("url", self.url), *(("column", column) for column in columns)):
            if value == "" or "\0" in (value or ""):
                raise DatasetError(f"dataset {self.url!r}: the {name} must be text, not empty, without NUL")

    def __str__(self) -> str:
        if self.column is None:
            return self.url
        return f"{self.url}:{self.column if isinstance(self.column, str) else ','.join(self.column)}"

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        column = list(self.column) if isinstance(self.column, tuple) else self.column
        plain = {"url": self.url, "column": column}
        return plain if self.snapshot is None else {**plain, "snapshot": asdict(self.snapshot)}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The dataset of a `to_json` object, which may come from outside."""
        if not isinstance(value, dict) or not {"url"} <= value.keys() <= {"url", "column", "snapshot"}:
            raise FormatError(f"{value!r:.80} is no dataset; it must be an object with url and column")
        url, column, snapshot = value["url"], value.get("column"), value.get("snapshot")
        listed = column if isinstance(column, list) else [column]
        if not isinstance(url, str) or not all(isinstance(name, str) or name is column is None for name in listed):
            raise FormatError(f"dataset {value!r:.80}: url must be text, and column text, a list of texts or null")
        if isinstance(column, list):
            column = tuple(column)
        return cls(url, column, None if snapshot is None else _snapshot(snapshot))


def _snapshot(value: Any) -> Snapshot:
    try:
        files = tuple(FileState(**file) for file in value["files"])
        return Snapshot(value["dtype"], tuple(value["shape"]), files)
    except (TypeError, KeyError) as error:
        raise FormatError(f"a dataset's snapshot needs dtype, shape and files ({error}); submit it without") from error


def dataset(url: str | os.PathLike[str], *, column: str | Sequence[str] | None = None) -> Dataset:
    """Refer to the array in a file, or in all files that a pattern matches, by path or URL.

    Files are joined along axis 0 in the order of their names, numbers in names compared as numbers. column: the array
    in an .npz or .safetensors file; of parquet one column, or a list of columns that become the second axis.
    """
    return Dataset(os.fsdecode(url), column if isinstance(column, str | None) else tuple(column))
