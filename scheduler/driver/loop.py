"""The job loop: obeys the state table's commands with a pool, and reports back what happened.

One job, in one thread. Every event goes through `Store.append`, so that a job cancelled by somebody
else ends at the next report: its answer is a terminal job and no commands. The loop holds no state that the
store does not have, except values; a killed loop is followed by another one with `Resumed`. While the database is away the
loop waits with what it has; when another runner has taken the job meanwhile, the next report raises LeaseLost.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np

from graphir import tensors
from graphir.errors import GraphError
from graphir.node import Array
from graphir.partition.plan import Plan
from scheduler.driver.patience import Backoff, patiently
from scheduler.driver.pool import Feeds, Interrupted, Pool, TaskError, WorkerDied, task_error
from scheduler.job.blobs import Bytes
from scheduler.job.events import (
    Checkpointed,
    Command,
    DeadlinePassed,
    Event,
    Finished,
    Release,
    ReplaceWorker,
    Restore,
    Resumed,
    RunStep,
    SaveCheckpoint,
    SetAside,
    Started,
    StepDone,
    StoreResult,
    TaskFailed,
    WorkerLost,
    scalars,
)
from scheduler.job.naming import ValueGone
from scheduler.job.seen import Record
from scheduler.job.state import Job, Status
from scheduler.job.store import Appended, Lease, SeqConflict, Store
from scheduler.job.tables import DatabaseUnavailable
from scheduler.job.values import Values
from scheduler.telemetry import about, happened_to, span

T = TypeVar("T")
Clock = Callable[[], float]
ASK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job's plan and its feeds, arrays in memory and datasets by name."""

    plan: Plan
    feeds: Feeds


class JobLoop:
    """Runs one job to its end, or until `stop` or `gives_way` says so; `changed` is called after each report.

    A job that gives way does so between two calls, or within one that takes long, and leaves a checkpoint of what was done.
    lost: whether it stops because what it ran on broke, perhaps by its own doing, and not because somebody wants it to.
    """

    def __init__(
        self,
        store: Store,
        values: Values,
        pool: Callable[[], Pool],
        prepare: Callable[[Record], Prepared],
        *,
        stop: Callable[[], bool] = lambda: False,
        gives_way: Callable[[], bool] = lambda: False,
        lost: Callable[[], bool] = lambda: False,
        changed: Callable[[], None] = lambda: None,
        clock: Clock = time.time,
    ) -> None:
        self._store, self._values, self._make_pool, self._prepare = store, values, pool, prepare
        self._stop, self._gives_way, self._lost, self._changed, self._clock = stop, gives_way, lost, changed, clock
        self._stays = False
        self._commands: deque[Command] = deque()
        self._beside: dict[str, bytes] = {}
        self._fresh: Bytes = b""
        self._news: Callable[[], Sequence[Event]] = tuple
        self._saves: set[str] = set()
        self._backoff = Backoff()
        self._asked, self._until = time.monotonic(), math.inf

    def run(self, id: str, runner: str) -> Job:
        """Take a queued or left-over job and perform it."""
        with about(job=id), span("job"):
            return self._run(id, runner)

    def _run(self, id: str, runner: str) -> Job:
        self._runner = runner
        job = self._taken(self._store.seen.record(id) or self._ask(lambda: self._store.job(id)))
        if job.status.terminal:
            return job
        try:
            self._begin()
        except Interrupted:
            self._late()
            return self._left()
        except GraphError as error:
            return self._report(self._failed(task_error(error, runner), job.attempt))
        try:
            while self._commands and not self._stop():
                command = self._commands.popleft()
                if not isinstance(command, RunStep) or not self._gives_way():
                    with span(type(command).__name__):
                        self._obey(command)
                elif self._saved():
                    break
        finally:
            self._session.release()
        return self._left()

    def _left(self) -> Job:
        """The job as it is when this loop has no more to do with it."""
        if self._job.status.terminal or self._lost():
            return self._job
        reason = "the service closes" if self._stop() else "others go first"
        return self._report(SetAside(self._clock(), self._job.attempt, reason))

    def _taken(self, record: Record) -> Job:
        """Begin or go on, unless the job was cancelled while it waited. Others may have had it since it was seen here."""
        while True:
            self._record = self._known = record
            if record.spec.deadline is not None:  # by the steady clock from here on
                age = max(0.0, self._clock() - record.created)
                self._until = time.monotonic() + record.spec.deadline - age
            if record.job.status.terminal:
                return record.job
            begin = Started if record.job.status is Status.QUEUED else Resumed
            try:
                return self._report(begin(self._clock(), self._runner), takes=True)
            except SeqConflict:
                record = self._ask(lambda: self._store.job(self._record.id))

    def _ask(self, question: Callable[[], T]) -> T:
        """What the store answers, as soon as the database does."""
        return patiently(question, self._stop)

    def _begin(self) -> None:
        spec = self._record.spec
        with span("plan"):
            prepared = self._ask(lambda: self._prepare(self._record))
        self._feeds, self._plan = prepared.feeds, prepared.plan
        outputs = spec.fetch or tuple(self._plan.graph.outputs)
        try:
            with span("assemble"):
                self._session = self._make_pool().open(
                    self._plan,
                    self._feeds,
                    spec.carry,
                    outputs,
                    self._interrupted,
                    spec.priority,
                    reproducible=spec.reproducible,
                    kernels=self._record.job.fingerprint if self._record.job.checkpoint else None,
                )
            self._news = self._session.news
        except TaskError as error:
            raise GraphError(error.failure.message) from error

    def _obey(self, command: Command) -> None:
        match command:
            case Restore(step, blob):
                self._session.restore(self._ask(lambda: self._start(blob)), step)
            case RunStep(step, attempt):
                self._pause()
                self._attempt(attempt, lambda: self._steps(step, attempt))
            case SaveCheckpoint(step):
                self._attempt(self._job.attempt, lambda: [self._checkpoint(step)])
            case StoreResult(attempt):
                self._pause()
                self._attempt(attempt, lambda: [self._finish(attempt)])
            case ReplaceWorker(worker):
                self._replace(worker)
            case Release():
                self._commands.clear()

    def _attempt(self, attempt: int, work: Callable[[], list[Event]]) -> None:
        if self._late():
            return
        try:
            happened = work()
        except Interrupted:
            if not self._late():  # else somebody cancelled the job, or wants its place, or the service is closing
                self._commands.clear()
                if not self._stop() and not self._ended():
                    self._saved()
            return
        except WorkerDied as lost:
            happened = [WorkerLost(self._clock(), attempt, lost.worker, lost.reason, lost.state_lost)]
        except TaskError as error:
            happened = [self._failed(error, attempt)]
        except GraphError as error:  # a blob cannot be written or read
            happened = [self._failed(task_error(error, "driver"), attempt)]
        self._report(*happened)

    def _pause(self) -> None:
        until = time.monotonic() + self._backoff.take()
        while time.monotonic() < until and not self._interrupted():
            time.sleep(ASK_SECONDS / 5)

    def _saved(self) -> bool:
        """Whether the steps that were done are safe; if not, a worker was lost or the like, and commands say how to go on."""
        step, saved = self._job.step, self._job.checkpoint
        if not step or (saved is not None and saved.step == step):
            return True
        with self._staying():
            self._attempt(self._job.attempt, lambda: [self._checkpoint(step)])
        saved = self._job.checkpoint
        return saved is not None and saved.step == step

    @contextmanager
    def _staying(self) -> Iterator[None]:
        """Meanwhile the job does not give way."""
        self._stays = True
        try:
            yield
        finally:
            self._stays = False

    def _replace(self, worker: str) -> None:
        try:
            self._session.replace(worker)
        except Interrupted:
            if not self._late():
                self._commands.clear()
        except (WorkerDied, TaskError, GraphError) as error:  # others fell meanwhile, or none is left
            self._report(WorkerLost(self._clock(), self._job.attempt, worker, str(error), state_lost=True))

    def _past_deadline(self) -> bool:
        return time.monotonic() > self._until

    def _late(self) -> bool:
        """Whether the deadline has passed, which then is reported."""
        if not self._past_deadline():
            return False
        self._report(DeadlinePassed(self._clock(), self._record.spec.deadline or 0.0))
        return True

    def _interrupted(self) -> bool:
        if self._stop() or self._past_deadline():
            return True
        now = time.monotonic()
        if now < self._asked + ASK_SECONDS:  # the store is asked seldom, for chunks may be small
            return False
        self._asked = now
        self._tell()
        return (self._gives_way() and not self._stays) or self._ended()

    def _tell(self) -> None:
        """Report what workers did so far, though no step has ended."""
        if news := self._dated_news():
            appended = self._kept(news, takes=False)
            self._known = replace(self._known, job=appended.job, seq=appended.seq)
            happened_to(appended.job, news)
            self._changed()

    def _dated_news(self) -> list[Event]:
        return [replace(event, time=self._clock()) for event in self._news()]

    def _ended(self) -> bool:
        """Whether somebody else has ended the job."""
        with suppress(DatabaseUnavailable):  # then it is asked the next time
            self._job = self._store.job(self._record.id).job
        return self._job.status.terminal

    @property
    def got_on(self) -> bool:
        """Whether a step ended that had not before."""
        return self._job.furthest > self._record.job.furthest

    def _steps(self, step: int, attempt: int) -> list[Event]:
        """Some steps, not past the next checkpoint, whose values could not be had any more."""
        spec = self._record.spec
        every = spec.checkpoint_every or spec.steps
        most = min(spec.steps, (step // every + 1) * every) - step
        done = self._session.advance(most)
        now = self._clock()
        events: list[Event] = [StepDone(now, step + k, attempt, scalars(numbers)) for k, numbers in enumerate(done)]
        if step + len(done) < spec.steps:
            return events
        try:
            return [*events, self._finish(attempt)]
        except (WorkerDied, TaskError, GraphError):  # the steps are done all the same
            self._report(*events)
            raise

    def _checkpoint(self, step: int) -> Event:
        blob = self._stored(self._session.carried(), {"job": self._record.id, "step": str(step)})
        self._saves.add(blob)
        return Checkpointed(self._clock(), step, blob)

    def _finish(self, attempt: int) -> Event:
        with self._staying():  # there is no step to go on from any more
            return Finished(self._clock(), attempt, self._stored(self._session.outputs()))

    def _stored(self, values: Mapping[str, Array], facts: Mapping[str, str] | None = None) -> str:
        self._fresh = tensors.write(_plain(values), facts)
        return self._values.put(self._fresh, self._beside)

    def _failed(self, error: TaskError, attempt: int) -> Event:
        return TaskFailed(self._clock(), attempt, **asdict(error.failure))

    def _start(self, blob: str | None) -> Mapping[str, Array]:
        if blob is not None:
            found = tensors.read(self._values.view(blob), source="a checkpoint")
            if found.metadata.get("job") == self._record.id:
                self._saves.add(blob)
            return found
        values = {name: self._feeds[name] for name in self._record.spec.carry}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def _report(self, *happened: Event, takes: bool = False) -> Job:
        news = self._dated_news()
        appended = self._kept([*news, *happened], takes)
        self._known = replace(self._known, job=appended.job, seq=appended.seq)
        self._beside.clear()
        happened_to(appended.job, [*news, *happened])
        for event in happened:
            self._backoff.happened(event)
        self._fresh = b""
        self._commands.extend(appended.commands)
        self._commands = deque(c for c in self._commands if _is_due(c, appended.job))
        if appended.job.status.terminal:
            self._commands.clear()
        self._job = appended.job
        self._drop_saves(appended.job)
        self._changed()
        return appended.job

    def _kept(self, events: Sequence[Event], takes: bool) -> Appended:
        """What the store makes of events; one that failed on the way may have kept them all the same."""
        known, lease, tried = self._known, Lease(self._runner, takes), False

        def append() -> Appended:
            nonlocal tried
            done = self._store.confirm(known, events) if tried else None
            tried = True
            after = known.seq if takes else None
            return done or self._store.append(known.id, events, after=after, values=self._beside, lease=lease)

        try:
            return self._ask(append)
        except ValueGone as gone:  # it was there of another job, which had been forgotten, and was removed just now
            self._values.forget(gone)
            self._values.put(self._fresh, self._beside)
            return self._ask(append)

    def _drop_saves(self, job: Job) -> None:
        """Remove checkpoints that another has taken the place of, or that an ended job left. They name their job and are its own."""
        needed = None if job.status.terminal or job.checkpoint is None else job.checkpoint.blob
        for blob in self._saves - {needed}:
            self._ask(lambda blob=blob: self._values.drop(blob))  # type: ignore[misc]
            self._saves.remove(blob)


def _is_due(command: Command, job: Job) -> bool:
    """Whether it is still to be done: work of an earlier attempt, or for steps that are done, must not be done twice."""
    match command:
        case RunStep(step, attempt):
            return (step, attempt) == (job.step, job.attempt)
        case StoreResult(attempt):
            return attempt == job.attempt
        case _:
            return True


def _plain(values: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in values.items()}
