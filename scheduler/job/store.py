"""Jobs and their journals in a database, SQLite or PostgreSQL by URL.

`append` runs the state table: in one transaction it reads the job, applies the events, writes those that
changed something to the journal and the new state to the job's row. So status and journal cannot
disagree, and an event is acknowledged only when it is kept: on SQLite this survives a killed process. A power
cut may take the last reports of work, which then is done again, but with `durable` no job, cancellation or checkpoint that
was acknowledged. Values of little size travel in the same transactions. One Store may be used by several threads; several
processes may open one database. Times and randomness come from the caller.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select
from sqlalchemy.exc import IntegrityError

from scheduler.job.database import Database
from scheduler.job.events import CancelRequested, Checkpointed, Event, Found
from scheduler.job.ids import job_id
from scheduler.job.naming import Kept, check_named, named_by, named_in
from scheduler.job.rows import event_of, event_row, job_of, new_row, record_of, state_columns
from scheduler.job.seen import Head, Logged, Record, Seen
from scheduler.job.spec import JobSpec, parse_spec
from scheduler.job.state import STORY_EVENTS, Commands, IllegalTransition, Job, Status, new_job, transition
from scheduler.job.statements import (
    ADVANCE,
    ADVANCE_MINE,
    ADVANCE_TAKEN,
    DROP,
    EVENTS,
    INSERT_EVENT,
    INSERT_JOB,
    JOB,
    LOCKED,
    TAKEN,
    TO_RUN,
    UNFINISHED,
    VALUE,
)
from scheduler.job.tables import StoreError, events, insert_new_value, jobs

MAX_PAGE = 1000
SMALL_BYTES = 1 << 16
"""Values of at most so many bytes are kept in the database, in the transaction that names them."""


class UnknownJob(StoreError):
    """No job has this id."""


class KeyReused(StoreError):
    """An idempotency key came again with another job."""


class SeqConflict(StoreError):
    """The journal has grown since the caller looked."""


class LeaseLost(StoreError):
    """Another runner has the job, so this one must not go on with it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who writes to a job as the one who runs it. takes: it may be free; else this runner must have it."""

    runner: str
    takes: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """What `append` did: the job now, the last number in its journal, and what must be done."""

    job: Job
    seq: int
    commands: Commands


SmallValues = Mapping[str, bytes]
"""Values of little size by the SHA-256 of their bytes."""
NOTHING: SmallValues = {}


@dataclass(frozen=True, slots=True)
class _Written:
    """What a transaction wrote."""

    record: Record
    logged: list[Logged]
    commands: Commands


class Store(Database):
    """The jobs of one database."""

    def __init__(self, url: str, *, durable: bool = True, entropy: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__(url, durable=durable)
        self._entropy, self.seen = entropy, Seen()
        self._insert_value = insert_new_value(self.dialect)
        self.kept: Kept | None = None

    def submit(
        self,
        spec: JobSpec,
        now: float,
        *,
        owner: str = "",
        values: SmallValues = NOTHING,
        work: str | None = None,
        found: Found | None = None,
    ) -> str:
        """Keep a new job and return its id; the same spec under the same key gives the same job.

        values: those of little size that the spec names, kept with it. work: by what equal work is found; found: it was.
        """
        job, kept, _ = _apply(new_job(spec), [found] if found else [])
        record = Record(job_id(now, self._entropy(10)), owner, spec, job, len(kept), now, now)
        logged = [Logged(seq, event) for seq, event in enumerate(kept, 1)]
        new = self._new(values)
        try:
            with self.transaction(writes=True, promises=True) as connection:
                connection.execute(INSERT_JOB, {**new_row(record), "work": work})  # from here on no value is removed
                self._write_values(connection, new)
                check_named(connection, (named_by(spec) | named_in(kept)) - new.keys(), self.kept)
                if logged:
                    connection.execute(INSERT_EVENT, [event_row(record.id, one) for one in logged])
        except IntegrityError:
            earlier = self._same_key(spec, owner)
            if earlier is None:
                raise StoreError("two jobs got one id; the store's entropy must be random") from None
            return earlier
        self._keep(_Written(record, logged, ()), new)
        return record.id

    def append(
        self,
        job: str,
        happened: Sequence[Event],
        *,
        after: int | None = None,
        values: SmallValues = NOTHING,
        lease: Lease | None = None,
    ) -> Appended:
        """Apply events to a job and keep them. An event that the state table ignores is not kept.

        With `after`, raise SeqConflict when that is not the last number in the journal; with a lease, LeaseLost when
        another runner has the job. values: those of little size that the events name, kept with them.
        """
        known, new = self.seen.record(job), self._new(values)
        promises = any(isinstance(event, CancelRequested | Checkpointed) for event in happened)
        if known is not None and after in (None, known.seq):
            with suppress(IllegalTransition, SeqConflict):  # unless the job is not any more as it was seen
                applied = _apply(known.job, happened)
                if applied[1]:
                    with self.transaction(writes=True, promises=promises) as connection:
                        written = self._write(connection, known, *applied, new, lease)
                    return self._keep(written, new)
        with self.transaction(writes=True, promises=promises) as connection:
            row = self._locked(connection, job, lease)
            if after is not None and after != row.seq:
                raise SeqConflict(f"the journal of job {job} is at {row.seq}, not {after}; read it again")
            try:
                applied = _apply(job_of(row), happened)
            except IllegalTransition:  # once more, to raise it with the story that the journal has
                applied = _apply(job_of(row, _story(connection, job)), happened)
            try:
                written = self._write(connection, record_of(row), *applied, new, lease)
            except SeqConflict:  # the journal is locked, so it is not that
                raise _lost(job) from None
        return self._keep(written, new)

    def confirm(self, known: Record, happened: Sequence[Event]) -> Appended | None:
        """What an `append` that failed on the way did all the same, or None if it did nothing.

        known: the job as it was before. The database may have kept the events and not been able to say so.
        """
        job, seq, found = known.job, known.seq, False
        commands: Commands = ()
        for logged in self.events(known.id, known.seq):
            job, more = transition(job, logged.event)
            seq = logged.seq
            if logged.event in happened:
                found, commands = True, (*commands, *more)
        return Appended(job, seq, commands) if found else None

    def to_run(self, runner: str) -> list[str]:
        """The ids of all jobs that have not ended and that no other living runner has, the oldest first."""
        with self.transaction() as connection:
            return [str(id) for id in connection.execute(TO_RUN, {"me": runner}).scalars()]

    def records(self, ids: Sequence[str]) -> list[Record]:
        """These jobs, as far as they exist, the oldest first."""
        return [
            found
            for page in _pages(ids)
            for found in self._records(select(jobs).where(jobs.c.id.in_(page)).order_by(jobs.c.id))
        ]

    def value(self, digest: str) -> bytes | None:
        """A value of little size, or None if it is not here; verified when it is read from the database."""
        found = self.seen.value(digest)
        if found is None:
            with self.transaction() as connection:
                row = connection.execute(VALUE, {"value": digest}).one_or_none()
            if row is None:
                return None
            found = bytes(row.data)
            if hashlib.sha256(found).hexdigest() != digest:
                raise StoreError(f"value {digest} in {self.where} is damaged; restore the database from a copy")
            self.seen.keep_value(digest, found)
        return found

    def drop(self, digest: str) -> None:
        """Remove a value of little size that nothing names any more, if it is here."""
        with self.transaction(writes=True) as connection:
            connection.execute(DROP, {"value": digest})
        self.seen.drop_value(digest)

    def events(self, job: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """The journal's events with numbers over `after`, in order."""
        with self.transaction() as connection:
            query = EVENTS if limit is None else EVENTS.limit(limit)
            rows = connection.execute(query, {"job": job, "after": after}).all()
            if not rows:
                self._row(connection, JOB, job)
        return [Logged(row.seq, event_of(row)) for row in rows]

    def job(self, job: str) -> Record:
        """One job, or UnknownJob."""
        with self.transaction() as connection:
            return record_of(self._row(connection, JOB, job))

    def jobs(
        self, limit: int = 100, before: str | None = None, *, owner: str | None = None, status: str | None = None
    ) -> list[Record]:
        """Jobs, the latest first; `before` is the last id of the page before."""
        query = select(jobs).order_by(jobs.c.id.desc()).limit(min(max(limit, 0), MAX_PAGE))
        if before is not None:
            query = query.where(jobs.c.id < before)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if status is not None:
            query = query.where(jobs.c.status == status)
        return self._records(query)

    def done(self, owner: str, work: str) -> Record | None:
        """The latest job of this user that did the same work and succeeded."""
        same = (jobs.c.owner == owner, jobs.c.work == work, jobs.c.status == Status.SUCCEEDED.value)
        return next(iter(self._records(select(jobs).where(*same).order_by(jobs.c.id.desc()).limit(1))), None)

    def heads(self, ids: Sequence[str]) -> dict[str, Head]:
        """How far the journals of these jobs are, as far as they exist."""
        found: dict[str, Head] = {}
        for page in _pages(ids):
            with self.transaction() as connection:
                rows = connection.execute(select(jobs.c.id, jobs.c.seq, jobs.c.status).where(jobs.c.id.in_(page))).all()
            found |= {row.id: Head(row.seq, row.status) for row in rows}
        return found

    def unfinished(self) -> list[Record]:
        """All jobs that have not ended, the oldest first: what a restarted service takes up."""
        return self._records(select(jobs).where(UNFINISHED).order_by(jobs.c.id))

    def waiting(self, owner: str | None = None) -> int:
        """How many jobs, of somebody or of all, have not ended."""
        query = select(func.count()).select_from(jobs).where(UNFINISHED)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        with self.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def counts(self, owner: str | None = None) -> dict[str, int]:
        """How many jobs there are of each status, of everybody or of one user."""
        query = select(jobs.c.status, func.count()).group_by(jobs.c.status)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        with self.transaction() as connection:
            rows = connection.execute(query).all()
        return {row[0]: row[1] for row in rows}

    def result(self, job: str) -> str | None:
        """The digest of the job's outputs, or None while there are none."""
        with self.transaction() as connection:
            row = self._row(connection, JOB, job)
        return None if row.result is None else str(row.result)

    def _records(self, query: Select[Any]) -> list[Record]:
        with self.transaction() as connection:
            rows = connection.execute(query).all()
        return [record_of(row) for row in rows]

    def _row(self, connection: Connection, query: Select[Any], job: str) -> Row[Any]:
        row = connection.execute(query, {"job": job}).one_or_none()
        if row is None:
            raise UnknownJob(f"there is no job {job[:100]!r} in {self.where}")
        return row

    def _locked(self, connection: Connection, job: str, lease: Lease | None) -> Row[Any]:
        """The job's row, which nobody else writes meanwhile. Who wants to take a job does not wait for another one who does."""
        if lease is not None and lease.takes:
            found = connection.execute(TAKEN, {"job": job}).one_or_none()
            if found is not None:
                return found
            self._row(connection, JOB, job)
            raise _lost(job)
        row = self._row(connection, LOCKED, job)
        if lease is not None and row.runner != lease.runner and job_of(row).ended is None:
            raise _lost(job)
        return row

    def _write(
        self,
        connection: Connection,
        record: Record,
        job: Job,
        kept: list[Event],
        commands: Commands,
        new: SmallValues,
        lease: Lease | None,
    ) -> "_Written":
        if not kept:
            return _Written(record, [], commands)
        logged = [Logged(seq, event) for seq, event in enumerate(kept, record.seq + 1)]
        after = replace(record, job=job, seq=record.seq + len(kept), updated=kept[-1].time)
        changed = {**state_columns(job), "seq": after.seq, "updated": after.updated}
        which = {"known_id": record.id, "known_seq": record.seq}
        advance = ADVANCE
        if lease is not None:
            advance, which["me"] = (ADVANCE_TAKEN if lease.takes else ADVANCE_MINE), lease.runner
            changed["runner"] = lease.runner
        if job.status.terminal or job.aside:
            changed["runner"] = None
        if connection.execute(advance, {**changed, **which}).rowcount != 1:
            raise SeqConflict(f"the journal of job {record.id} grew past {record.seq} meanwhile; read it again")
        connection.execute(INSERT_EVENT, [event_row(record.id, one) for one in logged])
        self._write_values(connection, new)
        check_named(connection, named_in(kept) - new.keys(), self.kept)
        return _Written(after, logged, commands)

    def _new(self, values: SmallValues) -> dict[str, bytes]:
        """The values that are not known to be in the database."""
        return {digest: data for digest, data in values.items() if self.seen.value(digest) is None}

    def _write_values(self, connection: Connection, new: SmallValues) -> None:
        if new:
            connection.execute(self._insert_value, [{"digest": digest, "data": data} for digest, data in new.items()])

    def _keep(self, written: "_Written", new: SmallValues) -> Appended:
        """After the transaction: remember what it wrote."""
        record = written.record
        self.seen.keep(record, written.logged)
        for digest, data in new.items() if written.logged or not record.seq else ():
            self.seen.keep_value(digest, data)
        return Appended(record.job, record.seq, written.commands)

    def _same_key(self, spec: JobSpec, owner: str) -> str | None:
        if spec.key is None:
            return None
        query = select(jobs.c.id, jobs.c.spec).where(jobs.c.owner == owner, jobs.c.key == spec.key)
        with self.transaction() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if parse_spec(row.spec) != spec:
            raise KeyReused(f"key {spec.key!r} was used for job {row.id}, a different one; take another key")
        return str(row.id)


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[begin : begin + MAX_PAGE] for begin in range(0, len(ids), MAX_PAGE))


def _lost(job: str) -> LeaseLost:
    return LeaseLost(f"another runner has job {job}; this one leaves it")


def _apply(job: Job, happened: Sequence[Event]) -> tuple[Job, list[Event], Commands]:
    kept: list[Event] = []
    commands: Commands = ()
    for event in happened:
        after, more = transition(job, event)
        if after is not job:
            kept.append(event)
        job, commands = after, (*commands, *more)
    return job, kept, commands


def _story(connection: Connection, job: str) -> list[Event]:
    query = select(events).where(events.c.job == job).order_by(events.c.seq.desc()).limit(STORY_EVENTS)
    return [event_of(row) for row in reversed(connection.execute(query).all())]
