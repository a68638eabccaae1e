"""What happens to a job (events) and what must be done about it (commands).

Events are the job's journal: immutable, JSON-able, with the time they happened. `attempt` says for which
issue of work an event speaks; the state table tells late reports by it. Names in journals are for ever:
a new field needs a default, a new meaning needs a new event. Text from workers is cleaned and clipped
here, so that any store can keep it. NaN is one object, so that equal events compare equal.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphir.errors import DatasetUnavailable, FormatError, GraphError, ServiceUnavailable
from scheduler.job.codec import from_json, to_json

MAX_MESSAGE = 4_000
MAX_TRACEBACK = 16_000

Scalars = tuple[tuple[str, float], ...]


def scalars(values: Mapping[str, float]) -> Scalars:
    """Named numbers in the form that events carry."""
    return tuple((name, float(value)) for name, value in values.items())


def clip(text: str, limit: int) -> str:
    """The text without characters that a database refuses, its middle left out when it is too long."""
    text = text.replace("\x00", "\ufffd").encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    mark = "\n... some text is left out ...\n"
    head = (limit - len(mark)) // 4
    return text[:head] + mark + text[len(text) - (limit - len(mark) - head) :]


def is_deterministic(error: BaseException) -> bool:
    """Whether the same task would fail again: it broke a rule of ours, with the same graph and data."""
    return isinstance(error, GraphError) and not isinstance(error, DatasetUnavailable | ServiceUnavailable)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job at a time (seconds since the epoch)."""

    time: float


@dataclass(frozen=True, slots=True)
class Started(Event):
    """A runner took the job from the queue."""

    runner: str = ""


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """A runner took up a running job whose former runner is gone, and with it all values in memory."""

    runner: str = ""


@dataclass(frozen=True, slots=True)
class SetAside(Event):
    """The runner left the job in good order, to be resumed: it is no sign that the job is what ends services."""

    attempt: int
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", clip(self.reason, MAX_MESSAGE))


@dataclass(frozen=True, slots=True)
class Assembled(Event):
    """The job has workers, perhaps fewer than were asked for. `fingerprint` is of their kernels, which `kernels` describes."""

    workers: int
    asked: int
    fingerprint: str
    kernels: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", clip(self.kernels, MAX_MESSAGE))


@dataclass(frozen=True, slots=True)
class Straggled(Event):
    """A worker was far slower than the others, and another one does its work again."""

    worker: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", clip(self.reason, MAX_MESSAGE))


@dataclass(frozen=True, slots=True)
class Lane:
    """What a worker did for a while: seconds by step of the plan, with the step's name, and seconds that it waited for others."""

    worker: str
    steps: tuple[tuple[int, str, float], ...]
    waited: float


@dataclass(frozen=True, slots=True)
class Worked(Event):
    """What the workers did in the `seconds` before; told the more seldom the longer a job runs."""

    seconds: float
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class StepDone(Event):
    """All of one step is computed; `scalars` are its scalar outputs."""

    step: int
    attempt: int
    scalars: Scalars = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "scalars", _one_nan(self.scalars))


@dataclass(frozen=True, slots=True)
class Checkpointed(Event):
    """The carried values after the first `step` steps are safe in a blob."""

    step: int
    blob: str


@dataclass(frozen=True, slots=True)
class WorkerLost(Event):
    """A worker died or stopped answering during `attempt`.

    `state_lost`: values that the job needs to go on were only there. Several workers lost in one
    incident carry the same attempt and so count once.
    """

    attempt: int
    worker: str
    reason: str
    state_lost: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", clip(self.reason, MAX_MESSAGE))


@dataclass(frozen=True, slots=True)
class TaskFailed(Event):
    """A task raised on a living worker. `node` is the graph's node, `deterministic` forbids a retry."""

    attempt: int
    error: str
    message: str
    traceback: str = ""
    node: str | None = None
    worker: str | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", clip(self.message, MAX_MESSAGE))
        object.__setattr__(self, "traceback", clip(self.traceback, MAX_TRACEBACK))


@dataclass(frozen=True, slots=True)
class CancelRequested(Event):
    """Somebody asked for the job to stop."""

    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", clip(self.reason, MAX_MESSAGE))


@dataclass(frozen=True, slots=True)
class DeadlinePassed(Event):
    """The time that the client gave is over; `seconds` is what it gave."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """The outputs are safe in a blob."""

    attempt: int
    result: str


@dataclass(frozen=True, slots=True)
class Found(Event):
    """The same work was done before, by this job of the same user, and its result is there: nothing needs to run."""

    job: str
    result: str
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class RunStep:
    """Compute this step; report with this attempt."""

    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Set the carried values to those of the checkpoint, or to the job's feeds where `blob` is None."""

    step: int
    blob: str | None


@dataclass(frozen=True, slots=True)
class ReplaceWorker:
    """Start another worker for this one; harmless when that was done already."""

    worker: str


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Store the carried values after the first `step` steps; do it before a following RunStep."""

    step: int


@dataclass(frozen=True, slots=True)
class StoreResult:
    """Store the outputs of the last step; report with this attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Release:
    """Stop the job's tasks and free everything it holds."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell those who watch where the job is."""

    status: str
    step: int
    steps: int


Command = RunStep | Restore | ReplaceWorker | SaveCheckpoint | StoreResult | Release | Publish

EVENTS: Mapping[str, type[Event]] = {
    "started": Started,
    "resumed": Resumed,
    "set_aside": SetAside,
    "assembled": Assembled,
    "straggled": Straggled,
    "worked": Worked,
    "step_done": StepDone,
    "checkpointed": Checkpointed,
    "worker_lost": WorkerLost,
    "task_failed": TaskFailed,
    "cancel_requested": CancelRequested,
    "deadline_passed": DeadlinePassed,
    "finished": Finished,
    "found": Found,
}
_NAMES: Mapping[type[Event], str] = {event: name for name, event in EVENTS.items()}


def event_name(event: Event) -> str:
    """The event's name in journals, such as "step_done"."""
    return _NAMES[type(event)]


def event_to_json(event: Event) -> dict[str, Any]:
    """JSON data with the event's name under "type"; NaN and infinities become strings."""
    return {"type": event_name(event), **to_json(event)}


def event_from_json(data: Mapping[str, Any]) -> Event:
    """The event that `event_to_json` wrote, or FormatError."""
    name = data.get("type")
    kind = EVENTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise FormatError(f"a job's journal has an event of unknown type {name!r}; a newer release wrote it")
    return from_json(kind, {key: value for key, value in data.items() if key != "type"}, f"event {name}")


def _one_nan(values: Iterable[tuple[str, float]]) -> Scalars:
    return tuple((name, math.nan if math.isnan(value) else value) for name, value in values)
