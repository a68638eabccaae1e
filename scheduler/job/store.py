"""Jobs and their journals in a database, SQLite or PostgreSQL by URL.

`append` runs the state table: in one transaction it reads the job, applies the events, writes those that
changed something to the journal and the new state to the job's row. So status and journal cannot
disagree, and an event is acknowledged only when it is kept: on SQLite this survives a killed process. A power
cut may take the last reports of work, which then is done again, but with `durable` no job, cancellation or checkpoint that
was acknowledged. Values of little size travel in the same transactions. One Store may be used by several threads; several
processes may open one database. Times and randomness come from the caller.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, TimeoutError

from graphir.errors import ServiceUnavailable
from scheduler.job.engine import open_engine, options_for
from scheduler.job.events import CancelRequested, Checkpointed, Event, event_from_json, event_to_json
from scheduler.job.migrations import prepare_schema
from scheduler.job.seen import Logged, Record, Seen
from scheduler.job.spec import JobSpec, parse_spec
from scheduler.job.state import STORY_EVENTS, Commands, IllegalTransition, Job, Status, new_job, transition
from scheduler.job.tables import StoreError, events, insert_new_value, jobs, small_values

MAX_PAGE = 1000
SMALL_BYTES = 1 << 16
"""Values of at most so many bytes are kept in the database, in the transaction that names them."""
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class UnknownJob(StoreError):
    """No job has this id."""


class KeyReused(StoreError):
    """An idempotency key came again with another job."""


class SeqConflict(StoreError):
    """The journal has grown since the caller looked."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What `append` did: the job now, the last number in its journal, and what must be done."""

    job: Job
    seq: int
    commands: Commands


# Made once, since making a statement takes longer than executing it.
_JOB = select(jobs).where(jobs.c.id == bindparam("job"))
_LOCKED = _JOB.with_for_update()
_EVENTS = (
    select(events).where(events.c.job == bindparam("job"), events.c.seq > bindparam("after")).order_by(events.c.seq)
)
_ADVANCE = update(jobs).where(jobs.c.id == bindparam("known_id"), jobs.c.seq == bindparam("known_seq"))
_INSERT_JOB, _INSERT_EVENT = insert(jobs), insert(events)
_VALUE = select(small_values.c.data).where(small_values.c.digest == bindparam("value"))
_DROP = delete(small_values).where(small_values.c.digest == bindparam("value"))
SmallValues = Mapping[str, bytes]
"""Values of little size by the SHA-256 of their bytes."""
NOTHING: SmallValues = {}


@dataclass(frozen=True, slots=True)
class _Written:
    """What a transaction wrote."""

    record: Record
    logged: list[Logged]
    commands: Commands


def job_id(now: float, entropy: bytes) -> str:
    """A ULID in lower case: 48 bits of milliseconds and 80 random bits; sorts by time."""
    number = (int(now * 1000) & (2**48 - 1)) << 80 | int.from_bytes(entropy[:10], "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


class Store:
    """The jobs of one database."""

    def __init__(self, url: str, *, durable: bool = True, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._entropy = entropy
        self._engine = open_engine(url, durable=durable)
        self._engines = {
            (writes, promises): self._engine.execution_options(
                **options_for(self._engine, writes=writes, promises=promises)
            )
            for writes in (False, True)
            for promises in (False, True)
        }
        self._insert_value = insert_new_value(self._engine.dialect.name)
        self.where = self._engine.url.render_as_string(hide_password=True)
        self.seen = Seen()
        try:
            with self.transaction(writes=True) as connection:
                prepare_schema(connection, self.where)
        except BaseException:  # whatever went wrong, the connections must not stay open
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the store cannot be used by another thread meanwhile."""
        self._engine.dispose()

    def submit(self, spec: JobSpec, now: float, *, owner: str = "", values: SmallValues = NOTHING) -> str:
        """Keep a new job and return its id; the same spec under the same key gives the same job.

        values: those of little size that the spec names, kept with it.
        """
        found = self._same_key(spec, owner)
        if found is not None:
            return found
        record = Record(job_id(now, self._entropy(10)), owner, spec, new_job(spec), 0, now, now)
        new = self._new(values)
        try:
            with self.transaction(writes=True, promises=True) as connection:
                self._write_values(connection, new)
                connection.execute(_INSERT_JOB, _new_row(record))
        except IntegrityError:
            found = self._same_key(spec, owner)
            if found is None:
                raise StoreError("two jobs got one id; the store's entropy must be random") from None
            return found
        self._keep(_Written(record, [], ()), new)
        return record.id

    def append(
        self, job: str, happened: Sequence[Event], *, after: int | None = None, values: SmallValues = NOTHING
    ) -> Appended:
        """Apply events to a job and keep them. An event that the state table ignores is not kept.

        With `after`, raise SeqConflict when that is not the last number in the journal. values: those of little size that
        the events name, kept with them.
        """
        known, new = self.seen.record(job), self._new(values)
        promises = any(isinstance(event, CancelRequested | Checkpointed) for event in happened)
        if known is not None and after in (None, known.seq):
            with suppress(IllegalTransition, SeqConflict):  # unless the job is not any more as it was seen
                applied = _apply(known.job, happened)
                if applied[1]:
                    with self.transaction(writes=True, promises=promises) as connection:
                        written = self._write(connection, known, *applied, new)
                    return self._keep(written, new)
        with self.transaction(writes=True, promises=promises) as connection:
            row = self._row(connection, _LOCKED, job)
            if after is not None and after != row.seq:
                raise SeqConflict(f"the journal of job {job} is at {row.seq}, not {after}; read it again")
            try:
                applied = _apply(_state(row), happened)
            except IllegalTransition:  # once more, to raise it with the story that the journal has
                applied = _apply(_state(row, _story(connection, job)), happened)
            written = self._write(connection, _record(row), *applied, new)
        return self._keep(written, new)

    def value(self, digest: str) -> bytes | None:
        """A value of little size, or None if it is not here; verified when it is read from the database."""
        found = self.seen.value(digest)
        if found is None:
            with self.transaction() as connection:
                row = connection.execute(_VALUE, {"value": digest}).one_or_none()
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
            connection.execute(_DROP, {"value": digest})
        self.seen.drop_value(digest)

    def events(self, job: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """The journal's events with numbers over `after`, in order."""
        with self.transaction() as connection:
            query = _EVENTS if limit is None else _EVENTS.limit(limit)
            rows = connection.execute(query, {"job": job, "after": after}).all()
            if not rows:
                self._row(connection, _JOB, job)
        return [Logged(row.seq, _event(row)) for row in rows]

    def job(self, job: str) -> Record:
        """One job, or UnknownJob."""
        with self.transaction() as connection:
            return _record(self._row(connection, _JOB, job))

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

    def unfinished(self) -> list[Record]:
        """All jobs that have not ended, the oldest first: what a restarted service takes up."""
        waiting = [status.value for status in Status if not status.terminal]
        return self._records(select(jobs).where(jobs.c.status.in_(waiting)).order_by(jobs.c.id))

    def waiting(self, owner: str) -> int:
        """How many jobs of somebody have not ended."""
        unfinished = jobs.c.status.in_([status.value for status in Status if not status.terminal])
        query = select(func.count()).select_from(jobs).where(jobs.c.owner == owner, unfinished)
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
            row = self._row(connection, _JOB, job)
        return None if row.result is None else str(row.result)

    def _records(self, query: Select[Any]) -> list[Record]:
        with self.transaction() as connection:
            rows = connection.execute(query).all()
        return [_record(row) for row in rows]

    def _row(self, connection: Connection, query: Select[Any], job: str) -> Row[Any]:
        row = connection.execute(query, {"job": job}).one_or_none()
        if row is None:
            raise UnknownJob(f"there is no job {job[:100]!r} in {self.where}")
        return row

    def _write(
        self, connection: Connection, record: Record, job: Job, kept: list[Event], commands: Commands, new: SmallValues
    ) -> "_Written":
        if not kept:
            return _Written(record, [], commands)
        logged = [Logged(seq, event) for seq, event in enumerate(kept, record.seq + 1)]
        after = replace(record, job=job, seq=record.seq + len(kept), updated=kept[-1].time)
        changed = {**_state_columns(job), "seq": after.seq, "updated": after.updated}
        if connection.execute(_ADVANCE, {**changed, "known_id": record.id, "known_seq": record.seq}).rowcount != 1:
            raise SeqConflict(f"the journal of job {record.id} grew past {record.seq} meanwhile; read it again")
        connection.execute(_INSERT_EVENT, [_event_row(record.id, one) for one in logged])
        self._write_values(connection, new)
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

    @contextmanager
    def transaction(self, *, writes: bool = False, promises: bool = False) -> Iterator[Connection]:
        """A transaction that is kept if nothing is raised. promises: it outlives a power cut."""
        try:
            with self._engines[writes, promises].begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (DBAPIError, TimeoutError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise ServiceUnavailable(
                f"the job database {self.where} does not work: {cause}; check the file or the server"
            ) from error


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
    return [_event(row) for row in reversed(connection.execute(query).all())]


def _new_row(record: Record) -> dict[str, Any]:
    spec = record.spec
    facts = {"id": record.id, "owner": record.owner, "name": spec.name, "key": spec.key, "spec": spec.to_json()}
    return {**facts, **_state_columns(record.job), "seq": 0, "created": record.created, "updated": record.updated}


def _state_columns(job: Job) -> dict[str, Any]:
    return {"status": job.status.value, "state": job.to_json(), "result": job.result}


def _state(row: Row[Any], history: Sequence[Event] = ()) -> Job:
    return Job.from_json(row.state, history)


def _record(row: Row[Any]) -> Record:
    spec = _spec(json.dumps(row.spec))
    return Record(row.id, row.owner, spec, _state(row), row.seq, row.created, row.updated)


@lru_cache(maxsize=256)
def _spec(text: str) -> JobSpec:
    return parse_spec(text)


def _event_row(job: str, logged: Logged) -> dict[str, Any]:
    payload = event_to_json(logged.event)
    facts = {"type": payload.pop("type"), "time": payload.pop("time")}
    return {"job": job, "seq": logged.seq, "payload": payload, **facts}


def _event(row: Row[Any]) -> Event:
    return event_from_json({"type": row.type, "time": row.time, **row.payload})
