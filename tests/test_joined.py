"""A service whose Ray is somebody else's, with token authentication as the manifests have it, or has lost its head."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

import graphir as gi
from tests import served as running
from tests.jobs import bits, under_way
from tests.served import ROOT, Served, family, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
X, W = gi.input("x", ("n", 3)), gi.input("w", (3,))
LOSS = gi.mean((X @ W) ** 2)
GRAPH = gi.Graph({"w_next": W - 1e-4 * gi.grad(LOSS, [W])[0]})
FEEDS = {"x": np.random.default_rng(0).normal(size=(60, 3)), "w": np.ones(3)}
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
print("at", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a Ray in processes of its own, which must outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=running.ENVIRONMENT, cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield next(line.split()[1] for line in process.stdout if line.startswith("at "))
        assert process.poll() is None
    finally:
        process.stdin.close()
        process.wait(60)


def head(served: Served) -> int:
    """The head process of the Ray that a service has started."""
    for pid in family(served.process.pid):
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0].endswith("gcs_server"):
                return pid
    raise AssertionError("the service has no Ray")


def submit(client: gi.Client) -> gi.Job:
    """An iterated job that takes some seconds."""
    options = {"chunk": {"n": 10}, "checkpoint_every": 50}
    return client.submit(GRAPH, FEEDS, carry={"w": "w_next"}, steps=3000, **options)


def test_jobs_run_on_a_closed_ray_which_outlives_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(running.ENVIRONMENT, "RAY_AUTH_MODE", "token")
    monkeypatch.setitem(running.ENVIRONMENT, "RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    x = gi.input("x", ("n",))
    graph = gi.Graph({"sum": gi.sum(x * x)})
    options = ("--workers", 2, "--memory", 2**30)
    with cluster() as address:
        for count in (100.0, 200.0):  # other work, which is not found as done before
            with serving(tmp_path / "kept", *options, "--ray-address", address) as served:
                with gi.connect(served.url) as client:
                    rows = np.arange(count)
                    assert client.submit(graph, {"x": rows}, chunk={"n": 10}).result(120)["sum"] == np.sum(rows**2)
                assert served.stop() == 0


def test_it_answers_while_ray_restarts(tmp_path: Path) -> None:
    with gi.connect(workers=0) as client:
        expected = bits(submit(client))
    with serving(tmp_path, "--workers", 2) as served, gi.connect(served.url) as client:
        before = submit(client)
        under_way(client, before, 61)
        first = head(served)
        os.kill(first, signal.SIGKILL)
        small = gi.Graph({"y": gi.sum(X @ W)})
        accepted = client.submit(small, {"x": FEEDS["x"], "w": FEEDS["w"]})  # while there is no head
        with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as http:
            while before.status in ("queued", "running"):
                assert http.get("/healthz").status_code == 200
                assert http.get(f"/v1/jobs/{accepted.id}").status_code == 200
                time.sleep(0.05)
        assert "resumed" in [event["type"] for event in before.events()]
        assert head(served) != first
        assert bits(before) == expected
        np.testing.assert_allclose(accepted.result(120)["y"], np.sum(FEEDS["x"] @ FEEDS["w"]), rtol=1e-12)
