"""How long a job waits before it tries again: once for each failure in a row of its tasks, never for steps that end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.client import connect
from scheduler.driver import patience
from scheduler.driver.inline import InlineSession
from scheduler.driver.patience import AGAIN_MOST, Backoff
from scheduler.driver.pool import WorkerDied, task_error
from scheduler.job.events import Event, StepDone, TaskFailed, WorkerLost
from tests.jobs import bits, kinds

FAILED = TaskFailed(0.0, 1, "OSError", "away", "", None, "worker-0", False)
LOST = WorkerLost(0.0, 1, "worker-0", "it ended", True)
DONE = StepDone(0.0, 0, 1, {})


def waits(*events: Event) -> list[float]:
    backoff, found = Backoff(), []
    for event in events:
        backoff.happened(event)
        found.append(backoff.take())
    return found


def test_tasks_that_fail_in_a_row_wait_longer_each_time() -> None:
    assert waits(*[FAILED] * 7) == [0.0, 0.25, 1.0, 4.0, AGAIN_MOST, AGAIN_MOST, AGAIN_MOST]
    assert waits(FAILED, LOST, FAILED, LOST, LOST, FAILED) == [0.0, 0.0, 0.25, 0.0, 0.0, 1.0]
    assert waits(FAILED, FAILED, DONE, FAILED, FAILED) == [0.0, 0.25, 0.0, 0.0, 0.25]


@given(st.lists(st.sampled_from([FAILED, LOST, DONE]), max_size=40))
def test_nothing_but_a_failure_after_another_is_waited_for(events: list[Event]) -> None:
    for event, wait in zip(events, waits(*events), strict=True):
        assert 0 <= wait <= AGAIN_MOST
        assert wait == 0 or event is FAILED
    backoff = Backoff()
    for event in events:
        backoff.happened(event)
    backoff.take()
    assert backoff.take() == 0, "one failure is waited for once"


def test_a_job_that_does_its_steps_again_does_not_wait_before_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls back to its beginning several times, and a task fails on the way up: more failures than steps that are new."""
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 3600.0)
    monkeypatch.setattr(patience, "AGAIN_MOST", 3600.0)
    w = gi.input("w", (3,))
    graph = gi.Graph({"w2": gi.tanh(w * 2.0 + 0.1)})
    advance, calls = InlineSession.advance, 0

    def disturbed(session: InlineSession, most: int) -> list[dict[str, float]]:
        nonlocal calls
        calls += 1
        if calls in (4, 9, 13, 16):
            raise WorkerDied("worker-0", "a test wants it", state_lost=True)
        if calls in (7, 11, 18):
            raise task_error(OSError("a test wants it"), "worker-0")
        return advance(session, most)

    with connect(workers=0) as client:
        options = {"carry": {"w": "w2"}, "steps": 6, "retries": 20, "fresh": True}
        expected = bits(client.submit(graph, {"w": [0.1, 0.2, 0.3]}, **options))
        monkeypatch.setattr(InlineSession, "advance", disturbed)
        job = client.submit(graph, {"w": [0.1, 0.2, 0.3]}, **options)
        assert bits(job) == expected
    told = kinds(job)
    assert (told.count("worker_lost"), told.count("task_failed")) == (4, 3)
