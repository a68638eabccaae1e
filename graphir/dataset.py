"""A reference to an array in a file, read by the workers and never by the client.

Pure data: nothing here opens, looks for or resolves a file. A relative path stays relative, and it
is the worker's directory that it will be relative to.
"""

import os
from dataclasses import dataclass
from typing import Self

from graphir.errors import DatasetError, FormatError


@dataclass(frozen=True, slots=True)
class Dataset:
    """The array at `url`; `column` picks one of several in formats that hold several."""

    url: str
    column: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("url", self.url), ("column", self.column)):
            if value == "" or "\0" in (value or ""):
                raise DatasetError(f"dataset {self.url!r}: the {name} must be text, not empty, without NUL")

    def __str__(self) -> str:
        return self.url if self.column is None else f"{self.url}:{self.column}"

    def to_json(self) -> dict[str, str | None]:
        """The JSON object that `from_json` reads."""
        return {"url": self.url, "column": self.column}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The dataset of a `to_json` object, which may come from outside."""
        if not isinstance(value, dict) or not {"url"} <= value.keys() <= {"url", "column"}:
            raise FormatError(f"{value!r:.80} is no dataset; it must be an object with url and column")
        url, column = value["url"], value.get("column")
        if not isinstance(url, str) or not isinstance(column, str | None):
            raise FormatError(f"dataset {value!r:.80}: url must be text, and column text or null")
        return cls(url, column)


def dataset(url: str | os.PathLike[str], *, column: str | None = None) -> Dataset:
    """Refer to the array in a file by path or file:// URL."""
    return Dataset(os.fsdecode(url), column)
