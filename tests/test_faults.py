"""Workers that hang, join, leave, and die in numbers: the result has the bits of an undisturbed run."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

import graphir as gi
from graphir.client import Client, Job, connect
from graphir.errors import JobFailed, ServiceUnavailable
from scheduler.driver import ray as driver
from scheduler.driver.ray import RayPool
from tests.jobs import WAIT, bits, pool_of, until

pytestmark = pytest.mark.usefixtures("local_ray")
STEPS = 4_000


def descent() -> tuple[gi.Graph, dict[str, Any]]:
    """Least squares with a momentum for each row, so that chunks of carried values live on the workers."""
    x, y, w = gi.input("x", ("n", 4)), gi.input("y", ("n",)), gi.input("w", (4,))
    rows = gi.input("rows", ("n",))
    error = x @ w - y
    loss = gi.mean(error**2) + 0.01 * gi.mean(rows * error)
    (dw,) = gi.grad(loss, [w])
    rng = np.random.default_rng(4)
    feeds = {"x": rng.normal(size=(160, 4)), "y": rng.normal(size=160), "w": np.zeros(4), "rows": np.zeros(160)}
    return gi.Graph({"loss": loss, "w2": w - 0.01 * dw, "rows2": 0.9 * rows + error}), feeds


GRAPH, FEEDS = descent()
CARRIES = {"weights": {"w": "w2"}, "rows too": {"w": "w2", "rows": "rows2"}}


def submit(client: Client, carry: str, steps: int = STEPS, **options: Any) -> Job:
    return client.submit(GRAPH, FEEDS, carry=CARRIES[carry], steps=steps, chunk={"n": 10}, **options)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, dict[str, bytes]]:
    with connect(workers=0) as client:
        return {carry: bits(submit(client, carry)) for carry in CARRIES}


@pytest.fixture
def client(local_ray: None) -> Iterator[Client]:
    with connect(workers=2) as connected:
        submit(connected, "weights", 1).result(WAIT)
        yield connected


def has(pool: RayPool, workers: int) -> bool:
    """Whether so many workers have joined; a job that runs takes them in itself."""
    pool.refresh()
    return len(pool.members) == workers


def sleep(seconds: float) -> None:
    """Hold the CPUs that were asked for."""
    time.sleep(seconds)


def step(client: Client, job: Job) -> int:
    return int(client.service.status(job.id)["step"])


@pytest.mark.parametrize(
    ("victim", "carry"),
    [
        (0, "weights"),
        (1, "rows too"),
        pytest.param(0, "rows too", marks=pytest.mark.slow),
        pytest.param(1, "weights", marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker(client: Client, undisturbed: dict[str, dict[str, bytes]], carry: str, victim: int) -> None:
    job = submit(client, carry, checkpoint_every=200)
    until(lambda: step(client, job) > 250)
    os.kill(pool_of(client).pids()[victim], signal.SIGKILL)
    assert bits(job) == undisturbed[carry]
    assert "worker_lost" in {event["type"] for event in job.events()}


@pytest.mark.parametrize("carry", [pytest.param("weights", marks=pytest.mark.slow), "rows too"])
def test_all_workers_killed_at_once(client: Client, undisturbed: dict[str, dict[str, bytes]], carry: str) -> None:
    job = submit(client, carry, checkpoint_every=200)
    until(lambda: step(client, job) > 250)
    for pid in pool_of(client).pids():
        os.kill(pid, signal.SIGKILL)
    assert bits(job) == undisturbed[carry]


def test_a_worker_that_hangs_is_replaced(client: Client, undisturbed: dict[str, dict[str, bytes]]) -> None:
    job = submit(client, "weights")
    until(lambda: step(client, job) > 3)
    os.kill(pool_of(client).pids()[1], signal.SIGSTOP)
    assert bits(job) == undisturbed["weights"]
    assert "worker_lost" in {event["type"] for event in job.events()}


@pytest.mark.slow
def test_a_small_job_does_not_wait_for_ever_on_a_worker_that_hangs(client: Client) -> None:
    x = gi.input("x", (3,))
    graph = gi.Graph({"y": x * 2.0})
    assert client.submit(graph, {"x": np.ones(3)}).result(WAIT)["y"].tolist() == [2.0, 2.0, 2.0]
    for pid in pool_of(client).pids():
        os.kill(pid, signal.SIGSTOP)
    job = client.submit(graph, {"x": np.full(3, 2.0)})
    assert job.result(WAIT)["y"].tolist() == [4.0, 4.0, 4.0]
    assert "worker_lost" in {event["type"] for event in job.events()}


@pytest.mark.parametrize("carry", [pytest.param("weights", marks=pytest.mark.slow), "rows too"])
def test_workers_join_and_leave_while_a_job_runs(
    client: Client, undisturbed: dict[str, dict[str, bytes]], carry: str
) -> None:
    pool = pool_of(client)
    job = submit(client, carry, checkpoint_every=100)
    for workers in (4, 1, 3):
        before = step(client, job)
        pool.resize(workers)
        until(lambda w=workers: has(pool, w))  # type: ignore[misc]
        until(lambda b=before: step(client, job) > b + 50 or job.status != "running")  # type: ignore[misc]
    assert bits(job) == undisturbed[carry]
    assert len(set(pool.pids())) == 3


def test_a_worker_that_cannot_be_replaced_at_once_is_done_without(
    client: Client, undisturbed: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "GRACE_SECONDS", 1.0)
    pool, free = pool_of(client), ray.available_resources().get("CPU", 0.0)
    job = submit(client, "weights")
    until(lambda: step(client, job) > 3)
    busy = ray.remote(num_cpus=free + 1)(sleep).remote(20.0)  # takes the CPU that the dead one leaves
    time.sleep(0.5)
    os.kill(pool.pids()[1], signal.SIGKILL)
    assert bits(job) == undisturbed["weights"]
    ray.cancel(busy, force=True)


def test_no_worker_at_all_is_said(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "START_SECONDS", 1.0)
    blocker = ray.remote(num_cpus=6)(sleep).remote(30.0)
    time.sleep(0.5)
    with pytest.raises(ServiceUnavailable, match="no worker started"):
        RayPool(1)
    ray.cancel(blocker, force=True)


def test_a_task_that_always_fails_fails_its_job_after_the_stated_retries(client: Client) -> None:
    x = gi.input("x", ("n", 4))
    graph = gi.Graph({"y": gi.reshape(x, ("n", 4)) + gi.linalg.inv(gi.sum(x) * gi.constant(np.zeros((4, 4))))[0]})
    with pytest.raises(JobFailed, match="SingularMatrixError"):
        client.submit(graph, {"x": np.ones((8, 4))}, chunk={"n": 2}, retries=2).result(WAIT)
    assert submit(client, "weights", 3).result(WAIT)
