"""Values of jobs by the SHA-256 of their bytes: little ones in the database, in the transaction that names them, others in blobs.

A transaction costs less than a file that is synchronised to disk, and one that is made anyhow costs next to nothing.
"""

import hashlib

from scheduler.job.blobs import BlobStore, Bytes
from scheduler.job.naming import ValueGone
from scheduler.job.store import SMALL_BYTES, Store


class Values:
    """The bytes of graphs, feeds, checkpoints and results."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self._store, self.blobs = store, blobs
        store.kept = blobs.kept

    def put(self, data: Bytes, beside: dict[str, bytes]) -> str:
        """Keep bytes and return their digest. Little ones are put into `beside`, which goes to the store with the digest."""
        view = memoryview(data)
        if view.nbytes > SMALL_BYTES:
            return self.blobs.put(data)
        small = view.tobytes()
        digest = hashlib.sha256(small).hexdigest()
        beside[digest] = small
        return digest

    def has(self, digest: str) -> bool:
        """Whether the bytes are here."""
        return self._store.value(digest) is not None or self.blobs.has(digest)

    def forget(self, gone: ValueGone) -> None:
        """Values are not there any more: to put them again is not in vain."""
        for digest in gone.digests:
            self._store.seen.drop_value(digest)

    def drop(self, digest: str) -> None:
        """Remove bytes that nothing names any more."""
        self._store.drop(digest)
        self.blobs.drop(digest)

    def view(self, digest: str) -> memoryview:
        """The bytes, verified, read-only. Raises BlobMissing and BlobCorrupt."""
        found = self._store.value(digest)
        return self.blobs.view(digest) if found is None else memoryview(found)
