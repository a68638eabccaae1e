"""Blobs on any URL that fsspec knows, such as s3://bucket/blobs, with a folder of this machine before it.

What is put is received and verified here, then sent whole: an object appears with all its bytes or not at all. What is read
is fetched once, verified while it is, and kept here for others, as far as `cache_bytes` go; a damaged object is never
handed out, and putting the same bytes again repairs it. An object is as old as its storage says. One that is put again
is sent again when it is no longer young, so what somebody has put lately is never taken for forgotten.
"""

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from graphir.errors import GraphError, MissingExtraError, ServiceUnavailable
from scheduler.job.blobs import BlobCorrupt, BlobMismatch, BlobMissing, Blobs, Bytes, Listed

PART, AT_ONCE = 1 << 23, 8
"""Bytes of one request, and how many are under way at one time."""
YOUNG_SECONDS = 3600.0
CACHE_BYTES = 1 << 36
REST_SECONDS = 600.0
"""Files that were used so lately stay in the cache."""
_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}
"""Places where an object that is being written is not seen before it is whole; elsewhere it is renamed."""
_NAME = re.compile(r"([0-9a-f]{2})/([0-9a-f]{62})")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


class ObjectBlobs:
    """Content-addressed blobs below a URL; `cache` is a folder of this machine. May be used by several threads."""

    def __init__(self, url: str, cache: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.url, self._fs, self._root = url, *_file_system(url)
        self._renames = not _WHOLE.intersection(
            [self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol
        )
        self._here = Blobs(cache, durable=False)
        self._cache_bytes, self._since, self._evicting = cache_bytes, 0, threading.Lock()
        self._damaged: set[str] = set()

    @property
    def incoming(self) -> Path:
        """The folder of this machine in which blobs that are being received lie."""
        return self._here.incoming

    def put(self, source: Bytes | os.PathLike[str]) -> str:
        """Store bytes, or the bytes of a file, and return their digest."""
        return self._sent(self._here.put(source))

    def put_stream(self, chunks: Iterable[Bytes], *, expect: str | None = None, limit: int | None = None) -> str:
        """Store the bytes of all chunks and return their digest."""
        return self._sent(self._here.put_stream(chunks, expect=expect, limit=limit))

    def adopt(self, handle: int, temporary: Path, digest: str) -> None:
        """Make a file under `incoming`, whose bytes have this digest, a blob."""
        self._here.adopt(handle, temporary, digest)
        self._sent(digest)

    def path(self, digest: str) -> Path:
        """A local file with the blob's bytes, verified; it must not be written."""
        try:
            found = self._here.path(digest)
        except (BlobMissing, BlobCorrupt):
            self._fetch(digest)
            found = self._here.path(digest)
        with suppress(FileNotFoundError):
            os.utime(found, (time.time(), found.stat().st_mtime))  # used now
        return found

    def view(self, digest: str) -> memoryview:
        """The blob's bytes, verified, mapped into memory and read-only."""
        self.path(digest)
        return self._here.view(digest)

    def get(self, digest: str) -> bytes:
        """The blob's bytes, verified."""
        return bytes(self.view(digest))

    def has(self, digest: str) -> bool:
        """Whether the blob is there; its bytes are verified when they are read."""
        return self._info(digest) is not None

    def kept(self, digest: str) -> bool:
        """Yes: who names a blob has put it, and what was put lately is not removed."""
        return True

    def drop(self, digest: str) -> None:
        """Remove a blob that nothing names any more, if it is there."""
        with self._asking(f"remove blob {digest}"), suppress(FileNotFoundError):
            self._fs.rm_file(self._place(digest))
        self._here.drop(digest)

    def listed(self) -> Iterator[Listed]:
        """All blobs there are."""
        with self._asking("list blobs"):
            found: Mapping[str, Mapping[str, Any]] = self._fs.find(self._root, detail=True)
        for path, info in found.items():
            name = _NAME.fullmatch(path.removeprefix(self._root).lstrip("/"))
            if name is not None:
                yield Listed(name[1] + name[2], int(info["size"]), _time(info))

    def remove(self, digests: Iterable[str], before: float) -> list[str]:
        """Remove those that nobody has put since a time, and name them."""
        names = list(digests)
        old = [name for name in names if (info := self._info(name)) is not None and _time(info) < before]
        if old:
            with self._asking("remove blobs"):
                self._fs.rm([self._place(name) for name in old])
        for name in names:
            self._here.drop(name)
        return old

    def sweep(self, before: float) -> int:
        """Remove what killed writers and cut uploads left behind before this time; count it."""
        count = self._here.sweep(before)
        with self._asking("list blobs"):
            left = self._fs.find(f"{self._root}/incoming", detail=True) if self._renames else {}
            for path in [path for path, info in left.items() if _time(info) < before]:
                self._fs.rm_file(path)
                count += 1
        self._evict()
        return count

    def _place(self, digest: str) -> str:
        self._here.has(digest)  # which refuses what is no digest
        return f"{self._root}/{digest[:2]}/{digest[2:]}"

    def _info(self, digest: str) -> Mapping[str, Any] | None:
        place = self._place(digest)
        with self._asking(f"look for blob {digest}"):
            try:
                found: Mapping[str, Any] = self._fs.info(place)
            except FileNotFoundError:
                return None
        return found

    def _sent(self, digest: str) -> str:
        """Send the blob, which is here, unless it is there and young."""
        path = self._here.path(digest)
        size, info = path.stat().st_size, self._info(digest)
        is_there = info is not None and info["size"] == size and digest not in self._damaged
        if is_there and info is not None and _time(info) > time.time() - YOUNG_SECONDS:
            return digest
        place = self._place(digest)
        with self._asking(f"write blob {digest}"):
            if self._renames:
                new = f"{self._root}/incoming/{uuid4().hex}"
                for folder in (f"{self._root}/incoming", place.rpartition("/")[0]):
                    self._fs.makedirs(folder, exist_ok=True)
                self._fs.put_file(str(path), new)
                self._fs.mv(new, place)
            else:
                self._fs.put_file(str(path), place)
        self._damaged.discard(digest)
        self._grown(digest, size)
        return digest

    def _fetch(self, digest: str) -> None:
        info = self._info(digest)
        if info is None:
            raise BlobMissing(f"there is no blob {digest} in {self.url}; upload it again")
        try:
            self._here.put_stream(self._parts(digest, int(info["size"])), expect=digest)
        except BlobMismatch as error:
            self._damaged.add(digest)
            raise BlobCorrupt(f"blob {digest} is damaged in {self.url}: {error}; upload the same data again") from None
        self._grown(digest, int(info["size"]))

    def _parts(self, digest: str, size: int) -> Iterator[bytes]:
        borders = [*range(0, size, PART), size]
        place = self._place(digest)
        for first in range(0, len(borders) - 1, AT_ONCE):
            some = borders[first : first + AT_ONCE + 1]
            with self._asking(f"read blob {digest}"):
                starts, ends = some[:-1], some[1:]
                yield from self._fs.cat_ranges([place] * len(starts), starts, ends, on_error="raise")

    def _grown(self, digest: str, size: int) -> None:
        self._since += size
        if self._since > self._cache_bytes // 8:
            self._evict(digest)

    def _evict(self, kept: str = "") -> None:
        """Let go of what was not used for longest, but for one that is about to be read, until the cache is small enough."""
        with self._evicting:
            self._since = 0
            files = [
                (path.stat(), each.digest)
                for each in self._here.listed()
                if (path := self._here.root / each.digest[:2] / each.digest[2:]).exists()
            ]
            total, rests = sum(status.st_size for status, _ in files), time.time() - REST_SECONDS
            for status, digest in sorted(files, key=lambda file: file[0].st_atime):
                if total <= self._cache_bytes or status.st_atime > rests:
                    return
                if digest == kept:
                    continue
                self._here.drop(digest)
                total -= status.st_size

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Give every error of a storage's library one of our types."""
        try:
            yield
        except (GraphError, FileNotFoundError):
            raise
        except Exception as error:
            raise ServiceUnavailable(
                f"the storage {self.url} cannot {what} ({type(error).__name__}: {error}); check its address, rights and space"
            ) from error


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec.core  # here, because most services keep blobs in a folder

    try:
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise MissingExtraError(f"storage {url!r}: a library that it needs is missing here: {error}") from error
    except Exception as error:
        raise ServiceUnavailable(
            f"storage {url!r} cannot be used: {error}; give a folder, s3:// or another URL"
        ) from error
    return fs, str(path).rstrip("/")


def _time(info: Mapping[str, Any]) -> float:
    """When an object was written; one whose storage does not say so is always young."""
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()


def open_blobs(storage: str | None, directory: Path, *, durable: bool) -> "Blobs | ObjectBlobs":
    """The blobs of a service: in a folder, or below a URL with a cache in the service's directory."""
    if storage is None:
        return Blobs(directory / "blobs", durable=durable)
    path = re.sub(r"^file://(localhost)?(?=/)", "", storage, flags=re.IGNORECASE)
    if "://" not in path:
        return Blobs(path, durable=durable)
    return ObjectBlobs(storage, directory / "cache")
