"""Faults at a known moment: a worker is killed in a map, in a combine, between iterations; tasks fail once, or always."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

import graphir as gi
from graphir.client import Client, Job, connect
from graphir.errors import JobFailed, ServiceUnavailable
from scheduler.driver import session
from scheduler.driver.ray import Member, RayPool
from scheduler.job.values import Values
from tests.faulty import Rules, disturb
from tests.jobs import WAIT, bits, kinds, pool_of, until
from workers.mesh import SHARED_BYTES

pytestmark = pytest.mark.usefixtures("local_ray")
STEPS = 12


def descent() -> tuple[gi.Graph, dict[str, Any]]:
    """A map, a combine and a single step in each iteration; rows that live on the workers; a factorisation inside."""
    x, y, w = gi.input("x", ("n", 4)), gi.input("y", ("n",)), gi.input("w", (4,))
    rows = gi.input("rows", ("n",))
    error = x @ w - y
    loss = gi.mean(error**2) + 0.01 * gi.mean(rows * error)
    (dw,) = gi.grad(loss, [w])
    factor = gi.linalg.cholesky(x.T @ x)
    step = gi.linalg.solve(factor, dw)
    rng = np.random.default_rng(4)
    feeds = {"x": rng.normal(size=(160, 4)), "y": rng.normal(size=160), "w": np.zeros(4), "rows": np.zeros(160)}
    return gi.Graph({"loss": loss, "w2": w - 0.01 * step, "rows2": 0.9 * rows + error}), feeds


GRAPH, FEEDS = descent()
CARRIES = {"weights": {"w": "w2"}, "rows too": {"w": "w2", "rows": "rows2"}}


def submit(client: Client, carry: str = "weights", **options: Any) -> Job:
    options = {"steps": STEPS, "checkpoint_every": 4, **options}
    return client.submit(GRAPH, FEEDS, carry=CARRIES[carry], chunk={"n": 10}, **options)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, dict[str, bytes]]:
    with connect(workers=0) as client:
        return {carry: bits(submit(client, carry)) for carry in CARRIES}


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rules:
    (tmp_path / "rules").mkdir()
    return disturb(tmp_path / "rules", monkeypatch)


@pytest.fixture
def client(rules: Rules, local_ray: None) -> Iterator[Client]:
    with connect(workers=2) as connected:
        submit(connected, steps=1, checkpoint_every=None).result(WAIT)
        yield connected


def test_a_checkpoint_that_cannot_be_stored_at_once(
    client: Client, undisturbed: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is computed twice on the way: the work that was due before the fault is not done beside its repetition."""
    put, failed = Values.put, []

    def failing(self: Values, *arguments: Any) -> str:
        if threading.current_thread().name.startswith("gradfleet-runner") and len(failed) < 2:
            failed.append(1)
            raise ServiceUnavailable("the disk is full")
        return put(self, *arguments)

    monkeypatch.setattr(Values, "put", failing)
    job = submit(client)
    assert bits(job) == undisturbed["weights"]
    steps = [event["step"] for event in job.events() if event["type"] == "step_done"]
    assert steps == list(range(STEPS))
    assert kinds(job).count("task_failed") == 2


@pytest.mark.parametrize(("victim", "every"), [(0, 4), (1, None)])
def test_a_worker_killed_before_its_results_are_fetched(
    client: Client,
    undisturbed: dict[str, dict[str, bytes]],
    victim: int,
    every: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, outputs, killed = pool_of(client), session.RaySession.outputs, []

    def killing(self: session.RaySession) -> dict[str, Any]:
        if not killed:
            killed.append(pool.pids()[victim])
            os.kill(killed[0], signal.SIGKILL)
        return outputs(self)

    monkeypatch.setattr(session.RaySession, "outputs", killing)
    assert bits(submit(client, "rows too", checkpoint_every=every)) == undisturbed["rows too"]
    assert len(killed) == 1


@pytest.mark.parametrize("carry", CARRIES)
def test_another_worker_dies_while_one_is_replaced(
    client: Client, undisturbed: dict[str, dict[str, bytes]], carry: str, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, another, killed = pool_of(client), RayPool.another, []

    def killing(self: RayPool, dead: Member) -> Member | None:
        if len(killed) < 2:
            killed.append(next(member.pid for member in self.members if member.pid != dead.pid))
            os.kill(killed[-1], signal.SIGKILL)
        return another(self, dead)

    rule = rules.add("map", "hold", pid=pool.pids()[0])
    job = submit(client, carry)
    until(rules.held)
    monkeypatch.setattr(RayPool, "another", killing)
    os.kill(rules.held()[0], signal.SIGKILL)
    rule.unlink()
    assert bits(job) == undisturbed[carry]
    assert len(killed) == 2


class Putter:
    """Puts what it gets into the object store, where it is as long as this process lives."""

    def put(self, value: Any) -> list[Any]:
        return [ray.put(value)]


Owner = ray.remote(num_cpus=0)(Putter)


@pytest.mark.parametrize(
    ("when", "carry"), [("map", "weights"), ("map", "rows too"), ("combine", "rows too"), ("single", "rows too")]
)
def test_a_worker_killed_in_a_step(
    client: Client, rules: Rules, undisturbed: dict[str, dict[str, bytes]], when: str, carry: str
) -> None:
    victim = pool_of(client).pids()[0]  # the rank that performs single steps
    rule = rules.add(when, "hold", pid=victim)
    job = submit(client, carry)
    until(rules.held)
    assert rules.held() == [victim]
    os.kill(victim, signal.SIGKILL)
    rule.unlink()
    assert bits(job) == undisturbed[carry]
    assert kinds(job).count("worker_lost") == 1
    assert victim not in pool_of(client).pids()


@pytest.mark.parametrize(("victim", "carry"), [(0, "rows too"), (1, "weights")])
def test_a_worker_killed_between_iterations(
    client: Client,
    undisturbed: dict[str, dict[str, bytes]],
    carry: str,
    victim: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All workers are idle while the driver stores a checkpoint; then one of them is killed."""
    pool, advance, killed = pool_of(client), session.RaySession.advance, []

    def killing(self: session.RaySession, most: int) -> list[dict[str, float]]:
        if self._done == 8 and not killed:
            assert not self._calls.flying
            killed.append(pool.pids()[victim])
            os.kill(killed[0], signal.SIGKILL)
        return advance(self, most)

    monkeypatch.setattr(session.RaySession, "advance", killing)
    job = submit(client, carry)
    assert bits(job) == undisturbed[carry]
    assert len(killed) == 1
    assert kinds(job).count("worker_lost") == 1


@pytest.mark.parametrize(("when", "error"), [("map", "OSError"), ("combine", "RuntimeError"), ("kernel", "OSError")])
def test_an_exception_once_is_tried_again(
    client: Client, rules: Rules, undisturbed: dict[str, dict[str, bytes]], when: str, error: str
) -> None:
    before, rule = pool_of(client).pids(), rules.add(when, error)
    job = submit(client, "rows too")
    assert bits(job) == undisturbed["rows too"]
    failed = [event for event in job.events() if event["type"] == "task_failed"]
    assert [event["error"] for event in failed] == [error]
    assert rules.used(rule) == 1
    assert pool_of(client).pids() == before


def test_a_task_that_always_fails_fails_its_job_after_the_stated_retries(client: Client, rules: Rules) -> None:
    before, rule = pool_of(client).pids(), rules.add("kernel", "RuntimeError", times=100)
    job = submit(client, retries=2)
    with pytest.raises(
        JobFailed, match="failed 3 times in a row; the last time: RuntimeError: a test wants it"
    ) as caught:
        job.result(WAIT)
    failed = [event for event in job.events() if event["type"] == "task_failed"]
    assert len(failed) == rules.used(rule) == 3
    assert all(event["node"].startswith("cholesky(float64[4, 4]) -> float64[4, 4], ") for event in failed)
    assert all("test_fault_moments.py:" in event["node"] for event in failed)
    assert "in cholesky" in failed[0]["traceback"]
    assert failed[0]["node"] in str(caught.value)
    assert pool_of(client).pids() == before
    rule.unlink()
    assert submit(client, steps=1).result(WAIT)


def test_a_kernel_out_of_memory_says_which_and_spares_the_pool(
    client: Client, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    """The kernel of the operating system refuses the memory: the worker may not grow by more than 100 MB."""
    pids = pool_of(client).pids()
    x = gi.input("x", ("n", 4))
    graph = gi.Graph({"y": gi.exp(x @ gi.constant(np.full((4, 2_000_000), 1e-3)))})
    feeds = {"x": np.ones((64, 4))}  # 32 rows of 16 MB in a chunk
    for pid in pids:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + 250_000_000
        resource.prlimit(pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    job = client.submit(graph, feeds, chunk={"n": 32})
    with pytest.raises(
        JobFailed, match="not enough memory .* by the plan a worker holds at most .* of values"
    ) as caught:
        job.result(WAIT)
    (failed,) = [event for event in job.events() if event["type"] == "task_failed"]
    assert "test_fault_moments.py:" in failed["node"]
    assert failed["node"] in str(caught.value)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert bits(submit(client)) == undisturbed["weights"]
    assert pool_of(client).pids() == pids


def test_no_more_files_for_a_moment(client: Client, rules: Rules) -> None:
    """Shared memory cannot be made while a worker may open no more files; then the iteration is made again."""
    x, w = gi.input("x", ("n", 300)), gi.input("w", (300, 300))
    graph = gi.Graph({"w2": w * 0.5 + 1e-3 * gi.cos(x.T @ x)})
    feeds = {"x": np.random.default_rng(1).normal(size=(40, 300)), "w": np.zeros((300, 300))}
    assert feeds["w"].nbytes > SHARED_BYTES
    with connect(workers=0) as inline:
        expected = bits(inline.submit(graph, feeds, carry={"w": "w2"}, steps=300, chunk={"n": 10}))
    pid = pool_of(client).pids()[1]
    before, rule = resource.prlimit(pid, resource.RLIMIT_NOFILE), rules.add("map", "hold", pid=pid)
    job = client.submit(graph, feeds, carry={"w": "w2"}, steps=300, chunk={"n": 10}, retries=1000)
    until(rules.held)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    rule.unlink()
    until(lambda: any(event["type"] == "task_failed" for event in client.service.events(job.id)))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert bits(job) == expected
    assert pool_of(client).pids()[1] == pid


@pytest.mark.parametrize("carry", CARRIES)
def test_lost_objects_are_put_again(
    client: Client, undisturbed: dict[str, dict[str, bytes]], carry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two arrays that are put into the store are lost before anybody reads them: their owner dies."""
    put, lost = ray.put, []

    def losing(value: Any) -> Any:
        if isinstance(value, np.ndarray) and len(lost) < 2:
            owner = Owner.remote()
            lost.extend(ray.get(owner.put.remote(value)))
            ray.kill(owner)
            return lost[-1]
        return put(value)

    monkeypatch.setattr(session.ray, "put", losing)
    job = submit(client, carry)
    assert bits(job) == undisturbed[carry]
    assert len(lost) == 2
    assert "task_failed" in kinds(job)
