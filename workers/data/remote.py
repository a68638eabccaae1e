"""Files elsewhere, read by byte ranges through fsspec. Nothing is listed or looked up from a cache.

A file's tag is what its storage says of its content: an etag, a checksum, or at least a time of change. What the
storage refuses is a DatasetError; what it does not answer to is DatasetUnavailable, after which a job tries again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np

from graphir.dataset import Dataset
from graphir.errors import DatasetError, DatasetUnavailable, GraphError, MissingExtraError
from workers.data.fence import Fence
from workers.data.file import Identity, fault
from workers.data.web import Outside, guarded, limits

PART = 1 << 23
"""Bytes asked for in one request; a few are under way at a time."""
AT_ONCE = 8
AHEAD = 1 << 12
"""Small reads, of headers, take in so many bytes at once."""

_TAGS = (
    "ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "sha", "checksum", "generation",
    "Last-Modified", "LastModified", "last_modified", "mtime", "updated", "modified", "modify", "created",
)  # fmt: skip
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_ABSENT = (401, 403, 404, 410)  # answers that stay the same when they are asked for again


class RemoteBytes:
    """A file that fsspec reaches."""

    __slots__ = ("_block", "_dataset", "_fs", "_path", "_url", "identity")

    path = None

    def __init__(self, dataset: Dataset, url: str) -> None:
        self._dataset, self._url = dataset, url
        self._fs, self._path = _file_system(dataset, url)
        self.identity = self._identity()
        self._block = (0, memoryview(b""))

    def view(self, begin: int, end: int) -> memoryview:
        """The bytes of a range, fetched."""
        if end - begin > AHEAD:
            return self._fetch(begin, end)
        at, block = self._block
        if not at <= begin <= end <= at + len(block):
            at, block = self._block = begin, self._fetch(begin, min(begin + AHEAD, self.identity.size))
        return block[begin - at : end - at]

    def now(self) -> Identity:
        """The identity that the storage tells now."""
        return self._identity()

    def _identity(self) -> Identity:
        with asking(self._dataset, self._url):
            self._fs.invalidate_cache()
            return identity(self._dataset, self._url, self._fs.info(self._path))

    def _fetch(self, begin: int, end: int) -> memoryview:
        borders = [*range(begin, end, PART), end]
        if len(borders) <= 2:
            return memoryview(self._ranges(borders)[0]) if end > begin else memoryview(b"")
        whole = np.empty(end - begin, np.uint8).data
        for first in range(0, len(borders) - 1, AT_ONCE):
            some = borders[first : first + AT_ONCE + 1]
            for at, part in zip(some, self._ranges(some), strict=False):
                whole[at - begin : at - begin + len(part)] = part
        return whole

    def _ranges(self, borders: list[int]) -> list[bytes]:
        starts, ends = borders[:-1], borders[1:]
        with asking(self._dataset, self._url):
            parts: list[bytes] = self._fs.cat_ranges([self._path] * len(starts), starts, ends, on_error="raise")
        for start, end, part in zip(starts, ends, parts, strict=True):
            if len(part) != end - start:
                what = (
                    f"bytes {start}:{end} were asked for and {len(part)} came; either the file has changed, or its "
                    "server does not answer range requests, and then the file must be copied to one that does"
                )
                raise fault(self._dataset, what, self._url)
        return parts


def identity(dataset: Dataset, url: str, info: Mapping[str, Any]) -> Identity:
    """The identity of a file from what its storage tells."""
    if info.get("type") == "directory":
        raise fault(dataset, "is a folder; name its files with a pattern, such as *.npy", url)
    if info.get("size") is None:
        raise fault(dataset, "its server does not tell its size, so it cannot be read by rows; copy it elsewhere", url)
    tag = next((f"{name} {info[name]}" for name in _TAGS if info.get(name)), "")
    return Identity(url, int(info["size"]), tag if "ino" not in info else f"{tag} inode {info['ino']}")


def find(dataset: Dataset, pattern: str) -> list[str]:
    """The URLs of the files that a pattern matches, in any order."""
    fs, path = _file_system(dataset, pattern)
    with asking(dataset, pattern):
        fs.invalidate_cache()
        found = [name for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"]
    prefix = pattern.removesuffix(path) if pattern.endswith(path) else pattern[: pattern.index("://") + 3]
    return [name if "://" in name else prefix + name for name in found]


def is_folder(dataset: Dataset, url: str) -> bool:
    """Whether this is a folder of files."""
    fs, path = _file_system(dataset, url)
    with asking(dataset, url):
        fs.invalidate_cache()
        return bool(fs.isdir(path))


def _file_system(dataset: Dataset, url: str) -> tuple[Any, str]:
    import fsspec.core  # here, because most jobs do not need it

    scheme = url[: url.index("://")].lower()
    try:
        fs, path = fsspec.core.url_to_fs(url, **_options(scheme))
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        remedy = f"pip install 'gradfleet[{extra}]'" if extra else f"install it: {error}"
        raise MissingExtraError(
            f"dataset {dataset.url!r}: a library that reads {scheme}:// is missing here; {remedy}"
        ) from error
    except Exception as error:
        what = (
            f"the scheme {scheme!r} cannot be read ({error}); give a path, file://, s3://, gs://, https:// or another"
        )
        raise fault(dataset, what) from error
    return fs, str(path)


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {}
    fence, options = Fence.here(), {"client_kwargs": {"timeout": limits()}}
    if fence is None:
        return options
    return options | {"get_client": _session(fence), "use_listings_cache": False}


@lru_cache(maxsize=8)
def _session(fence: Fence) -> Any:
    """One function for one fence, so that fsspec keeps one session."""
    return partial(guarded, fence)


@contextmanager
def asking(dataset: Dataset, url: str) -> Iterator[None]:
    """Give every error of a storage's library one of our types."""
    try:
        yield
    except GraphError:
        raise
    except Outside as error:
        raise fault(dataset, f"leads to where this service may not read: {error}", url) from error
    except FileNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, Outside):
            raise fault(dataset, f"leads to where this service may not read: {cause}", url) from error
        if cause is None or getattr(cause, "status", None) in _ABSENT:
            raise fault(dataset, f"no such file ({error}); check the URL and who may read it", url) from error
        raise _unavailable(dataset, url, cause) from error
    except PermissionError as error:
        raise fault(dataset, f"permission denied ({error}); check the workers' credentials", url) from error
    except Exception as error:
        raise _unavailable(dataset, url, error) from error


def _unavailable(dataset: Dataset, url: str, error: BaseException) -> DatasetError:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    plain = fault(dataset, f"its storage does not answer ({said}); check address, network and credentials", url)
    return DatasetUnavailable(*plain.args)
