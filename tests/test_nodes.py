"""Several nodes: a raylet or a whole node with resident chunks is killed, and the result keeps its bits."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import os, signal, sys, time
import numpy as np
import ray
from ray.cluster_utils import Cluster
import graphir as gi
from graphir.client import connect
from tests.test_faults import CARRIES, FEEDS, GRAPH

how = sys.argv[1]
with connect(workers=0) as client:
    job = client.submit(GRAPH, FEEDS, carry=CARRIES["weights"], steps=8000, chunk={"n": 10})
    expected = {name: value.tobytes() for name, value in job.result(90).items()}
store = 100 * 2**20
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": store})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
with connect(workers=3) as client:
    client.submit(GRAPH, FEEDS, carry=CARRIES["weights"], steps=1, chunk={"n": 10}).result(90)
    pool = client.service.pool
    assert len(pool.members) == 3, len(pool.members)
    job = client.submit(GRAPH, FEEDS, carry=CARRIES["weights"], steps=8000, chunk={"n": 10}, checkpoint_every=100)
    while client.service.status(job.id)["step"] < 50:
        time.sleep(0.01)
    if how == "raylet":
        os.kill(nodes[1].all_processes["raylet"][0].process.pid, signal.SIGKILL)
    else:
        cluster.remove_node(nodes[1], allow_graceful=False)
    found = {name: value.tobytes() for name, value in job.result(150).items()}
    kinds = [event["type"] for event in job.events()]
    assert found == expected
    print("lost", kinds.count("worker_lost"), "members", len(pool.members))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["raylet", "node"])
def test_a_lost_node_does_not_change_the_bits(how: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_IGNORE_UNHANDLED_ERRORS": "1"}
    script = textwrap.dedent(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "-c", script, how],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=350)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-3000:]
    assert "lost 1" in said, said[-3000:]
