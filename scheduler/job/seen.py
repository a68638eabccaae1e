"""What this process has seen of jobs: records, journals and small values that are in the database.

It saves reading again what was just written. All that is here is true, since it comes in after its transaction, but
another process may have written more: what is not found here must be asked for. Journals here have no gaps. Bounded: the
jobs seen last, the last events of each, and some bytes of values. May be used by several threads.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from scheduler.job.events import Event, event_to_json
from scheduler.job.spec import JobSpec
from scheduler.job.state import Job, Status

JOBS, EVENTS, VALUE_BYTES = 256, 256, 1 << 25


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

    @property
    def head(self) -> "Head":
        """How far its journal is."""
        return Head(self.seq, self.job.status.value)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a job's journal is, and what the job is then."""

    seq: int
    status: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return Status(self.status).terminal


@dataclass(frozen=True, slots=True)
class Logged:
    """An event with its place in the journal, counted from 1."""

    seq: int
    event: Event

    def to_json(self) -> dict[str, Any]:
        """As clients see it."""
        return {"seq": self.seq, **event_to_json(self.event)}


@dataclass(slots=True)
class _Story:
    record: Record
    journal: deque[Logged] = field(default_factory=lambda: deque(maxlen=EVENTS))


class Seen:
    """The jobs and values seen last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stories: OrderedDict[str, _Story] = OrderedDict()
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, record: Record, new: Sequence[Logged] = ()) -> None:
        """The job is in the database like this, with these events at the end of its journal."""
        with self._lock:
            story = self._stories.setdefault(record.id, _Story(record))
            if record.seq < story.record.seq:  # another thread was here first
                return
            journal = story.journal
            if new and journal and journal[-1].seq + 1 != new[0].seq:
                journal.clear()
            story.record = record
            journal.extend(new)
            self._stories.move_to_end(record.id)
            while len(self._stories) > JOBS:
                self._stories.popitem(last=False)

    def record(self, job: str) -> Record | None:
        """The job as it was seen last."""
        with self._lock:
            story = self._stories.get(job)
            return None if story is None else story.record

    def events(self, job: str, after: int) -> list[Logged]:
        """The events after a number, as far as they are known here; perhaps none."""
        with self._lock:
            story = self._stories.get(job)
            if story is None or not story.journal or story.journal[0].seq > after + 1:
                return []
            return list(islice(story.journal, max(0, after + 1 - story.journal[0].seq), None))

    def forget(self, job: str) -> None:
        """What is here was overtaken."""
        with self._lock:
            self._stories.pop(job, None)

    def keep_value(self, digest: str, data: bytes) -> None:
        """A small value is in the database."""
        with self._lock:
            if digest not in self._values:
                self._values[digest] = data
                self._bytes += len(data)
            self._values.move_to_end(digest)
            while self._bytes > VALUE_BYTES:
                self._bytes -= len(self._values.popitem(last=False)[1])

    def drop_value(self, digest: str) -> None:
        """A small value is not in the database any more."""
        with self._lock:
            self._bytes -= len(self._values.pop(digest, b""))

    def value(self, digest: str) -> bytes | None:
        """The bytes of a small value."""
        with self._lock:
            return self._values.get(digest)
