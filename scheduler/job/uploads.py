"""Uploads that were cut in the middle, and go on from where they were.

What somebody has sent of a blob lies in a file of his, under its digest, for as long as unneeded values are kept; nobody else
gets it or learns of it. One upload of a blob writes there at a time; another one at the same time is received beside it,
and cannot go on. The digest of all bytes is computed before they become a blob, so how they were cut does not matter.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphir.errors import GraphError, LimitError
from scheduler.job.blobs import CHUNK, BlobMismatch, BlobStore, BlobWriteFailed, Bytes

KEPT_BYTES = 1 << 20
"""Less than this is sent again; so the number of files is bounded with their bytes."""


class UploadGap(GraphError):
    """An upload does not go on where the last one was cut."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"{offset} bytes of this blob are here; go on from there, or send it from the beginning")
        self.headers = {"Upload-Offset": str(offset)}


class UploadShort(GraphError):
    """An upload has fewer bytes than it said."""


class Uploads:
    """Blobs that are being received, for some users. May be used by several threads and processes."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def offset(self, owner: str, digest: str) -> int:
        """How many bytes of a blob this user has sent before he was cut."""
        try:
            return self._place(owner, digest).stat().st_size
        except FileNotFoundError:
            return 0

    def waiting(self, owner: str, but: str) -> int:
        """The bytes that this user has sent of blobs that are not whole, but for one."""
        total = 0
        for path in self._folder(owner).glob("*"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size if path.name != but else 0
        return total

    def receive(
        self, owner: str, digest: str, chunks: Iterable[Bytes], *, begin: int, total: int | None, limit: int
    ) -> int:
        """Take the bytes from `begin` on, of so many in all if that is known; the number of bytes of the blob."""
        path = self._place(owner, digest)
        with self._writing(), self._locked(path) as handle:
            if handle is not None:
                return self._receive(handle, path, digest, chunks, begin, total, limit)
        if begin:
            raise UploadGap(0)
        counted = _Counted(chunks)
        self._blobs.put_stream(counted, expect=digest, limit=limit)
        return counted.bytes

    def _receive(
        self, handle: int, path: Path, digest: str, chunks: Iterable[Bytes], begin: int, total: int | None, limit: int
    ) -> int:
        there, ended = os.fstat(handle).st_size, False
        if begin > there:
            raise UploadGap(there)
        os.ftruncate(handle, begin)
        try:
            found, size = _hashed(handle), begin
            for chunk in chunks:
                size += len(chunk)
                if size > limit or (total is not None and size > total):
                    ended = True
                    raise LimitError(
                        f"a blob has more than {min(limit, total or limit)} bytes, which is the limit; send less"
                    )
                found.update(chunk)
                ended = True  # if it cannot be written, it shall not fill what room there is
                _write(handle, chunk)
                ended = False
            if total is not None and size < total:
                raise UploadShort(f"{size} of {total} bytes have come; go on from there")
            ended = True
            if found.hexdigest() != digest:
                raise BlobMismatch(f"received bytes have digest {found.hexdigest()}, not {digest}; send the blob again")
            self._blobs.adopt(handle, path, digest)
            return size
        finally:
            if ended or os.fstat(handle).st_size < KEPT_BYTES:
                path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[int | None]:
        """The file at a path, for this upload alone; None if another one has it."""
        path.parent.mkdir(exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = path.stat().st_ino == os.fstat(handle).st_ino
            except (BlockingIOError, FileNotFoundError):
                mine = False
            yield handle if mine else None
        finally:
            os.close(handle)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"{self._blobs.incoming}: {error.strerror or error}"
            raise BlobWriteFailed(f"cannot receive a blob in {reason}; check space and permissions") from error

    def _folder(self, owner: str) -> Path:
        return self._blobs.incoming / f"of-{hashlib.sha256(owner.encode()).hexdigest()[:32]}"

    def _place(self, owner: str, digest: str) -> Path:
        return self._folder(owner) / digest


class _Counted:
    """Chunks, and how many bytes they had."""

    def __init__(self, chunks: Iterable[Bytes]) -> None:
        self._chunks, self.bytes = chunks, 0

    def __iter__(self) -> Iterator[Bytes]:
        for chunk in self._chunks:
            self.bytes += len(chunk)
            yield chunk


def _hashed(handle: int) -> "hashlib._Hash":
    """The digest of what is there; the next byte is written after it."""
    found = hashlib.sha256()
    os.lseek(handle, 0, os.SEEK_SET)
    while block := os.read(handle, CHUNK):
        found.update(block)
    return found


def _write(handle: int, chunk: Bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(handle, view) :]
