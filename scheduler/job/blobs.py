"""Blobs on a local directory, named by the SHA-256 of their bytes.

A blob is written beside its place, synchronised to disk, and renamed into it; so a blob that exists is
whole, whatever is killed when, and several writers of one blob do not disturb each other. What is read
is verified: each `get`, and the first `path` or `view` of a file as long as the file is not changed. A
damaged blob is never handed out, and putting the same bytes again repairs it.
"""

import hashlib
import mmap
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, Protocol

from graphir.errors import FormatError, GraphError, LimitError

CHUNK = 1 << 20
TOUCH_SECONDS = 600.0
"""A blob that is put again and is older than this gets the time of now."""
_DIGEST = re.compile(r"[0-9a-f]{64}")

Stamp = tuple[int, int, int]
Bytes = bytes | bytearray | memoryview


class BlobMissing(GraphError):
    """No blob has this digest."""

    headers: Mapping[str, str] = {}
    """How many bytes of it are here, in an answer to who sends it."""


class BlobCorrupt(GraphError):
    """The bytes on disk are not those that were stored."""


class BlobMismatch(GraphError):
    """The bytes received are not those that their sender named."""


class BlobWriteFailed(GraphError):
    """A blob cannot be written."""


class Listed(NamedTuple):
    """A blob of a listing. put: when it was put last, in seconds since the epoch."""

    digest: str
    bytes: int
    put: float


class BlobStore(Protocol):
    """Where blobs are: in a folder (`Blobs`), or elsewhere (`ObjectBlobs`)."""

    def put(self, source: Bytes | os.PathLike[str]) -> str:
        """Store bytes, or the bytes of a file, and return their digest."""

    def put_stream(self, chunks: Iterable[Bytes], *, expect: str | None = None, limit: int | None = None) -> str:
        """Store the bytes of all chunks and return their digest."""

    def adopt(self, handle: int, temporary: Path, digest: str) -> None:
        """Make a file under `incoming`, whose bytes have this digest, a blob."""

    def path(self, digest: str) -> Path:
        """A local file with the blob's bytes, verified."""

    def view(self, digest: str) -> memoryview:
        """The blob's bytes, verified, mapped into memory and read-only."""

    def has(self, digest: str) -> bool:
        """Whether the blob is here."""

    def kept(self, digest: str) -> bool:
        """The same, asked by whoever names it while nothing may be removed."""

    def drop(self, digest: str) -> None:
        """Remove a blob that nothing names any more, if it is here."""

    def listed(self) -> Iterator[Listed]:
        """All blobs there are."""

    def remove(self, digests: Iterable[str], before: float) -> list[str]:
        """Remove those that nobody has put since a time, and name them."""

    def sweep(self, before: float) -> int:
        """Remove what killed writers and cut uploads left behind before this time; count it."""

    @property
    def incoming(self) -> Path:
        """The folder of this machine in which blobs that are being received lie."""


class Blobs:
    """Content-addressed blobs under `root`. One object may be used by several threads.

    durable: blobs outlive a power cut; without it, blobs whole or absent outlive a killed process only.
    """

    def __init__(self, root: str | os.PathLike[str], *, durable: bool = True) -> None:
        self.root, self._durable = Path(root).absolute(), durable
        self.incoming = self.root / "incoming"
        self._verified: dict[str, Stamp] = {}
        with self._writing():
            self.incoming.mkdir(parents=True, exist_ok=True)

    def put(self, source: Bytes | os.PathLike[str]) -> str:
        """Store bytes, or the bytes of a file, and return their digest."""
        if isinstance(source, os.PathLike):
            with open(source, "rb") as file:
                return self.put_stream(_chunks(file))
        digest = hashlib.sha256(source).hexdigest()
        return digest if self._is_intact(digest) else self.put_stream([source], expect=digest)

    def put_stream(self, chunks: Iterable[Bytes], *, expect: str | None = None, limit: int | None = None) -> str:
        """Store the bytes of all chunks and return their digest.

        Nothing is kept when the digest is not `expect` or when there are more than `limit` bytes.
        """
        if expect is not None:
            self._place(expect)
        with self._temporary() as (handle, temporary):
            digest = self._receive(chunks, handle, limit)
            if expect not in (None, digest):
                raise BlobMismatch(f"received bytes have digest {digest}, not {expect}; send the blob again")
            if not self._is_intact(digest):
                self._publish(handle, temporary, digest)
        return digest

    def get(self, digest: str) -> bytes:
        """The blob's bytes, verified."""
        path = self._place(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise _missing(digest, path) from None
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise _corrupt(digest, path, found)
        return data

    def path(self, digest: str) -> Path:
        """A local file with the blob's bytes, verified; it must not be written."""
        path = self._place(digest)
        try:
            with path.open("rb") as file:
                self._verify(digest, path, file)
        except FileNotFoundError:
            raise _missing(digest, path) from None
        return path

    def view(self, digest: str) -> memoryview:
        """The blob's bytes, verified, mapped into memory and read-only."""
        path = self._place(digest)
        try:
            with path.open("rb") as file:
                self._verify(digest, path, file)
                if os.fstat(file.fileno()).st_size == 0:
                    return memoryview(b"")
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise _missing(digest, path) from None

    def has(self, digest: str) -> bool:
        """Whether the blob is here; its bytes are verified when they are read."""
        return self._place(digest).is_file()

    kept = has
    """Whether the blob is here, asked by whoever names it while nothing may be removed."""

    def size(self, digest: str) -> int:
        """The blob's number of bytes."""
        path = self._place(digest)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            raise _missing(digest, path) from None

    def drop(self, digest: str) -> None:
        """Remove a blob that nothing names any more, if it is here; views that were given of it stay."""
        with self._writing():
            self._place(digest).unlink(missing_ok=True)
        self._verified.pop(digest, None)

    def adopt(self, handle: int, temporary: Path, digest: str) -> None:
        """Make a file under `incoming`, whose bytes have this digest, a blob."""
        if self._is_intact(digest):
            temporary.unlink()
        else:
            self._publish(handle, temporary, digest)

    def listed(self) -> Iterator[Listed]:
        """All blobs there are."""
        for folder in self.root.glob("[0-9a-f][0-9a-f]"):
            for path in folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield Listed(folder.name + path.name, status.st_size, status.st_mtime)

    def remove(self, digests: Iterable[str], before: float) -> list[str]:
        """Remove those that nobody has put since a time (seconds since the epoch), and name them."""
        removed = []
        for digest in digests:
            with suppress(FileNotFoundError):
                if self._place(digest).stat().st_mtime < before:
                    self.drop(digest)
                    removed.append(digest)
        return removed

    def sweep(self, before: float) -> int:
        """Remove what killed writers and cut uploads left behind before this time; count it."""
        count = 0
        for left in self.incoming.rglob("*"):
            with suppress(FileNotFoundError):
                if left.is_file() and left.stat().st_mtime < before:
                    left.unlink()
                    count += 1
        return count

    def _place(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise FormatError(f"{digest[:100]!r} does not name a blob; a name is 64 lower-case hex digits")
        return self.root / digest[:2] / digest[2:]

    def _verify(self, digest: str, path: Path, file: BufferedReader) -> None:
        stamp = _stamp(file.fileno())
        if self._verified.get(digest) == stamp:
            return
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise _corrupt(digest, path, found)
        self._verified[digest] = stamp

    def _is_intact(self, digest: str) -> bool:
        """Whether the blob is here; then it counts as put now, so that nobody takes it for forgotten."""
        try:
            path = self.path(digest)
            status = path.stat()
            if time.time() - status.st_mtime > TOUCH_SECONDS:
                os.utime(path)
                self._verified[digest] = status.st_ino, status.st_size, path.stat().st_mtime_ns
        except (BlobMissing, BlobCorrupt, FileNotFoundError):
            return False
        return True

    def _receive(self, chunks: Iterable[Bytes], handle: int, limit: int | None) -> str:
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            size += memoryview(chunk).nbytes
            if limit is not None and size > limit:
                raise LimitError(f"a blob has more than {limit} bytes, which is the limit; send less")
            digest.update(chunk)
            with self._writing():
                _write(handle, chunk)
        return digest.hexdigest()

    def _publish(self, handle: int, temporary: Path, digest: str) -> None:
        path = self._place(digest)
        with self._writing():
            os.fchmod(handle, 0o444)
            self._sync(handle)
            with suppress(FileExistsError):
                path.parent.mkdir()
                self._sync_directory(self.root)
            temporary.rename(path)
            self._sync_directory(path.parent)
        self._verified[digest] = _stamp(handle)

    def _sync(self, handle: int) -> None:
        if self._durable:
            os.fsync(handle)

    def _sync_directory(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            self._sync(handle)
        finally:
            os.close(handle)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        with self._writing():
            handle, name = tempfile.mkstemp(dir=self.incoming)
        try:
            yield handle, Path(name)
        finally:
            os.close(handle)
            with suppress(FileNotFoundError):  # it was renamed into its place
                os.unlink(name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"{self.root}: {error.strerror or error}"
            raise BlobWriteFailed(f"cannot write a blob under {reason}; check space and permissions") from error


def _chunks(file: BufferedReader) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _write(handle: int, chunk: Bytes) -> None:
    if memoryview(chunk).nbytes == 0:
        return
    view = memoryview(chunk).cast("B")
    while view:
        view = view[os.write(handle, view) :]


def _stamp(handle: int) -> Stamp:
    status = os.fstat(handle)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _missing(digest: str, path: Path) -> BlobMissing:
    return BlobMissing(f"there is no blob {digest} (looked for {path}); upload it again")


def _corrupt(digest: str, path: Path, found: str) -> BlobCorrupt:
    return BlobCorrupt(f"blob {digest} is damaged: {path} holds bytes with digest {found}; upload the same data again")
