"""No queue and no cache grows without bound: submission is refused, or waits, and what is kept is limited."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.client import Client, Job, connect
from graphir.errors import JobCancelled, JobFailed, LimitError, QueueFull
from scheduler import local
from scheduler.job import line
from workers.recent import Recent

WAIT = 60.0


def descent() -> gi.Graph:
    x, w = gi.input("x", ("n", 3)), gi.input("w", (3,))
    loss = gi.mean((x @ w - 1.0) ** 2)
    return gi.Graph({"loss": loss, "next": w - 0.01 * gi.grad(loss, [w])[0]})


GRAPH = descent()


def submit(client: Client, rows: int = 10, number: float = 0.0, steps: int = 1, **options: Any) -> Job:
    feeds = {"x": np.full((rows, 3), number), "w": np.zeros(3)}
    return client.submit(GRAPH, feeds, carry={"w": "next"}, steps=steps, **options)


def test_too_many_waiting_jobs_are_refused_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_WAITING_JOBS", 3)
    with connect(workers=0) as client:
        blocker = submit(client, steps=10**6)
        next(blocker.events())  # it runs, and so does not wait
        waiting = [submit(client, number=k) for k in range(3)]
        known = {job.id for job in client.jobs()}
        with pytest.raises(QueueFull, match="3 jobs are waiting, the limit; submit again when"):
            submit(client)
        assert {job.id for job in client.jobs()} == known
        waiting[1].cancel()
        more = submit(client)
        with pytest.raises(LimitError):
            submit(client)
        blocker.cancel()
        for job in (waiting[0], waiting[2], more):
            job.result(WAIT)
        submit(client).result(WAIT)


def test_too_many_bytes_are_refused_and_equal_arrays_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    array = 10 * 3 * 8
    monkeypatch.setattr(line, "MAX_WAITING_BYTES", 2 * (array + 24))  # one waits with its own, one more comes
    with connect(workers=0) as client:
        blocker = submit(client, steps=10**6)
        next(blocker.events())
        huge = submit(client, rows=1000)  # alone in line
        with pytest.raises(QueueFull, match="bytes of arrays"):
            submit(client)
        huge.cancel()
        for _ in range(5):
            submit(client, number=1.0)
        with pytest.raises(QueueFull, match="264 bytes of arrays, 504 more are over the limit of 528"):
            submit(client, rows=20)
        blocker.cancel()


def test_a_job_ends_at_its_deadline_although_it_only_waits() -> None:
    with connect(workers=0) as client:
        blocker = submit(client, steps=10**6, priority=10)
        next(blocker.events())
        with pytest.raises(JobFailed, match="the deadline of 0.2 s passed while the job was queued"):
            submit(client, deadline=0.2).result(WAIT)
        assert blocker.status == "running"
        blocker.cancel()


def test_map_waits_for_its_own_jobs_when_the_line_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_WAITING_JOBS", 2)
    with connect(workers=0) as client:
        points = [{"x": np.ones((4, 3)), "w": np.full(3, 0.1 * k)} for k in range(12)]
        found = client.map(GRAPH, points, batched=False)
        assert len(found.jobs) == 12
        for out, point in zip(found, points, strict=True):
            np.testing.assert_allclose(out["next"], gi.evaluate(GRAPH, point)["next"], rtol=1e-13)


def test_jobs_left_by_another_service_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(workers=0, directory=tmp_path) as first:
        blocker = submit(first, steps=10**6, checkpoint_every=50)
        next(blocker.events())
        for _ in range(3):
            submit(first, priority=-1)
    monkeypatch.setattr(line, "MAX_WAITING_JOBS", 3)
    with connect(workers=0, directory=tmp_path) as second:
        with pytest.raises(QueueFull):
            submit(second)
        for job in second.jobs():
            job.cancel()


def test_events_come_in_pages_and_none_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_EVENTS", 7)
    steps = 400  # more than this process keeps of a journal in memory
    with connect(workers=0) as client:
        job = submit(client, steps=steps)
        job.result(WAIT)
        assert len(client.service.events(job.id)) == 7
        assert [e["step"] for e in job.events() if e["type"] == "step_done"] == list(range(steps))
        job.timeline(tmp_path / "trace.json")
        names = [event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
        assert names[-2:] == [f"step {steps - 1}", "finished"]
        assert [name for name in names if name.startswith("step ")] == [f"step {k}" for k in range(steps)]


@pytest.mark.parametrize("width", [3, 20_000])
def test_only_the_last_checkpoint_is_kept_and_none_of_a_job_that_has_ended(tmp_path: Path, width: int) -> None:
    w = gi.input("w", (width,))
    graph, feeds = gi.Graph({"next": w * 0.5 + 1.0}), {"w": np.zeros(width)}

    def kept() -> tuple[int, int]:
        """Values in the database and in files."""
        with sqlite3.connect(tmp_path / "jobs.sqlite") as database:
            (small,) = database.execute("select count(*) from small_values").fetchone()
        return small, sum(path.is_file() for path in (tmp_path / "blobs").rglob("*"))

    with connect(workers=0, directory=tmp_path) as first:
        job = first.submit(graph, feeds, carry={"w": "next"}, steps=10**6, checkpoint_every=1)
        for event in job.events():
            if event["type"] == "checkpointed" and event["step"] >= 20:
                break
    assert sum(kept()) == 3  # graph, feed and checkpoint
    with connect(workers=0, directory=tmp_path) as second:
        again = second.submit(graph, feeds, carry={"w": "next"}, steps=30, checkpoint_every=1)
        for event in second.job(job.id).events():
            if event["type"] == "resumed":
                break
        second.job(job.id).cancel()
        found = again.result(WAIT)["next"]
        with pytest.raises(JobCancelled):
            second.job(job.id).result(WAIT)
    assert sum(kept()) == 3  # graph, feed and the result of the other job
    np.testing.assert_allclose(found, 2.0 * (1 - 0.5**30))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=40))
def test_what_is_kept_is_bounded_by_number_and_weight(puts: list[tuple[int, int]]) -> None:
    recent: Recent[int, int] = Recent(4, 20, lambda weight: weight)
    latest: dict[int, int] = {}
    for key, weight in puts:
        recent.put(key, weight)
        latest.pop(key, None)
        latest[key] = weight
        kept = {key: value for key in range(7) if (value := recent._entries.get(key)) is not None}
        assert len(kept) <= 4
        assert sum(kept.values()) <= 20
        order = list(latest)[::-1]
        assert set(kept) == set(order[: len(kept)])  # the latest ones
        if len(kept) < min(4, len(order)):  # one more would not have fitted when something came last
            assert sum(latest[key] for key in order[: len(kept) + 1]) > 20 or len(puts) > len(order)
