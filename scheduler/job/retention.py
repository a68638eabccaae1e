"""What is not needed any more is removed: ended jobs after a time, and values that nothing names.

Needed is what a job in the database names, in whatever field, and what somebody has sent or asked about lately. Values
are removed in transactions in which nobody can name anything; who names one looks, in the same transaction, whether it is
still there (`Store.submit`, `Store.append`, `Access.hold`). So whoever is killed or paused when, no value of a job is
removed, and no job names one that was. What is kept in vain, for the moment, is removed the next time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, Text, cast, delete, select, text

from scheduler.job.state import Status
from scheduler.job.store import Store
from scheduler.job.tables import events, holdings, jobs, small_values
from scheduler.job.values import Values

DAY = 24 * 3600.0
BATCH = 100
"""Values that are removed, and jobs that are forgotten, in one transaction: others wait for it."""
PAGE = 1000
T = TypeVar("T")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENDED = [status.value for status in Status if status.terminal]


@dataclass(frozen=True, slots=True)
class Keep:
    """For how many seconds what is kept. results: of jobs since they ended, for ever if None; uploads: that no job names."""

    results: float | None = None
    uploads: float = DAY


@dataclass(slots=True)
class Swept:
    """How much was removed. blobs and values: large and little ones; bytes: of blobs; left: of uploads that were cut."""

    jobs: int = 0
    blobs: int = 0
    bytes: int = 0
    values: int = 0
    holdings: int = 0
    left: int = 0


@dataclass(slots=True)
class _Marks:
    """Which values jobs name, and for whom, as the jobs were at some numbers of their journals."""

    seqs: dict[str, int] = field(default_factory=dict)
    owners: dict[str, set[str]] = field(default_factory=dict)

    def update(self, connection: Connection) -> None:
        """Read what is new; what a job named before stays marked, which errs on the safe side."""
        now = {row.id: row.seq for row in connection.execute(select(jobs.c.id, jobs.c.seq))}
        new = [id for id, seq in now.items() if self.seqs.get(id) != seq]
        named = select(jobs.c.owner, cast(jobs.c.spec, Text), cast(jobs.c.state, Text), jobs.c.result)
        for page in _pages(new, PAGE):
            for owner, *texts in connection.execute(named.where(jobs.c.id.in_(page))):
                for digest in _DIGEST.findall(" ".join(each or "" for each in texts)):
                    self.owners.setdefault(digest, set()).add(owner)
        self.seqs = now


class Retention:
    """Removes what is not needed from one store and its values. Times come from the caller."""

    def __init__(self, store: Store, values: Values, keep: Keep) -> None:
        self._store, self._blobs, self._keep = store, values.blobs, keep

    def collect(self, now: float) -> Swept:
        """Remove once what may be removed."""
        swept = Swept(left=self._blobs.sweep(now - self._keep.uploads))
        self._forget_jobs(now, swept)
        marks = _Marks()
        with self._store.transaction() as connection:
            marks.update(connection)
        before = now - self._keep.uploads
        old = {each.digest: each.bytes for each in self._blobs.listed() if each.put < before}
        for batch in _pages([digest for digest in old if digest not in marks.owners], BATCH):
            self._remove_blobs(batch, old, marks, before, swept)
        with self._store.transaction() as connection:
            little = connection.execute(select(small_values.c.digest)).scalars().all()
        for batch in _pages([digest for digest in little if digest not in marks.owners], BATCH):
            self._remove_values(batch, marks, before, swept)
        self._release(marks, before, swept)
        return swept

    def _forget_jobs(self, now: float, swept: Swept) -> None:
        if self._keep.results is None:
            return
        ended = (
            select(jobs.c.id).where(jobs.c.status.in_(_ENDED), jobs.c.updated < now - self._keep.results).limit(BATCH)
        )
        while True:
            with self._store.transaction(writes=True) as connection:
                ids = connection.execute(ended).scalars().all()
                connection.execute(delete(events).where(events.c.job.in_(ids)))
                connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
            for id in ids:
                self._store.seen.forget(id)
            swept.jobs += len(ids)
            if len(ids) < BATCH:
                return

    def _remove_blobs(
        self, batch: Sequence[str], sizes: Mapping[str, int], marks: _Marks, before: float, swept: Swept
    ) -> None:
        with self._alone() as connection:
            unneeded = _unneeded(connection, batch, marks, before)
            removed = self._blobs.remove(unneeded, before)
            connection.execute(delete(holdings).where(holdings.c.digest.in_(removed)))
        swept.blobs += len(removed)
        swept.bytes += sum(sizes[digest] for digest in removed)

    def _remove_values(self, batch: Sequence[str], marks: _Marks, before: float, swept: Swept) -> None:
        with self._alone() as connection:
            unneeded = _unneeded(connection, batch, marks, before)
            connection.execute(delete(small_values).where(small_values.c.digest.in_(unneeded)))
        for digest in unneeded:
            self._store.seen.drop_value(digest)
        swept.values += len(unneeded)

    def _release(self, marks: _Marks, before: float, swept: Swept) -> None:
        """What somebody sent long ago and no job of his names does not count against him any more."""
        old = select(holdings.c.owner, holdings.c.digest).where(holdings.c.created < before)
        with self._store.transaction() as connection:
            found = [(owner, digest) for owner, digest in connection.execute(old) if not _names(marks, owner, digest)]
        for batch in _pages(found, BATCH):
            with self._alone() as connection:
                marks.update(connection)
                for owner, digest in batch:
                    if not _names(marks, owner, digest):
                        his = (holdings.c.owner == owner) & (holdings.c.digest == digest)
                        query = delete(holdings).where(his, holdings.c.created < before)
                        swept.holdings += connection.execute(query).rowcount

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A transaction during which nobody else writes, so that nobody names a value."""
        with self._store.transaction(writes=True) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("LOCK TABLE jobs, holdings, small_values IN SHARE ROW EXCLUSIVE MODE"))
            yield connection


def _unneeded(connection: Connection, batch: Sequence[str], marks: _Marks, before: float) -> list[str]:
    """Those of the values that no job names by now, and nobody has sent or asked about lately."""
    marks.update(connection)
    lately = select(holdings.c.digest).where(holdings.c.digest.in_(batch), holdings.c.created >= before)
    needed = set(connection.execute(lately).scalars()) | marks.owners.keys()
    return [digest for digest in batch if digest not in needed]


def _names(marks: _Marks, owner: str, digest: str) -> bool:
    return owner in marks.owners.get(digest, ())


def _pages(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page
