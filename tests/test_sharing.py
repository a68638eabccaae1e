"""Several jobs on one pool: a short one does not wait for a long one, and none disturbs another's bits."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, connect
from graphir.errors import JobCancelled, JobFailed
from scheduler.driver.ray import RayPool
from scheduler.local import EmbeddedService

pytestmark = pytest.mark.usefixtures("local_ray")
WAIT = 90.0
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


def submit(client: Client, width: int, steps: int) -> Any:
    graph, feeds = JOBS[width]
    return client.submit(graph, feeds, carry={"w": "next"}, steps=steps)


def alone(width: int, steps: int) -> bytes:
    with connect(workers=0) as inline:
        return bytes(submit(inline, width, steps).result(WAIT)["next"].tobytes())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


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


def slow_graph() -> tuple[gi.Graph, dict[str, Any]]:
    """One step of more than a minute in 200 chunks of less than a second."""
    x = gi.input("x", ("n", 60))
    last, _ = gi.scan(lambda c, _: (gi.sin(c @ gi.constant(np.eye(60))), None), x, length=20_000)
    return gi.Graph({"s": gi.sum(last)}), {"x": RNG.normal(size=(8_000, 60))}


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
