"""What the routes do, without HTTP: the service's jobs and blobs as one user may see them.

What is somebody else's is as if it were not there. A blob is a user's only after he has sent its bytes, so knowing the name
of another one's blob gives nothing. Datasets are read only under prefixes that the operator has allowed.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from graphir import wire
from graphir.dataset import Dataset
from graphir.errors import FeedError, FormatError, LimitError, QueueFull, ServiceUnavailable
from graphir.feeds import bind_sizes, check_names
from graphir.graph import Graph
from graphir.node import Array
from graphir.partition.plan import Plan
from graphir.tensors import has_invalid_bool
from graphir.timeline import chrome_trace
from scheduler.api.problems import NotFound, NotReady
from scheduler.api.rules import Rules
from scheduler.api.schemas import PlanRequest, ShapeFeed, Submission
from scheduler.job.access import Access
from scheduler.job.blobs import BlobMismatch, BlobMissing, Bytes
from scheduler.job.naming import ValueGone
from scheduler.job.seen import Record
from scheduler.job.spec import ArrayFeed, DatasetFeed, SpecError
from scheduler.job.store import UnknownJob
from scheduler.job.uploads import Uploads
from scheduler.limits import MAX_GRAPH_NODES, MAX_GRAPHS
from scheduler.local import EmbeddedService
from workers.data import open_source
from workers.data.fence import Fence
from workers.recent import Recent

FRESH_SECONDS = 600.0
"""A blob that was sent or asked about longer ago counts anew as sent when it is asked about."""
_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Desk:
    """One service, for many users. May be used by several threads."""

    def __init__(self, service: EmbeddedService, rules: Rules, now: Any) -> None:
        self.service, self.rules, self._now = service, rules, now
        self.access = Access(service.store)
        self._limits = wire.Limits(nodes=rules.graph_nodes, header_bytes=1 << 28, constant_bytes=rules.blob_bytes)
        self._uploads = Uploads(service.values.blobs)
        self._fence = Fence(rules.data)
        self._graphs: Recent[str, Graph] = Recent(MAX_GRAPHS, MAX_GRAPH_NODES, len)

    def submit(self, owner: str, asked: Submission) -> str:
        """Accept a job."""
        waiting = self.service.store.waiting(owner)
        if waiting >= self.rules.jobs:
            raise QueueFull(f"you have {waiting} jobs that have not ended, the limit; wait for some or cancel some")
        small = _decoded(asked.values)
        graph = self._graph(owner, asked.graph, small)
        feeds = {name: self._feed(owner, name, feed, small) for name, feed in asked.feeds.items()}
        options = asked.model_dump(mode="json", exclude={"graph", "feeds", "values"})
        return self.service.submit(graph, feeds, options, owner=owner)

    def plan(self, owner: str, asked: PlanRequest) -> Plan:
        """The plan of a job that is not run."""
        graph = self._graph(owner, asked.graph, {})
        check_names(graph, asked.feeds)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, feed in asked.feeds.items():
            if isinstance(feed, ShapeFeed):
                if feed.dtype != graph.inputs[name].type.dtype.name:
                    raise FeedError(f"input {name!r} is {graph.inputs[name].type}, not {feed.dtype}; convert it")
                shapes[name] = feed.shape
            else:
                shapes[name] = open_source(self._dataset(feed.dataset())).shape
        options = asked.model_dump(mode="json", exclude={"graph", "feeds", "workers"})
        return self.service.plan_for(graph, bind_sizes(graph, shapes), options, asked.workers)

    def record(self, owner: str, id: str) -> Record:
        """A job of this user."""
        if _ID.fullmatch(id):
            with suppress(UnknownJob):
                record = self.service.record(id)
                if record.owner == owner:
                    return record
        raise UnknownJob(f"you have no job {id[:100]!r}; look at the list of yours")

    def jobs(self, owner: str, limit: int, before: str | None, status: str | None = None) -> list[Record]:
        """Jobs of this user, the latest first."""
        if before is not None and not _ID.fullmatch(before):
            raise UnknownJob(f"there is no job {before[:100]!r} before which others could be")
        return self.service.store.jobs(limit, before, owner=owner, status=status)

    def result(self, owner: str, id: str) -> Path | bytes:
        """The outputs of a job: a file, or bytes where they are few."""
        digest = self.record(owner, id).job.result
        if digest is None:
            raise NotReady(f"job {id} has no result; it is {self.record(owner, id).job.status}")
        small = self.service.store.value(digest)
        return self.service.values.blobs.path(digest) if small is None else small

    def timeline(self, owner: str, id: str) -> dict[str, Any]:
        """A Chrome trace of a job so far."""
        return chrome_trace([logged.to_json() for logged in self.service.store.events(self.record(owner, id).id)])

    def put(
        self, owner: str, digest: str, chunks: Iterable[Bytes], *, begin: int = 0, total: int | None = None
    ) -> bool:
        """Take the bytes of a blob, or those after a cut; whether they are new for this user."""
        _check_digest(digest)
        known = self.access.size(owner, digest) is not None
        most = self.rules.blob_bytes if known else min(self._room(owner, digest), self.rules.blob_bytes)
        if total is not None and total > most:
            raise LimitError(
                f"a blob of {total} bytes is more than the {most} that you may send; ask the operator for more"
            )
        size = self._uploads.receive(owner, digest, chunks, begin=begin, total=total, limit=most)
        try:
            self.access.hold(owner, digest, size, self._now(), self.rules.bytes)
        except ValueGone:
            raise ServiceUnavailable(f"blob {digest} was removed while it came; send it again") from None
        return not known

    def blob(self, owner: str, digest: str) -> Path:
        """The file of a blob of this user."""
        if not _DIGEST.fullmatch(digest) or self.access.size(owner, digest) is None:
            raise _no_blob(digest)
        try:
            return self.service.values.blobs.path(digest)
        except BlobMissing:  # which would tell where it was looked for
            raise _no_blob(digest) from None

    def has(self, owner: str, digest: str) -> int:
        """The bytes of a blob of this user, which is kept for a while then, for he may be about to name it."""
        size = self.access.size(owner, digest) if _DIGEST.fullmatch(digest) else None
        if size is None or not self.service.values.blobs.has(digest):
            raise self._absent(owner, digest)
        if self._now() - (self.access.since(owner, digest) or 0.0) > FRESH_SECONDS:
            try:
                self.access.hold(owner, digest, size, self._now())
            except ValueGone:
                raise _no_blob(digest) from None
        return size

    def _absent(self, owner: str, digest: str) -> BlobMissing:
        """There is no such blob; perhaps a part of it."""
        absent = _no_blob(digest)
        if _DIGEST.fullmatch(digest) and (offset := self._uploads.offset(owner, digest)):
            absent.headers = {"Upload-Offset": str(offset)}
        return absent

    def _room(self, owner: str, digest: str) -> int:
        left = self.rules.bytes - self.access.held(owner) - self._uploads.waiting(owner, digest)
        if left <= 0:
            raise LimitError(f"you have {self.rules.bytes} bytes of blobs, the limit; ask the operator for more")
        return left

    def _graph(self, owner: str, digest: str, small: Mapping[str, bytes]) -> Graph:
        path = None if digest in small else self.blob(owner, digest)
        graph = self._graphs.get(digest)
        if graph is None:
            graph = wire.load(small[digest] if path is None else path.read_bytes(), self._limits)
            self._graphs.put(digest, graph)
        return graph

    def _feed(
        self, owner: str, name: str, feed: ArrayFeed | DatasetFeed, small: Mapping[str, bytes]
    ) -> Array | Dataset:
        if isinstance(feed, DatasetFeed):
            return self._dataset(feed)
        if feed.blob in small:
            data = memoryview(small[feed.blob])
        else:
            self.blob(owner, feed.blob)
            data = self.service.values.blobs.view(feed.blob)
        if data.nbytes != feed.nbytes:
            raise SpecError(
                f"input {name!r} is said to be {feed.dtype}{list(feed.shape)} of {feed.nbytes} bytes, but its blob has "
                f"{data.nbytes}"
            )
        array: Array = np.ndarray(feed.shape, np.dtype(feed.dtype).newbyteorder("<"), data if feed.nbytes else None)
        if has_invalid_bool(array):
            raise FormatError(f"input {name!r} is bool, and its blob has bytes other than 0 and 1; send it again")
        return array

    def _dataset(self, feed: DatasetFeed) -> Dataset:
        """A dataset under one of the prefixes; what it was found to be is not taken from outside."""
        self._fence.check(feed.url)
        return Dataset(feed.url, feed.column)


def plan_facts(plan: Plan) -> Mapping[str, Any]:
    """A plan as JSON data."""
    facts = {name: getattr(plan, name) for name in ("stages", "chunks", "borders", "sizes", "notes", "outlook")}
    return {"text": plan.to_text(), "svg": plan.to_svg(), **facts}


def _check_digest(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise NotFound(
            f"{digest[:100]!r} does not name a blob; a name is the SHA-256 of its bytes in lower-case digits"
        )


def _decoded(values: Mapping[str, str]) -> dict[str, bytes]:
    """Small values that came with a job, and are what they are named."""
    found: dict[str, bytes] = {}
    for digest, text in values.items():
        try:
            found[digest] = base64.b64decode(text, validate=True)
        except ValueError:
            raise SpecError(f"value {digest} is not in base 64; encode its bytes so, or send it as a blob") from None
        if hashlib.sha256(found[digest]).hexdigest() != digest:
            raise BlobMismatch(f"the bytes that came as value {digest} have another digest; send them again")
    return found


def _no_blob(digest: str) -> BlobMissing:
    return BlobMissing(f"you have no blob {digest[:100]!r} here; upload it")
