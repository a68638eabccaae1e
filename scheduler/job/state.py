"""The job's state table: (status, event) -> (job, commands).

Pure: no clock, no I/O; times come in events. `transition` is the only way from one `Job` to another, and
`replay` of a journal gives the same `Job` again. A pair that `TABLE` does not list is a mistake of the
driver and raises `IllegalTransition` with the job's story.

Invariants: a terminal status stays. `attempt` grows with every issue of work that replaces an earlier
one, so reports of an older attempt are known as late. `failures` counts failures in a row and never
passes `retries`; only a step that was never done before sets it back, so a job cannot fail for ever by
going back to its checkpoint and doing old steps again. `restarts` counts in the same way the runners that were lost
with the job in hand; one that set it `aside` is not counted. `step <= furthest <= steps`, and
`checkpoint.step <= furthest`, always before the last step, whose outputs a checkpoint does not have.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from graphir.errors import GraphError
from scheduler.job.codec import from_json, to_json
from scheduler.job.events import (
    Assembled,
    CancelRequested,
    Checkpointed,
    Command,
    DeadlinePassed,
    Event,
    Finished,
    Found,
    Publish,
    Release,
    ReplaceWorker,
    Restore,
    Resumed,
    RunStep,
    SaveCheckpoint,
    Scalars,
    SetAside,
    Started,
    StepDone,
    StoreResult,
    Straggled,
    TaskFailed,
    Worked,
    WorkerLost,
    event_name,
)
from scheduler.job.spec import JobSpec

STORY_EVENTS = 12
MAX_RESTARTS = 20

Commands = tuple[Command, ...]
Step = tuple["Job", Commands]


class IllegalTransition(GraphError):
    """An event came that the job's status does not allow."""


class Status(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self not in (Status.QUEUED, Status.RUNNING)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The carried values after the first `step` steps."""

    step: int
    blob: str


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job has no result; `kind` is the error's class name."""

    kind: str
    message: str
    traceback: str = ""
    node: str | None = None
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job at one moment. `step` is the step to compute next; `step == steps` means storing the result."""

    steps: int
    retries: int
    checkpoint_every: int | None = None
    status: Status = Status.QUEUED
    step: int = 0
    furthest: int = 0
    attempt: int = 0
    failures: int = 0
    retried: int = 0
    restarts: int = 0
    aside: bool = False
    workers_lost: int = 0
    stragglers: int = 0
    workers: int = 0
    asked: int = 0
    fingerprint: str | None = None
    runner: str = ""
    scalars: Scalars = ()
    checkpoint: Checkpoint | None = None
    result: str | None = None
    error: JobError | None = None
    started: float | None = None
    ended: float | None = None
    history: tuple[Event, ...] = field(default=(), compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """JSON data of everything but the history, which the journal has."""
        data: dict[str, Any] = to_json(self)
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any], history: Iterable[Event] = ()) -> "Job":
        """The job that `to_json` wrote, with the last events of its journal."""
        return replace(from_json(Job, data, "a stored job"), history=tuple(history)[-STORY_EVENTS:])


def new_job(spec: JobSpec) -> Job:
    """The job as it is when a spec was accepted."""
    return Job(spec.steps, spec.retries, spec.checkpoint_every)


def transition(job: Job, event: Event) -> Step:
    """The job after the event, and what must be done. An ignored event returns the same `job` object."""
    handler = TABLE.get((job.status, type(event)))
    if handler is None:
        raise illegal(job, event, f"no {event_name(event)} is possible while a job is {job.status}")
    after, commands = handler(job, event)
    if after is job:
        return job, commands
    return replace(after, history=(*job.history, event)[-STORY_EVENTS:]), commands


def replay(spec: JobSpec, events: Iterable[Event]) -> Job:
    """The job rebuilt from its journal; commands of the past are dropped."""
    job = new_job(spec)
    for event in events:
        job, _ = transition(job, event)
    return job


def illegal(job: Job, event: Event, reason: str) -> IllegalTransition:
    """The error that tells the job's story."""
    past = "\n".join(f"    {_line(known)}" for known in job.history) or "    (none)"
    return IllegalTransition(
        f"{reason}\n  event: {_line(event)}\n  job: {job.status}, step {job.step} of {job.steps}, "
        f"attempt {job.attempt}, {job.failures} failures in a row\n  its last events:\n{past}\n"
        "  this is a defect of the driver; please report it with this story"
    )


def _line(event: Event) -> str:
    parts = [
        f"{name}={str(value)[:120]!r}"
        for name in event.__dataclass_fields__
        if name not in ("time", "traceback") and (value := getattr(event, name)) not in (None, "", ())
    ]
    return " ".join([f"{event.time:.3f}", event_name(event), *parts])


def _publish(job: Job) -> Publish:
    return Publish(job.status.value, job.step, job.steps)


def _work(job: Job) -> Command:
    if job.step < job.steps:
        return RunStep(job.step, job.attempt)
    return StoreResult(job.attempt)


def _from_checkpoint(job: Job) -> Step:
    saved = job.checkpoint
    job = replace(job, step=saved.step if saved else 0)
    return job, (Restore(job.step, saved.blob if saved else None), _work(job), _publish(job))


def _is_late(job: Job, event: StepDone | WorkerLost | TaskFailed | Finished | SetAside) -> bool:
    if event.attempt > job.attempt:
        raise illegal(job, event, f"attempt {event.attempt} was never issued")
    return event.attempt < job.attempt


def _start(job: Job, event: Started) -> Step:
    return _from_checkpoint(replace(job, status=Status.RUNNING, attempt=1, runner=event.runner, started=event.time))


def _resume(job: Job, event: Resumed) -> Step:
    restarts = job.restarts + (not job.aside)
    job = replace(job, attempt=job.attempt + 1, restarts=restarts, aside=False, runner=event.runner)
    if job.restarts > MAX_RESTARTS:
        message = (
            f"the service ended {job.restarts} times in a row without being closed and this job did not get on "
            f"(step {job.step} of {job.steps}); the job may be what ends it: look at its log and memory"
        )
        return _fail(job, event.time, JobError("TooManyRestarts", message))
    return _from_checkpoint(job)


def _set_aside(job: Job, event: SetAside) -> Step:
    if job.aside or _is_late(job, event):  # by a runner whose job another has taken up
        return job, ()
    return replace(job, aside=True), ()


def _assembled(job: Job, event: Assembled) -> Step:
    known = job.workers, job.asked, job.fingerprint
    if known == (event.workers, event.asked, event.fingerprint):
        return job, ()
    return replace(job, workers=event.workers, asked=event.asked, fingerprint=event.fingerprint), ()


def _straggled(job: Job, event: Straggled) -> Step:
    return replace(job, stragglers=job.stragglers + 1), ()


def _worked(job: Job, event: Worked) -> Step:
    return replace(job), ()  # kept, and changes nothing


def _step_done(job: Job, event: StepDone) -> Step:
    if _is_late(job, event):
        return job, ()
    if event.step != job.step or job.step >= job.steps:
        raise illegal(job, event, f"step {event.step} was done while step {job.step} was expected")
    job = replace(job, step=job.step + 1, scalars=event.scalars)
    if job.step > job.furthest:
        job = replace(job, furthest=job.step, failures=0, restarts=0)
    save = (SaveCheckpoint(job.step),) if _checkpoint_due(job) else ()
    return job, (*save, _work(job), _publish(job))


def _checkpoint_due(job: Job) -> bool:
    if job.checkpoint_every is None or job.step >= job.steps or job.step % job.checkpoint_every:
        return False
    return job.checkpoint is None or job.checkpoint.step < job.step


def _checkpointed(job: Job, event: Checkpointed) -> Step:
    if not 0 < event.step <= min(job.furthest, job.steps - 1):
        raise illegal(job, event, f"there cannot be a checkpoint after {event.step} steps")
    if job.checkpoint is not None and event.step <= job.checkpoint.step:
        return job, ()
    return replace(job, checkpoint=Checkpoint(event.step, event.blob)), ()


def _worker_lost(job: Job, event: WorkerLost) -> Step:
    late = _is_late(job, event)
    job = replace(job, workers_lost=job.workers_lost + 1)
    again = ReplaceWorker(event.worker)
    if late and not event.state_lost:
        return job, (again,)
    error = JobError("WorkerLost", f"worker {event.worker} was lost: {event.reason}", worker=event.worker)
    if late:  # the retry is under way, and misses values: go back, but count the incident once
        job, commands = _from_checkpoint(replace(job, attempt=job.attempt + 1))
    else:
        job, commands = _retry(job, event.time, error, state_lost=event.state_lost)
    return job, (again, *commands)


def _task_failed(job: Job, event: TaskFailed) -> Step:
    if _is_late(job, event):
        return job, ()
    error = JobError(event.error, f"{event.error}: {event.message}", event.traceback, event.node, event.worker)
    if event.deterministic:
        return _fail(job, event.time, error)
    return _retry(job, event.time, error, state_lost=False)


def _retry(job: Job, time: float, error: JobError, *, state_lost: bool) -> Step:
    if job.failures >= job.retries:
        what = f"step {job.step} of {job.steps}" if job.step < job.steps else "storing the result"
        message = f"{what} failed {job.failures + 1} times in a row; the last time: {error.message}"
        return _fail(job, time, replace(error, message=message))
    job = replace(job, attempt=job.attempt + 1, failures=job.failures + 1, retried=job.retried + 1)
    if state_lost:
        return _from_checkpoint(job)
    return job, (_work(job), _publish(job))


def _fail(job: Job, time: float, error: JobError) -> Step:
    return _end(replace(job, status=Status.FAILED, error=error), time)


def _end(job: Job, time: float) -> Step:
    job = replace(job, ended=time)
    return job, (Release(), _publish(job))


def _cancel(job: Job, event: CancelRequested) -> Step:
    why = f": {event.reason}" if event.reason else ""
    error = JobError("JobCancelled", f"cancelled at step {job.step} of {job.steps}{why}")
    return _end(replace(job, status=Status.CANCELLED, error=error), event.time)


def _deadline(job: Job, event: DeadlinePassed) -> Step:
    message = (
        f"the deadline of {event.seconds:g} s passed while the job was {job.status}, "
        f"at step {job.step} of {job.steps}; give a longer deadline or more workers"
    )
    return _fail(job, event.time, JobError("DeadlinePassed", message))


def _finish(job: Job, event: Finished) -> Step:
    if _is_late(job, event):
        return job, ()
    if job.step < job.steps:
        raise illegal(job, event, f"a result came while step {job.step} of {job.steps} was expected")
    return _end(replace(job, status=Status.SUCCEEDED, result=event.result), event.time)


def _found(job: Job, event: Found) -> Step:
    done = replace(job, step=job.steps, furthest=job.steps, fingerprint=event.fingerprint, result=event.result)
    return _end(replace(done, status=Status.SUCCEEDED), event.time)


def _ignore(job: Job, event: Event) -> Step:
    return job, ()


Handler = Callable[[Job, Any], Step]
_LATE = (
    SetAside,
    Assembled,
    Straggled,
    Worked,
    StepDone,
    Checkpointed,
    WorkerLost,
    TaskFailed,
    CancelRequested,
    DeadlinePassed,
    Finished,
)

TABLE: Mapping[tuple[Status, type[Event]], Handler] = {
    (Status.QUEUED, Started): _start,
    (Status.QUEUED, Found): _found,
    (Status.QUEUED, CancelRequested): _cancel,
    (Status.QUEUED, DeadlinePassed): _deadline,
    (Status.RUNNING, Resumed): _resume,
    (Status.RUNNING, SetAside): _set_aside,
    (Status.RUNNING, Assembled): _assembled,
    (Status.RUNNING, Straggled): _straggled,
    (Status.RUNNING, Worked): _worked,
    (Status.RUNNING, StepDone): _step_done,
    (Status.RUNNING, Checkpointed): _checkpointed,
    (Status.RUNNING, WorkerLost): _worker_lost,
    (Status.RUNNING, TaskFailed): _task_failed,
    (Status.RUNNING, CancelRequested): _cancel,
    (Status.RUNNING, DeadlinePassed): _deadline,
    (Status.RUNNING, Finished): _finish,
    **{(Status.SUCCEEDED, late): _ignore for late in _LATE},
    **{(Status.FAILED, late): _ignore for late in _LATE},
    **{(Status.CANCELLED, late): _ignore for late in _LATE},
}
