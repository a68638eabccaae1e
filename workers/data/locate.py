"""From a dataset's URL to its files: which there are, in which order, and how each is opened.

A path or a file:// URL is a file of this machine, and is mapped. Everything else is a URL that fsspec knows, local://
too, which reads files of this machine by ranges. A name with *, ? or [ in it that is no file's name is a pattern; a
folder means the parquet files in it. Files are in the order of their names, where runs of digits count as numbers:
part-2 comes before part-10.
"""

import glob
import os
import re
from urllib.parse import unquote, urlsplit

from graphir.dataset import Dataset
from workers.data import remote
from workers.data.fence import Fence
from workers.data.file import Bytes, LocalBytes, fault

MAX_FILES = 10_000
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FOLDER = "*.parquet"


def absolute(url: str) -> str:
    """The same place for every process of this machine."""
    return url if _SCHEME.match(url) else os.path.abspath(url) + ("/" if url.endswith("/") else "")


def files(dataset: Dataset) -> list[str]:
    """The paths or URLs of a dataset's files, in order."""
    _check(dataset.url)
    path = local_path(dataset)
    found = _remote_files(dataset) if path is None else _local_files(path)
    if not found:
        raise fault(dataset, "no file matches; check the pattern, and that every worker sees the folder")
    if len(found) > MAX_FILES:
        raise fault(dataset, f"matches {len(found)} files, the limit is {MAX_FILES}; join some of them")
    for name in found:
        _check(name)
    return sorted(found, key=in_order)


def in_order(name: str) -> tuple[list[tuple[str, int]], str]:
    """What names are sorted by: text as text, runs of digits as numbers; of equals, the text decides."""
    parts = re.split(r"([0-9]+)", name)
    return [(text, int(number or 0)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)], name


def is_elsewhere(url: str) -> bool:
    """Whether one of a dataset's files is read through fsspec."""
    return _SCHEME.match(url) is not None


def open_bytes(dataset: Dataset, url: str) -> Bytes:
    """Open one of a dataset's files."""
    _check(url)
    return remote.RemoteBytes(dataset, url) if is_elsewhere(url) else LocalBytes(dataset, url)


def extension(url: str) -> str:
    """The ending of a file's name, which says what format it has."""
    path = urlsplit(url).path if _SCHEME.match(url) else url
    return os.path.splitext(path)[1].lower()


def local_path(dataset: Dataset) -> str | None:
    """The path of a file of this machine; None if fsspec is to find it."""
    match = re.match(r"file://([^/]*)(.*)", dataset.url, re.IGNORECASE | re.DOTALL)
    if match is None:
        return None if _SCHEME.match(dataset.url) else dataset.url
    host, path = match.groups()
    if host not in ("", "localhost"):
        raise fault(dataset, f"names the host {host!r}; a file:// URL has three slashes: file:///{host}{path}")
    return unquote(path)


def _check(url: str) -> None:
    fence = Fence.here()
    if fence is not None:
        fence.check(url)


def _local_files(path: str) -> list[str]:
    if "\0" in path or os.path.isfile(path):
        return [path]
    if os.path.isdir(path) and os.path.splitext(path.rstrip("/"))[1] in ("", ".parquet"):
        return [p for p in glob.glob(os.path.join(glob.escape(path), _FOLDER)) if os.path.isfile(p)]
    if glob.has_magic(path):
        return [p for p in glob.glob(path, recursive=True) if os.path.isfile(p)]
    return [path]  # opening it says what is wrong


def _remote_files(dataset: Dataset) -> list[str]:
    url = dataset.url
    web = url.lower().startswith("http")
    if any(sign in url for sign in ("*[" if web else "*?[")):  # in a web address, ? begins the query
        return remote.find(dataset, url)
    # To ask whether a web address is a folder would be to fetch all of it.
    if url.endswith("/") or (extension(url) in ("", ".parquet") and not web and remote.is_folder(dataset, url)):
        return remote.find(dataset, url.rstrip("/") + "/" + _FOLDER)
    return [url]
