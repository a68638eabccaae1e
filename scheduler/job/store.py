"""Jobs and their journals in a database, SQLite or PostgreSQL by URL.

`append` runs the state table: in one transaction it reads the job, applies the events, writes those that
changed something to the journal and the new state to the job's row. So status and journal cannot
disagree, and an event is acknowledged only when it is kept: on SQLite this survives a killed process, and
with `durable=True` a power cut too. One Store may be used by several threads; several processes may open
one database. Times and randomness come from the caller.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Row, Select, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, TimeoutError

from graphir.errors import ServiceUnavailable
from scheduler.job.events import Event, event_from_json, event_to_json
from scheduler.job.spec import JobSpec, parse_spec
from scheduler.job.state import STORY_EVENTS, Commands, IllegalTransition, Job, Status, new_job, transition
from scheduler.job.tables import WRITES, StoreError, events, jobs, open_engine, prepare_schema

MAX_PAGE = 1000
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class UnknownJob(StoreError):
    """No job has this id."""


class KeyReused(StoreError):
    """An idempotency key came again with another job."""


class SeqConflict(StoreError):
    """The journal has grown since the caller looked."""


@dataclass(frozen=True, slots=True)
class Record:
    """A job as the store has it; `seq` is the number of the last event in its journal."""

    id: str
    owner: str
    spec: JobSpec
    job: Job
    seq: int
    created: float
    updated: float


@dataclass(frozen=True, slots=True)
class Logged:
    """An event with its place in the journal, counted from 1."""

    seq: int
    event: Event


@dataclass(frozen=True, slots=True)
class Appended:
    """What `append` did: the job now, the last number in its journal, and what must be done."""

    job: Job
    seq: int
    commands: Commands


def job_id(now: float, entropy: bytes) -> str:
    """A ULID in lower case: 48 bits of milliseconds and 80 random bits; sorts by time."""
    number = (int(now * 1000) & (2**48 - 1)) << 80 | int.from_bytes(entropy[:10], "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


class Store:
    """The jobs of one database."""

    def __init__(self, url: str, *, durable: bool = False, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._entropy = entropy
        self._engine = open_engine(url, durable=durable)
        self.where = self._engine.url.render_as_string(hide_password=True)
        try:
            with self._transaction(writes=True) as connection:
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

    def submit(self, spec: JobSpec, now: float, *, owner: str = "") -> str:
        """Keep a new job and return its id; the same spec under the same key gives the same job."""
        found = self._same_key(spec, owner)
        if found is not None:
            return found
        row = _new_row(job_id(now, self._entropy(10)), spec, now, owner)
        try:
            with self._transaction(writes=True) as connection:
                connection.execute(insert(jobs).values(row))
        except IntegrityError:
            found = self._same_key(spec, owner)
            if found is None:
                raise StoreError("two jobs got one id; the store's entropy must be random") from None
            return found
        return str(row["id"])

    def append(self, job: str, happened: Sequence[Event], *, after: int | None = None) -> Appended:
        """Apply events to a job and keep them. An event that the state table ignores is not kept.

        With `after`, raise SeqConflict when that is not the last number in the journal.
        """
        with self._transaction(writes=True) as connection:
            row = self._row(connection, select(jobs).where(jobs.c.id == job).with_for_update(), job)
            if after is not None and after != row.seq:
                raise SeqConflict(f"the journal of job {job} is at {row.seq}, not {after}; read it again")
            try:
                state, kept, commands = _apply(_state(row), happened)
            except IllegalTransition:  # once more, to raise it with the story that the journal has
                state, kept, commands = _apply(_state(row, _story(connection, job)), happened)
            if kept:
                self._write(connection, row, state, kept)
            return Appended(state, row.seq + len(kept), commands)

    def events(self, job: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """The journal's events with numbers over `after`, in order."""
        query = select(events).where(events.c.job == job, events.c.seq > after).order_by(events.c.seq)
        with self._transaction() as connection:
            rows = connection.execute(query.limit(limit)).all()
            if not rows:
                self._row(connection, select(jobs.c.id).where(jobs.c.id == job), job)
        return [Logged(row.seq, _event(row)) for row in rows]

    def job(self, job: str) -> Record:
        """One job, or UnknownJob."""
        with self._transaction() as connection:
            return _record(self._row(connection, select(jobs).where(jobs.c.id == job), job))

    def jobs(self, limit: int = 100, before: str | None = None, *, owner: str | None = None) -> list[Record]:
        """Jobs, the latest first; `before` is the last id of the page before."""
        query = select(jobs).order_by(jobs.c.id.desc()).limit(min(max(limit, 0), MAX_PAGE))
        if before is not None:
            query = query.where(jobs.c.id < before)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        return self._records(query)

    def unfinished(self) -> list[Record]:
        """All jobs that have not ended, the oldest first: what a restarted service takes up."""
        waiting = [status.value for status in Status if not status.terminal]
        return self._records(select(jobs).where(jobs.c.status.in_(waiting)).order_by(jobs.c.id))

    def result(self, job: str) -> str | None:
        """The digest of the job's outputs, or None while there are none."""
        with self._transaction() as connection:
            row = self._row(connection, select(jobs.c.result).where(jobs.c.id == job), job)
        return None if row.result is None else str(row.result)

    def _records(self, query: Select[Any]) -> list[Record]:
        with self._transaction() as connection:
            rows = connection.execute(query).all()
        return [_record(row) for row in rows]

    def _row(self, connection: Connection, query: Select[Any], job: str) -> Row[Any]:
        row = connection.execute(query).one_or_none()
        if row is None:
            raise UnknownJob(f"there is no job {job[:100]!r} in {self.where}")
        return row

    def _write(self, connection: Connection, row: Row[Any], job: Job, kept: list[Event]) -> None:
        rows = [_event_row(row.id, seq, event) for seq, event in enumerate(kept, row.seq + 1)]
        connection.execute(insert(events), rows)
        values = {**_state_columns(job), "seq": row.seq + len(kept), "updated": kept[-1].time}
        query = update(jobs).where(jobs.c.id == row.id, jobs.c.seq == row.seq).values(values)
        if connection.execute(query).rowcount != 1:
            raise SeqConflict(f"the journal of job {row.id} grew past {row.seq} meanwhile; read it again")

    def _same_key(self, spec: JobSpec, owner: str) -> str | None:
        if spec.key is None:
            return None
        query = select(jobs.c.id, jobs.c.spec).where(jobs.c.owner == owner, jobs.c.key == spec.key)
        with self._transaction() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if parse_spec(row.spec) != spec:
            raise KeyReused(f"key {spec.key!r} was used for job {row.id}, a different one; take another key")
        return str(row.id)

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        engine = self._engine.execution_options(**{WRITES: writes})
        try:
            with engine.begin() as connection:
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


def _new_row(id: str, spec: JobSpec, now: float, owner: str) -> dict[str, Any]:
    facts = {"id": id, "owner": owner, "name": spec.name, "key": spec.key, "spec": spec.to_json()}
    return {**facts, **_state_columns(new_job(spec)), "seq": 0, "created": now, "updated": now}


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


def _event_row(job: str, seq: int, event: Event) -> dict[str, Any]:
    payload = event_to_json(event)
    facts = {"type": payload.pop("type"), "time": payload.pop("time")}
    return {"job": job, "seq": seq, "payload": payload, **facts}


def _event(row: Row[Any]) -> Event:
    return event_from_json({"type": row.type, "time": row.time, **row.payload})
