"""Several jobs on one pool: a short one does not wait for a long one, and none disturbs another's bits."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, connect
from graphir.errors import GraphError, JobCancelled, JobFailed
from scheduler.driver import calls
from scheduler.driver.ray import RayPool
from scheduler.job import line
from scheduler.limits import AT_ONCE
from scheduler.local import EmbeddedService
from tests.jobs import WAIT, until

pytestmark = pytest.mark.usefixtures("local_ray")
RNG = np.random.default_rng(9)
LONG = 2_000


def descent(width: int) -> tuple[gi.Graph, dict[str, Any]]:
    """Least squares by gradient descent; another graph for each width."""
    x, y, w = gi.input("x", ("n", width)), gi.input("y", ("n",)), gi.input("w", (width,))
    loss = gi.mean((x @ w - y) ** 2)
    (dw,) = gi.grad(loss, [w])
    feeds = {"x": RNG.normal(size=(200, width)), "y": RNG.normal(size=200), "w": np.zeros(width)}
    return gi.Graph({"loss": loss, "next": w - 0.01 * dw}), feeds


JOBS = {width: descent(width) for width in (2, 3, 5)}


def submit(client: Client, width: int, steps: int, **options: Any) -> Any:
    graph, feeds = JOBS[width]
    return client.submit(graph, feeds, carry={"w": "next"}, steps=steps, **options)


def alone(width: int, steps: int) -> bytes:
    with connect(workers=0) as inline:
        return bytes(submit(inline, width, steps).result(WAIT)["next"].tobytes())


@pytest.fixture
def client(local_ray: None) -> Iterator[Client]:
    with connect(workers=2) as connected:
        yield connected


def test_a_short_job_ends_while_a_long_one_runs(client: Client) -> None:
    long = submit(client, 2, LONG)
    until(lambda: client.service.status(long.id)["step"] > 3)
    short = submit(client, 3, 5)
    assert short.result(WAIT)["next"].tobytes() == alone(3, 5)
    assert client.service.status(long.id)["status"] == "running"
    long.cancel()
    with pytest.raises(JobCancelled):
        long.result(WAIT)


def test_jobs_that_share_a_killed_worker_have_the_bits_of_each_alone(client: Client) -> None:
    steps = 150
    jobs = {width: submit(client, width, steps) for width in JOBS}
    until(lambda: all(client.service.status(job.id)["step"] > 3 for job in jobs.values()))
    assert isinstance(client.service, EmbeddedService)
    assert isinstance(client.service.pool, RayPool)
    before = client.service.pool.pids()
    os.kill(before[1], signal.SIGKILL)
    found = {width: job.result(WAIT)["next"].tobytes() for width, job in jobs.items()}
    assert found == {width: alone(width, steps) for width in JOBS}
    after = client.service.pool.pids()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_more_jobs_than_run_at_once_all_end(client: Client) -> None:
    jobs = [(width, submit(client, width, 4)) for width in (2, 3, 5) * 4]
    expected = {width: alone(width, 4) for width in JOBS}
    for width, job in jobs:
        assert job.result(WAIT)["next"].tobytes() == expected[width]


def status(client: Client, job: Any) -> str:
    return str(client.service.status(job.id)["status"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_small_job_does_not_wait_for_the_end_of_as_many_long_ones_as_run(
    local_ray: None, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(line, "SLICE_SECONDS", 0.5)
    with connect(workers=workers) as client:
        long = [submit(client, 2, 10**6) for _ in range(AT_ONCE)]
        until(lambda: any(client.service.status(job.id)["step"] > 3 for job in long))
        assert submit(client, 3, 5).result(WAIT)["next"].tobytes() == alone(3, 5)
        assert not any(status(client, job) == "succeeded" for job in long)
        for job in long:
            job.cancel()


def test_jobs_that_take_turns_lose_no_step_and_no_bit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "SLICE_SECONDS", 0.25)
    steps = 500
    jobs = [(width, submit(client, width, steps)) for width in (2, 3, 5, 2, 3)]
    found = [job.result(WAIT)["next"].tobytes() for _, job in jobs]
    expected = {width: alone(width, steps) for width in JOBS}
    assert found == [expected[width] for width, _ in jobs]
    events = [list(job.events()) for _, job in jobs]
    assert any(event["type"] == "resumed" for each in events for event in each)
    for each in events:  # no step was done twice: what a job had done was safe when it gave its place up
        assert [event["step"] for event in each if event["type"] == "step_done"] == list(range(steps))


def test_a_job_of_higher_priority_ends_before_an_earlier_one(client: Client) -> None:
    low = submit(client, 2, 2000)
    until(lambda: client.service.status(low.id)["step"] > 3)
    high = submit(client, 3, 600, priority=3)
    high.result(WAIT)
    assert status(client, low) == "running"
    assert low.result(WAIT)["next"].tobytes() == alone(2, 2000)


def test_of_jobs_that_wait_the_one_of_the_highest_priority_begins() -> None:
    with connect(workers=0) as client:
        blocker = submit(client, 2, 10**6)
        jobs = [(priority, submit(client, 3, 1, priority=priority)) for priority in (0, -1, 2, 1, 2)]
        blocker.cancel()
        for _, job in jobs:
            job.result(WAIT)
        begun = {job.id: next(job.events())["time"] for _, job in jobs}
        order = sorted(jobs, key=lambda item: begun[item[1].id])
        assert [priority for priority, _ in order] == [2, 2, 1, 0, -1]


@pytest.mark.parametrize("priority", [11, -11, 1.5, True])
def test_impossible_priorities_are_refused(priority: Any) -> None:
    with connect(workers=0) as client, pytest.raises(GraphError, match="priority"):
        submit(client, 2, 1, priority=priority)


def slow_graph(length: int = 20_000) -> tuple[gi.Graph, dict[str, Any]]:
    """One step of more than a minute, or less, in 200 chunks of less than a second."""
    x = gi.input("x", ("n", 60))
    last, _ = gi.scan(lambda c, _: (gi.sin(c @ gi.constant(np.eye(60))), None), x, length=length)
    return gi.Graph({"s": gi.sum(last)}), {"x": RNG.normal(size=(8_000, 60))}


def test_a_small_job_passes_a_step_that_takes_long_and_that_is_done_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LONG_SECONDS", 0.5)
    graph, feeds = slow_graph(500)
    with connect(workers=0) as inline:
        expected = inline.submit(graph, feeds, chunk={"n": 40}).result(WAIT)["s"].tobytes()
    submit(client, 3, 1).result(WAIT)
    huge = client.submit(graph, feeds, chunk={"n": 40})
    until(lambda: status(client, huge) == "running")
    small = submit(client, 3, 8)
    tiny = client.submit(JOBS[5][0], JOBS[5][1])  # of one step, which goes its own way
    assert small.result(WAIT)["next"].tobytes() == alone(3, 8)
    assert tiny.result(WAIT)["next"].tobytes() == alone(5, 1)
    assert status(client, huge) == "running"
    assert huge.result(WAIT)["s"].tobytes() == expected


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_step_under_way_is_stopped_between_chunks_and_frees_its_workers(client: Client, how: str) -> None:
    graph, feeds = slow_graph()
    options: dict[str, Any] = {"deadline": 2.0} if how == "deadline" else {}
    job = client.submit(graph, feeds, chunk={"n": 40}, **options)
    until(lambda: client.service.status(job.id)["status"] == "running")
    if how == "cancel":
        job.cancel()
    with pytest.raises((JobCancelled, JobFailed)):
        job.result(WAIT)
    assert submit(client, 3, 5).result(25.0)["next"].tobytes() == alone(3, 5)  # the workers are free again
    assert client.service.status(job.id)["step"] == 0


def test_closing_does_not_wait_for_a_long_step_and_the_job_goes_on_later(tmp_path: Any, local_ray: None) -> None:
    graph, feeds = slow_graph()
    with connect(workers=2, directory=tmp_path) as first:
        job = first.submit(graph, feeds, chunk={"n": 40})
        until(lambda: first.service.status(job.id)["status"] == "running")
    with connect(workers=0, directory=tmp_path) as second:
        assert second.service.status(job.id)["status"] in ("queued", "running")
        second.service.cancel(job.id)
