"""The job's state table: complete, bounded, and rebuilt exactly from its journal."""

import json
import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphir.errors import FormatError, GraphError, ServiceUnavailable, ShapeError
from scheduler.job.events import (
    EVENTS,
    MAX_TRACEBACK,
    Assembled,
    CancelRequested,
    Checkpointed,
    DeadlinePassed,
    Event,
    Finished,
    Found,
    Lane,
    Publish,
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
    Straggled,
    TaskFailed,
    Worked,
    WorkerLost,
    event_from_json,
    event_to_json,
    is_deterministic,
    scalars,
)
from scheduler.job.spec import JobSpec
from scheduler.job.state import (
    MAX_RESTARTS,
    TABLE,
    Checkpoint,
    IllegalTransition,
    Job,
    Status,
    new_job,
    replay,
    transition,
)

GRAPH = "a" * 64
BLOB = "b" * 64

SAMPLES: list[Event] = [
    Started(1.0, "r"),
    Resumed(2.0, "r"),
    SetAside(2.05, 1, "the service closes"),
    Assembled(2.1, 2, 3, "f", "numpy"),
    Straggled(2.2, "w", "slow"),
    Worked(2.3, 0.5, (Lane("worker-0", ((1, "map 0", 0.25),), 0.125),)),
    StepDone(3.0, 0, 1),
    Checkpointed(4.0, 1, BLOB),
    WorkerLost(5.0, 1, "w", "killed"),
    TaskFailed(6.0, 1, "ValueError", "no"),
    CancelRequested(7.0, "enough"),
    DeadlinePassed(8.0, 1.0),
    Finished(9.0, 1, BLOB),
    Found(9.0, "before", BLOB),
]
LATE = {
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
}
LISTED = {
    Status.QUEUED: {Started, Found, CancelRequested, DeadlinePassed},
    Status.RUNNING: LATE | {Resumed},
    Status.SUCCEEDED: LATE,
    Status.FAILED: LATE,
    Status.CANCELLED: LATE,
}


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"graph": GRAPH, **fields})


def run(job: Job, *events: Event) -> Job:
    for event in events:
        job, _ = transition(job, event)
    return job


def job_with(status: Status) -> Job:
    queued = new_job(spec(steps=2))
    running = run(queued, Started(0.0))
    done = run(running, StepDone(0.1, 0, 1))
    return {
        Status.QUEUED: queued,
        Status.RUNNING: done,
        Status.SUCCEEDED: run(done, StepDone(0.2, 1, 1), Finished(0.3, 1, BLOB)),
        Status.FAILED: run(done, TaskFailed(0.2, 1, "ShapeError", "no", deterministic=True)),
        Status.CANCELLED: run(done, CancelRequested(0.2)),
    }[status]


def test_samples_cover_every_event() -> None:
    assert {type(event) for event in SAMPLES} == set(EVENTS.values())


@pytest.mark.parametrize(("status", "event"), list(product(Status, SAMPLES)), ids=str)
def test_every_pair_is_listed_or_raises_with_the_story(status: Status, event: Event) -> None:
    job = job_with(status)
    assert job.status is status
    assert ((status, type(event)) in TABLE) == (type(event) in LISTED[status])
    if type(event) in LISTED[status]:
        if status.terminal:
            assert transition(job, event) == (job, ())
        return
    with pytest.raises(IllegalTransition) as caught:
        transition(job, event)
    story = str(caught.value)
    assert f"job: {status}, step {job.step} of 2" in story
    for past in job.history:
        assert f"{past.time:.3f} " in story


def test_the_road_to_a_result() -> None:
    job, commands = transition(new_job(spec(steps=3, checkpoint_every=2)), Started(1.0, "r1"))
    assert commands == (Restore(0, None), RunStep(0, 1), Publish("running", 0, 3))
    job, commands = transition(job, StepDone(2.0, 0, 1, scalars({"loss": 0.5})))
    assert commands == (RunStep(1, 1), Publish("running", 1, 3))
    job, commands = transition(job, StepDone(3.0, 1, 1, scalars({"loss": 0.25})))
    assert commands == (SaveCheckpoint(2), RunStep(2, 1), Publish("running", 2, 3))
    job, commands = transition(job, Checkpointed(3.5, 2, BLOB))
    assert commands == ()
    job, commands = transition(job, StepDone(4.0, 2, 1))
    assert commands == (StoreResult(1), Publish("running", 3, 3))
    job, commands = transition(job, Finished(5.0, 1, GRAPH))
    assert commands == (Release(), Publish("succeeded", 3, 3))
    assert (job.status, job.result, job.started, job.ended) == ("succeeded", GRAPH, 1.0, 5.0)


def test_no_checkpoint_after_the_last_step() -> None:
    job = run(new_job(spec(steps=2, checkpoint_every=1)), Started(0.0), StepDone(1.0, 0, 1))
    _, commands = transition(job, StepDone(2.0, 1, 1))
    assert not [command for command in commands if isinstance(command, SaveCheckpoint)]
    with pytest.raises(IllegalTransition, match="cannot be a checkpoint after 2 steps"):
        run(job, StepDone(2.0, 1, 1), Checkpointed(3.0, 2, BLOB))


def test_a_lost_worker_is_replaced_and_its_step_is_run_again() -> None:
    job = run(new_job(spec(steps=2)), Started(0.0), StepDone(1.0, 0, 1))
    job, commands = transition(job, WorkerLost(2.0, 1, "w3", "SIGKILL"))
    assert commands == (ReplaceWorker("w3"), RunStep(1, 2), Publish("running", 1, 2))
    assert (job.failures, job.retried, job.workers_lost) == (1, 1, 1)


def test_workers_lost_in_one_incident_count_once() -> None:
    job = run(new_job(spec(retries=1)), Started(0.0), WorkerLost(1.0, 1, "w1", "node"))
    for worker in ("w2", "w3", "w4"):
        job, commands = transition(job, WorkerLost(1.0, 1, worker, "node"))
        assert commands == (ReplaceWorker(worker),)
    assert (job.status, job.failures, job.workers_lost) == (Status.RUNNING, 1, 4)
    job, commands = transition(job, WorkerLost(1.1, 1, "w5", "node", state_lost=True))
    assert commands == (ReplaceWorker("w5"), Restore(0, None), RunStep(0, 3), Publish("running", 0, 1))
    assert job.failures == 1


def test_lost_state_goes_back_to_the_checkpoint() -> None:
    job = new_job(spec(steps=9))
    job = run(job, Started(0.0), *(StepDone(1.0, step, 1) for step in range(5)), Checkpointed(2.0, 3, BLOB))
    job, commands = transition(job, WorkerLost(3.0, 1, "w", "gone", state_lost=True))
    assert commands[1:3] == (Restore(3, BLOB), RunStep(3, 2))
    assert (job.step, job.furthest) == (3, 5)
    job, commands = transition(job, Resumed(4.0, "r2"))
    assert commands[:2] == (Restore(3, BLOB), RunStep(3, 3))
    assert (job.runner, job.restarts) == ("r2", 1)


def test_old_steps_done_again_are_no_progress() -> None:
    job = run(new_job(spec(steps=3, retries=2)), Started(0.0), StepDone(1.0, 0, 1), StepDone(1.0, 1, 1))
    for _ in range(2):
        job = run(job, WorkerLost(2.0, job.attempt, "w", "gone", state_lost=True))
        job = run(job, StepDone(3.0, 0, job.attempt), StepDone(3.0, 1, job.attempt))
    assert job.failures == 2
    job = run(job, WorkerLost(4.0, job.attempt, "w", "gone", state_lost=True))
    assert job.status is Status.FAILED


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_task_that_always_fails_fails_its_job_with_traceback_and_node(retries: int) -> None:
    job, runs = run(new_job(spec(steps=5, retries=retries)), Started(0.0), StepDone(0.5, 0, 1)), 0
    while job.status is Status.RUNNING:
        runs += 1
        failure = TaskFailed(1.0, job.attempt, "ValueError", "bad", "Trace: line 7", "matmul %4", "w1")
        job, commands = transition(job, failure)
    assert runs == retries + 1
    assert commands == (Release(), Publish("failed", 1, 5))
    assert job.error is not None
    assert (job.error.kind, job.error.node, job.error.worker) == ("ValueError", "matmul %4", "w1")
    assert job.error.traceback == "Trace: line 7"
    assert f"step 1 of 5 failed {runs} times in a row; the last time: ValueError: bad" in job.error.message


def test_progress_sets_failures_back() -> None:
    job = run(new_job(spec(steps=20, retries=1)), Started(0.0))
    for step in range(20):
        job = run(job, TaskFailed(1.0, job.attempt, "OSError", "again"), StepDone(2.0, step, job.attempt + 1))
    assert (job.failures, job.retried, job.step) == (0, 20, 20)


def test_broken_rules_fail_at_once() -> None:
    job = run(new_job(spec()), Started(0.0), TaskFailed(1.0, 1, "ShapeError", "no", deterministic=True))
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error.message == "ShapeError: no"
    assert is_deterministic(ShapeError("no"))
    assert not is_deterministic(ServiceUnavailable("later"))
    assert not is_deterministic(MemoryError())


def test_losing_the_result_before_it_is_stored() -> None:
    done = run(new_job(spec()), Started(0.0), StepDone(1.0, 0, 1))
    kept, commands = transition(done, WorkerLost(2.0, 1, "w", "gone"))
    assert commands[1] == StoreResult(2)
    assert kept.step == 1
    lost, commands = transition(done, WorkerLost(2.0, 1, "w", "gone", state_lost=True))
    assert commands[1:3] == (Restore(0, None), RunStep(0, 2))
    assert lost.step == 0


def test_endless_restarts_end() -> None:
    job = run(new_job(spec()), Started(0.0), *[Resumed(1.0)] * MAX_RESTARTS)
    assert job.status is Status.RUNNING
    job = run(job, Resumed(2.0))
    assert job.status is Status.FAILED
    assert job.error is not None
    assert "ended 21 times in a row without being closed" in job.error.message


def test_services_that_are_closed_are_not_counted() -> None:
    job = run(new_job(spec()), Started(0.0))
    for _ in range(2 * MAX_RESTARTS):
        job = run(job, SetAside(1.0, job.attempt, "the service closes"), Resumed(2.0))
    assert (job.status, job.restarts) == (Status.RUNNING, 0)


def test_a_runner_that_lost_its_job_to_another_cannot_set_it_aside() -> None:
    job = run(new_job(spec()), Started(0.0), Resumed(1.0))
    assert transition(job, SetAside(2.0, 1)) == (job, ())
    with pytest.raises(IllegalTransition, match="attempt 3 was never issued"):
        transition(job, SetAside(2.0, 3))


def test_progress_sets_restarts_back() -> None:
    job = run(new_job(spec(steps=3)), Started(0.0), *[Resumed(1.0)] * MAX_RESTARTS)
    job = run(job, StepDone(2.0, 0, job.attempt), *[Resumed(3.0)] * MAX_RESTARTS)
    assert (job.status, job.restarts) == (Status.RUNNING, MAX_RESTARTS)


def test_an_older_checkpoint_does_not_replace_a_newer_one() -> None:
    job = run(new_job(spec(steps=9)), Started(0.0), *(StepDone(1.0, step, 1) for step in range(5)))
    for step in (0, 6):
        with pytest.raises(IllegalTransition, match=f"cannot be a checkpoint after {step} steps"):
            transition(job, Checkpointed(2.0, step, BLOB))
    job = run(job, Checkpointed(2.0, 4, BLOB))
    for late in (Checkpointed(3.0, 2, GRAPH), Checkpointed(3.0, 4, GRAPH)):
        after, commands = transition(job, late)
        assert after is job
        assert commands == ()
    assert job.checkpoint == Checkpoint(4, BLOB)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING])
def test_cancel_and_deadline(status: Status) -> None:
    cancelled, commands = transition(job_with(status), CancelRequested(9.0, "enough"))
    assert cancelled.status is Status.CANCELLED
    assert commands[0] == Release()
    assert cancelled.error is not None
    assert cancelled.error.message.endswith("of 2: enough")
    late, commands = transition(job_with(status), DeadlinePassed(9.0, 2.5))
    assert late.status is Status.FAILED
    assert commands[0] == Release()
    assert late.error is not None
    assert f"deadline of 2.5 s passed while the job was {status}" in late.error.message


def test_reports_of_an_older_attempt_are_ignored_and_of_a_future_one_refused() -> None:
    job = run(new_job(spec(steps=3)), Started(0.0), TaskFailed(1.0, 1, "OSError", "x"))
    for late in (StepDone(2.0, 0, 1), TaskFailed(2.0, 1, "OSError", "x"), Finished(2.0, 1, BLOB)):
        after, commands = transition(job, late)
        assert after is job
        assert commands == ()
    for event in (StepDone(2.0, 0, 3), WorkerLost(2.0, 3, "w", "x"), Finished(2.0, 3, BLOB)):
        with pytest.raises(IllegalTransition, match="attempt 3 was never issued"):
            transition(job, event)
    with pytest.raises(IllegalTransition, match="step 1 was done while step 0 was expected"):
        transition(job, StepDone(2.0, 1, 2))
    with pytest.raises(IllegalTransition, match="a result came while step 0 of 3"):
        transition(job, Finished(2.0, 2, BLOB))


def test_text_from_workers_is_bounded_and_clean() -> None:
    event = TaskFailed(0.0, 1, "E", "nul\x00 half \ud800", "first\n" + "x" * 10**6 + "\nlast")
    assert len(event.traceback) <= MAX_TRACEBACK
    assert event.traceback.startswith("first\n")
    assert event.traceback.endswith("\nlast")
    assert event.message == "nul\ufffd half \\ud800"
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "melted", "time": 1.0},
        {"type": "started"},
        {"type": "started", "time": "soon"},
        {"type": "started", "time": True},
        {"type": "started", "time": 1.0, "colour": "red"},
        {"type": "step_done", "time": 1.0, "step": 1.5, "attempt": 1},
        {"type": "step_done", "time": 1.0, "step": 1, "attempt": 1, "scalars": [["loss"]]},
        {"type": "step_done", "time": 1.0, "step": 1, "attempt": 1, "scalars": 3},
    ],
)
def test_bad_journals_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        event_from_json(data)


def test_bad_stored_jobs_are_refused() -> None:
    good = new_job(spec()).to_json()
    for wrong in ({"status": "melted"}, {"checkpoint": 3}, {"checkpoint": {"step": 1}}, {"error": "x"}):
        with pytest.raises(FormatError, match="stored job"):
            Job.from_json({**good, **wrong})


times = st.floats(0, 1e10)
numbers = st.integers(0, 3)
texts = st.text(max_size=20)
any_event: st.SearchStrategy[Event] = st.one_of(
    st.builds(Started, times, texts),
    st.builds(Resumed, times, texts),
    st.builds(SetAside, times, numbers, texts),
    st.builds(StepDone, times, numbers, numbers, st.lists(st.tuples(texts, st.floats())).map(tuple)),
    st.builds(Checkpointed, times, numbers, st.just(BLOB)),
    st.builds(WorkerLost, times, numbers, texts, texts, st.booleans()),
    st.builds(TaskFailed, times, numbers, texts, texts, texts, st.none() | texts, st.none() | texts),
    st.builds(CancelRequested, times, texts),
    st.builds(DeadlinePassed, times, times),
    st.builds(Finished, times, numbers, st.just(BLOB)),
)


@given(any_event)
def test_events_survive_json(event: Event) -> None:
    text = json.dumps(event_to_json(event), allow_nan=False)
    assert event_from_json(json.loads(text)) == event


@given(st.lists(st.sampled_from(["killed", "closed", "late", "new", "old"]), max_size=120))
def test_a_job_ends_when_so_many_services_were_killed_without_any_progress(happened: list[str]) -> None:
    """Closing a service neither counts nor sets the count back; old steps done again are no progress."""
    job, killed = run(new_job(spec(steps=200)), Started(0.0)), 0
    for what in happened:
        attempt = job.attempt
        if what == "late":
            job = run(job, SetAside(1.0, attempt - 1)) if attempt > 1 else job
        elif what in ("killed", "closed"):
            job = run(job, *[SetAside(1.0, attempt)] * (what == "closed"), Resumed(2.0))
            killed += what == "killed"
        elif what == "new":
            job, killed = run(job, *(StepDone(3.0, step, attempt) for step in range(job.step, job.furthest + 1))), 0
        elif job.step < job.furthest:
            job = run(job, StepDone(3.0, job.step, attempt))
        if killed > MAX_RESTARTS:
            assert job.error is not None
            assert job.error.kind == "TooManyRestarts"
            return
        assert (job.status, job.restarts) == (Status.RUNNING, killed)


@given(st.integers(1, 3), st.integers(0, 2), st.lists(any_event, max_size=30))
def test_any_sequence_is_replayed_or_refused(steps: int, retries: int, events: list[Event]) -> None:
    described = spec(steps=steps, retries=retries)
    job, journal = new_job(described), list[Event]()
    for event in events:
        try:
            job, _ = transition(job, event)
        except IllegalTransition:
            continue
        journal.append(event)
    assert replay(described, journal) == job


def test_a_diverged_loss_is_equal_to_itself() -> None:
    one, two = (StepDone(1.0, 0, 1, scalars({"loss": float("nan")})) for _ in range(2))
    assert one == two
    assert math.isnan(one.scalars[0][1])
    job = run(new_job(spec()), Started(0.0), one)
    assert Job.from_json(json.loads(json.dumps(job.to_json(), allow_nan=False))) == job


def test_errors_are_ours() -> None:
    assert issubclass(IllegalTransition, GraphError)
