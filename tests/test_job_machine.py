"""The job's state table under a driver that obeys its commands and a world that disturbs it."""

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.job.events import (
    Assembled,
    CancelRequested,
    Checkpointed,
    DeadlinePassed,
    Event,
    Finished,
    Lane,
    Release,
    Restore,
    Resumed,
    RunStep,
    SaveCheckpoint,
    SetAside,
    Started,
    StepDone,
    StoreResult,
    Straggled,
    TaskFailed,
    Worked,
    WorkerLost,
    event_from_json,
    event_to_json,
    scalars,
)
from scheduler.job.spec import JobSpec
from scheduler.job.state import MAX_RESTARTS, Checkpoint, Job, Status, new_job, replay, transition

BLOB = "b" * 64


class JobMachine(RuleBasedStateMachine):
    """A driver that obeys commands, and a world that disturbs it."""

    @initialize(steps=st.integers(1, 6), retries=st.integers(0, 3), every=st.none() | st.integers(1, 3))
    def submit(self, steps: int, retries: int, every: int | None) -> None:
        self.spec = JobSpec(graph="a" * 64, steps=steps, retries=retries, checkpoint_every=every)
        self.job = new_job(self.spec)
        self.journal: list[Event] = []
        self.work: RunStep | StoreResult | None = None
        self.to_save: list[int] = []
        self.time = 0.0
        self.aside, self.killed = False, 0

    def happen(self, event: Event) -> None:
        before = self.job
        self.job, commands = transition(before, event)
        self.journal.append(event)
        self.check_change(before, event)
        for command in commands:
            match command:
                case RunStep() | StoreResult():
                    assert self.job.status is Status.RUNNING
                    self.work = command
                case Restore(step, blob):
                    saved = self.job.checkpoint
                    assert saved == (Checkpoint(step, blob) if blob is not None else None)
                case SaveCheckpoint(step):
                    self.to_save.append(step)
                case Release():
                    assert self.job.status.terminal
                    self.work = None

    def check_change(self, before: Job, event: Event) -> None:
        after = self.job
        if before.status.terminal:
            assert after is before
        if after.step < before.step:
            assert isinstance(event, Resumed) or (isinstance(event, WorkerLost) and event.state_lost)
        assert after.step <= before.step + 1
        assert after.furthest >= before.furthest
        assert after.attempt >= before.attempt
        assert after.failures <= before.failures + 1
        if after.furthest > before.furthest:
            self.killed = 0
        if after.failures < before.failures:
            assert after.furthest > before.furthest
        if before.checkpoint is not None:
            assert after.checkpoint is not None
            assert after.checkpoint.step >= before.checkpoint.step

    def now(self) -> float:
        self.time += 1.0
        return self.time

    @precondition(lambda self: self.job.status is Status.QUEUED)
    @rule()
    def start(self) -> None:
        self.happen(Started(self.now(), "r"))

    @precondition(lambda self: self.work is not None)
    @rule(value=st.floats())
    def finish_work(self, value: float) -> None:
        match self.work:
            case RunStep(step, attempt):
                self.happen(StepDone(self.now(), step, attempt, scalars({"loss": value})))
            case StoreResult(attempt):
                self.happen(Finished(self.now(), attempt, BLOB))

    @precondition(lambda self: self.job.status is not Status.QUEUED)
    @rule(workers=st.integers(1, 2), fingerprint=st.sampled_from("ab"))
    def assemble(self, workers: int, fingerprint: str) -> None:
        before = self.job
        self.happen(Assembled(self.now(), workers, 2, fingerprint))
        if self.job.status is Status.RUNNING:
            assert (self.job.workers, self.job.fingerprint) == (workers, fingerprint)
        assert (self.job.step, self.job.attempt) == (before.step, before.attempt)

    @precondition(lambda self: self.job.status is not Status.QUEUED)
    @rule()
    def straggle(self) -> None:
        self.happen(Straggled(self.now(), "w", "slow"))

    @precondition(lambda self: self.job.status is not Status.QUEUED)
    @rule()
    def tell_of_work(self) -> None:
        before = self.job
        self.happen(Worked(self.now(), 0.5, (Lane("worker-0", ((0, "map 0", 0.25),), 0.125),)))
        assert self.job == before
        assert (self.job is before) == before.status.terminal  # which is kept, and which not

    @precondition(lambda self: self.job.status is not Status.QUEUED)
    @rule(lost=st.booleans(), age=st.integers(0, 2))
    def lose_worker(self, lost: bool, age: int) -> None:
        attempt = max(1, self.job.attempt - age)
        self.happen(WorkerLost(self.now(), attempt, "w", "killed", lost))

    @precondition(lambda self: self.job.status is not Status.QUEUED)
    @rule(deterministic=st.sampled_from([False, False, False, True]), age=st.integers(0, 2))
    def fail_task(self, deterministic: bool, age: int) -> None:
        attempt = max(1, self.job.attempt - age)
        event = TaskFailed(self.now(), attempt, "E", "m", "t", "n", "w", deterministic)
        self.happen(event)

    @precondition(lambda self: self.job.status is not Status.QUEUED and self.to_save)
    @rule()
    def save(self) -> None:
        self.happen(Checkpointed(self.now(), self.to_save.pop(0), BLOB))

    @precondition(lambda self: self.job.status is Status.RUNNING)
    @rule()
    def restart(self) -> None:
        self.to_save.clear()
        self.killed += not self.aside
        self.aside = False
        self.happen(Resumed(self.now(), "r"))
        assert self.job.status.terminal == (self.killed > MAX_RESTARTS)

    @precondition(lambda self: self.job.status is Status.RUNNING)
    @rule(late=st.booleans())
    def set_aside(self, late: bool) -> None:
        """By the runner that has it, or by one that had it before."""
        attempt = self.job.attempt - (late and self.job.attempt > 1)
        self.aside |= attempt == self.job.attempt
        self.happen(SetAside(self.now(), attempt, "the service closes"))

    @precondition(lambda self: self.time > 15)
    @rule()
    def cancel(self) -> None:
        self.happen(CancelRequested(self.now()))

    @precondition(lambda self: self.time > 15)
    @rule()
    def pass_deadline(self) -> None:
        self.happen(DeadlinePassed(self.now(), 1.0))

    @invariant()
    def consistent(self) -> None:
        job = self.job
        assert 0 <= job.step <= job.furthest <= job.steps
        assert 0 <= job.failures <= job.retries
        assert job.restarts == self.killed
        assert job.checkpoint is None or 0 < job.checkpoint.step <= min(job.furthest, job.steps - 1)
        assert job.status.terminal == (job.ended is not None)
        assert (job.status is Status.SUCCEEDED) == (job.result is not None)
        assert (job.status in (Status.FAILED, Status.CANCELLED)) == (job.error is not None)
        assert (job.status is Status.RUNNING) == (self.work is not None)
        if isinstance(self.work, RunStep):
            assert self.work == RunStep(job.step, job.attempt)
        elif isinstance(self.work, StoreResult):
            assert self.work == StoreResult(job.attempt)

    @invariant()
    def rebuilt(self) -> None:
        text = json.dumps([event_to_json(event) for event in self.journal], allow_nan=False)
        again = [event_from_json(data) for data in json.loads(text)]
        assert again == self.journal
        assert replay(self.spec, again) == self.job
        assert Job.from_json(json.loads(json.dumps(self.job.to_json(), allow_nan=False))) == self.job


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
