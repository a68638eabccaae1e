"""The head process (GCS) of the Ray that the service has started is killed: Ray is started anew, and jobs go on."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import os, signal, time
import ray
from graphir.client import connect
from tests.test_faults import CARRIES, FEEDS, GRAPH

def submit(client, carry, steps=3000):
    options = {"chunk": {"n": 10}, "checkpoint_every": 50}
    return client.submit(GRAPH, FEEDS, carry=CARRIES[carry], steps=steps, **options)

def bits(job):
    return {name: value.tobytes() for name, value in job.result(120).items()}

def head():
    return ray._private.worker._global_node.all_processes["gcs_server"][0].process.pid

with connect(workers=0) as client:
    expected = {carry: bits(submit(client, carry)) for carry in CARRIES}
with connect(workers=2) as client:
    jobs = {carry: submit(client, carry) for carry in CARRIES}
    while not all(client.service.status(job.id)["step"] > 60 for job in jobs.values()):
        time.sleep(0.01)
    pool = client.service.pool
    before = pool.pids()
    os.kill(head(), signal.SIGKILL)
    assert {carry: bits(job) for carry, job in jobs.items()} == expected
    for job in jobs.values():
        kinds = [event["type"] for event in job.events()]
        assert "resumed" in kinds, kinds
        assert "worker_lost" not in kinds, kinds
        assert client.service.status(job.id)["workers"] == 2
    pool = client.service.pool
    assert not set(before) & set(pool.pids())
    os.kill(head(), signal.SIGKILL)  # while nobody needs it
    while client.service.pool is pool:
        time.sleep(0.1)
    assert bits(submit(client, "weights")) == expected["weights"]
    assert client.service.pool is not pool
    print("went on twice")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_head_is_started_anew_and_jobs_go_on_from_their_checkpoints() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=280)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-3000:]
    assert "went on twice" in said, said[-3000:]
