"""Jobs and events as rows of the database, and back."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Row

from scheduler.job.events import Event, event_from_json, event_to_json
from scheduler.job.seen import Logged, Record
from scheduler.job.spec import JobSpec, parse_spec
from scheduler.job.state import Job


def new_row(record: Record) -> dict[str, Any]:
    """The row of a new job."""
    spec = record.spec
    facts = {"id": record.id, "owner": record.owner, "name": spec.name, "key": spec.key, "spec": spec.to_json()}
    return {
        **facts,
        **state_columns(record.job),
        "seq": record.seq,
        "created": record.created,
        "updated": record.updated,
    }


def state_columns(job: Job) -> dict[str, Any]:
    """What changes in a job's row with its state."""
    return {"status": job.status.value, "state": job.to_json(), "result": job.result}


def job_of(row: Row[Any], history: Sequence[Event] = ()) -> Job:
    """The job's state in a row, with the last events of its journal."""
    return Job.from_json(row.state, history)


def record_of(row: Row[Any]) -> Record:
    """The job in a row."""
    spec = _spec(json.dumps(row.spec))
    return Record(row.id, row.owner, spec, job_of(row), row.seq, row.created, row.updated)


@lru_cache(maxsize=256)
def _spec(text: str) -> JobSpec:
    return parse_spec(text)


def event_row(job: str, logged: Logged) -> dict[str, Any]:
    """The row of an event."""
    payload = event_to_json(logged.event)
    facts = {"type": payload.pop("type"), "time": payload.pop("time")}
    return {"job": job, "seq": logged.seq, "payload": payload, **facts}


def event_of(row: Row[Any]) -> Event:
    """The event in a row."""
    return event_from_json({"type": row.type, "time": row.time, **row.payload})
