"""Pools of workers that do not fit: other kernels, another version, fewer than asked for, none."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray
from ray.autoscaler.v2.sdk import get_cluster_status

import graphir as gi
from graphir.client import Client, Job, connect
from graphir.errors import JobFailed, VersionError
from scheduler.driver import ray as driver
from scheduler.driver.ray import RayPool
from tests.jobs import WAIT, pool_of, until
from workers.actor import GROUPS, Hello, Shell, Worker
from workers.fingerprint import fingerprint

pytestmark = pytest.mark.usefixtures("local_ray")
OTHER = {"OPENBLAS_CORETYPE": "Nehalem"}
needs_openblas = pytest.mark.skipif(
    not any("openblas" in name for name in fingerprint().blas), reason="needs OpenBLAS, which can be told its core"
)


class Cast:
    """Starts the given kinds of actors one after the other, the last one from then on."""

    def __init__(self, *actors: Any) -> None:
        self._actors, self.started = list(actors), 0

    def remote(self) -> Any:
        self.started += 1
        return self._actors[min(self.started, len(self._actors)) - 1].remote()


def with_environment(variables: dict[str, str]) -> Any:
    return Worker.options(runtime_env={"env_vars": variables})


class Newer(Shell):
    """A worker of a later version."""

    def hello(self) -> Hello:
        said = super().hello()
        return replace(said, kernels=replace(said.kernels, version="99.0", protocol=99))


class Stranger(Shell):
    """A worker that answers in a way that this version does not know."""

    def hello(self) -> Any:
        return {"pid": 1, "since": "2035"}


class Broken(Shell):
    """A worker that cannot even say who it is."""

    def hello(self) -> Any:
        raise ModuleNotFoundError("no module named 'workers.something'")


def actor(shell: type[Shell]) -> Any:
    return ray.remote(num_cpus=1, max_restarts=0, concurrency_groups=GROUPS)(shell)


def product() -> tuple[gi.Graph, dict[str, Any]]:
    x, w = gi.input("x", ("n", 300)), gi.input("w", (300, 300))
    rng = np.random.default_rng(3)
    return gi.Graph({"w2": gi.tanh(x.T @ (x @ w))}), {
        "x": rng.normal(size=(40, 300)),
        "w": rng.normal(size=(300, 300)) / 1e3,
    }


GRAPH, FEEDS = product()


def submit(client: Client, steps: int = 3, **options: Any) -> Job:
    return client.submit(GRAPH, FEEDS, carry={"w": "w2"}, steps=steps, chunk={"n": 10}, **options)


def has(pool: RayPool, workers: int) -> bool:
    pool.refresh()
    return len(pool.members) == workers


@pytest.fixture(scope="module")
def expected(local_ray: None) -> bytes:
    with connect(workers=0) as client:
        return bytes(submit(client).result(WAIT)["w2"].tobytes())


@pytest.fixture
def mixed(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(driver, "Worker", Cast(Worker, with_environment(OTHER), Worker))
    with connect(workers=2) as client:
        yield client


def demand() -> int:
    """For how many workers Ray's autoscaler sees a demand."""
    asked = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands.ray_task_actor_demand
    counted = [each for wanted in asked for each in wanted.bundles_by_count if each.bundle == {"CPU": 1.0}]
    return sum(each.count for each in counted)


@needs_openblas
def test_mixed_kernels_are_refused_where_bits_count(mixed: Client, expected: bytes) -> None:
    with pytest.raises(JobFailed, match=r"FingerprintError: .* 2 kinds of kernels, .*blas: .*reproducible=False"):
        submit(mixed).result(WAIT)
    job = submit(mixed, reproducible=False)
    found = job.result(WAIT)["w2"]
    np.testing.assert_allclose(found, np.frombuffer(expected).reshape(300, 300), rtol=1e-9)
    (assembled,) = [event for event in job.events() if event["type"] == "assembled"]
    assert len(assembled["fingerprint"].split("+")) == 2
    assert "Nehalem" in assembled["kernels"]


@needs_openblas
def test_a_job_keeps_to_the_kernels_that_it_began_with(
    local_ray: None, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with other kernels that joins later is not used by a job under way; a new job is refused."""
    with connect(workers=0) as inline:
        long = bytes(submit(inline, steps=2000).result(WAIT)["w2"].tobytes())
    with connect(workers=1) as client:
        job = submit(client, steps=2000)
        until(lambda: client.service.status(job.id)["step"] > 3)
        pool = pool_of(client)
        monkeypatch.setattr(driver, "Worker", with_environment(OTHER))
        pool.resize(2)
        until(lambda: has(pool, 2))
        assert job.status == "running"
        assert job.result(WAIT)["w2"].tobytes() == long
        assert {event["workers"] for event in job.events() if event["type"] == "assembled"} == {1}
        with pytest.raises(JobFailed, match="FingerprintError"):
            submit(client).result(WAIT)


@needs_openblas
def test_a_checkpoint_is_not_continued_with_other_kernels(
    tmp_path: Any, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(workers=1, directory=tmp_path) as first:
        job = submit(first, steps=100_000, checkpoint_every=2)
        other = submit(first, steps=100_000, checkpoint_every=2, reproducible=False)
        until(lambda: all(first.service.status(j.id)["step"] > 4 for j in (job, other)))
    monkeypatch.setattr(driver, "Worker", with_environment(OTHER))
    with connect(workers=1, directory=tmp_path) as second:
        with pytest.raises(JobFailed, match=r"FingerprintError: the job began on workers with kernels \w{16}"):
            second.job(job.id).result(WAIT)
        until(lambda: "resumed" in {event["type"] for event in second.service.events(other.id)})
        assert second.job(other.id).status == "running"
        second.job(other.id).cancel()


def test_the_fingerprint_is_kept_with_the_job(local_ray: None) -> None:
    for workers in (0, 2):
        with connect(workers=workers) as client:
            job = submit(client)
            job.result(WAIT)
            (assembled,) = [event for event in job.events() if event["type"] == "assembled"]
            assert assembled["fingerprint"] == fingerprint().digest
            assert client.service.status(job.id)["fingerprint"] == fingerprint().digest
            assert assembled["kernels"] == str(fingerprint())
            assert (assembled["workers"], assembled["asked"]) == (max(workers, 1), max(workers, 1))


@pytest.mark.parametrize(
    ("shell", "message"),
    [
        (Newer, r"runs gradfleet 99\.0 \(protocol 99\), the service .*; install one version on all"),
        (Stranger, "answers as no worker of gradfleet"),
        (Broken, "does not run gradfleet .* install it on all machines: .*workers.something"),
    ],
)
def test_workers_of_another_version_are_refused(
    shell: type[Shell], message: str, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "Worker", Cast(Worker, actor(shell)))
    with pytest.raises(VersionError, match=message):
        RayPool(2)


def test_a_worker_of_another_version_that_comes_later_is_left_out(
    local_ray: None, expected: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(workers=1) as client:
        submit(client, steps=1).result(WAIT)
        pool = pool_of(client)
        monkeypatch.setattr(driver, "Worker", actor(Newer))
        pool.resize(2)
        until(lambda: pool.refresh() is None and pool.refused is not None)
        assert submit(client).result(WAIT)["w2"].tobytes() == expected
        assert len(pool.members) == 1
        assert "99.0" in caplog.text


def test_fewer_workers_than_asked_for_run_the_job_and_it_is_said(
    local_ray: None, expected: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight workers on six CPUs; two stay asked for, which is the demand that an autoscaler sees."""
    monkeypatch.setattr(driver, "GRACE_SECONDS", 6.0)
    with connect(workers=8) as client:
        job = submit(client)
        assert job.result(WAIT)["w2"].tobytes() == expected
        status = client.service.status(job.id)
        assert (status["workers"], status["asked"]) == (6, 8)
        assert "6 of 8 workers have started" in caplog.text
        assert "6 CPU(s)" in caplog.text
        pool = pool_of(client)
        assert len(pool._joining) == 2
        until(lambda: demand() == 2)
        ray.kill(pool.members[0].actor)  # its CPU goes to one that waits
        again = submit(client)
        assert again.result(WAIT)["w2"].tobytes() == expected
        until(lambda: has(pool, 6))


def test_asking_for_fewer_takes_back_what_has_not_started(local_ray: None) -> None:
    with connect(workers=1) as client:
        submit(client, steps=1).result(WAIT)
        pool = pool_of(client)
        for workers in (20, 2):
            pool.resize(workers)
        until(lambda: has(pool, 2))
        until(lambda: demand() == 0)
        assert len(pool._joining) == 0


@pytest.mark.slow
def test_feeds_larger_than_the_object_store_are_spilled(local_ray: None) -> None:
    """Three feeds of 120 MB in a store of 200 MB, which is bounded: Ray moves some of it to the disk."""
    rows = 300_000
    names = ("a", "b", "c")
    a, b, c = (gi.input(name, ("n", 50)) for name in names)
    graph = gi.Graph({"s": gi.sum(a * b + c, axis=0)})
    rng = np.random.default_rng(2)
    feeds = {name: rng.normal(size=(rows, 50)) for name in names}
    with connect(workers=0) as inline:
        expected = inline.submit(graph, feeds).result(WAIT)["s"]
    with connect(workers=2) as client:
        assert client.submit(graph, feeds).result(WAIT)["s"].tobytes() == expected.tobytes()
