"""The process that runs jobs is killed and started again: it finds the job and goes on from the last checkpoint.

A job with which it is killed again and again, without a step being done, is given up; one that is merely closed often is not.
"""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, connect
from graphir.errors import JobCancelled, JobFailed
from scheduler.job import state
from scheduler.job.store import Store
from tests.jobs import WAIT, until
from tests.test_faults import CARRIES, FEEDS, GRAPH

pytestmark = pytest.mark.usefixtures("local_ray")
ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import sys
from graphir.client import connect
from tests.test_faults import CARRIES, FEEDS, GRAPH

with connect(workers=2, directory=sys.argv[1]) as client:
    carry = CARRIES["rows too"]
    job = client.submit(GRAPH, FEEDS, carry=carry, steps=1500, chunk={"n": 10}, checkpoint_every=50, name="long")
    while client.service.pool is None:
        pass
    print(*client.service.pool.pids(), flush=True)
    job.result()
"""


def gone(pid: int) -> bool:
    """Whether there is no such process, or only its remains."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_driver_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            workers = [int(pid) for pid in driver.stdout.readline().split()]
            assert len(workers) == 2
            with Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as store:
                (record,) = store.unfinished()
                until(lambda: store.job(record.id).job.checkpoint is not None, "no checkpoint came")
        finally:
            driver.send_signal(signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in workers), "workers outlive their driver")
    with connect(workers=2, directory=tmp_path) as client:
        job = client.job(record.id)
        found = {name: np.asarray(value).tobytes() for name, value in job.result(WAIT).items()}
        events = list(job.events())
    with connect(workers=0) as inline:
        whole = inline.submit(GRAPH, FEEDS, carry=CARRIES["rows too"], steps=1500, chunk={"n": 10})
        assert found == {name: np.asarray(value).tobytes() for name, value in whole.result(WAIT).items()}
    at = next(place for place, event in enumerate(events) if event["type"] == "resumed")
    assert events[at - 1]["type"] != "set_aside"
    saved = max(event["step"] for event in events[:at] if event["type"] == "checkpointed")
    assert saved >= 50
    assert next(event["step"] for event in events[at:] if event["type"] == "step_done") == saved


ENDLESS = """
import sys
from graphir.client import connect

with connect(workers=0, directory=sys.argv[1]) as client:
    print(*client.service.jobs(), flush=True)
    sys.stdin.read()
"""


def endless(directory: Path) -> str:
    """A job whose only step takes minutes, in little chunks; it has hardly begun."""
    x = gi.input("x", ("n",))
    many = gi.Graph({"s": gi.sum(gi.tanh(gi.expand_dims(x, 1) * gi.arange(100_000)))})
    with connect(workers=0, directory=directory) as client:
        return client.submit(many, {"x": np.ones(100_000)}, chunk={"n": 1}).id


def times(client: Client, id: str, *kinds: str) -> int:
    return sum(event["type"] in kinds for event in client.service.events(id))


def test_a_service_may_be_closed_any_number_of_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_RESTARTS", 1)
    id = endless(tmp_path)
    for _ in range(4):
        with Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as store:
            before = store.job(id).job.attempt  # which may have begun where it was submitted
            with connect(workers=0, directory=tmp_path):
                until(lambda s=store, n=before: s.job(id).job.attempt > n, "it is not taken up")
    with connect(workers=0, directory=tmp_path) as client:
        job = client.job(id)
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(WAIT)
        assert times(client, id, "set_aside") >= 4


def test_a_job_with_which_services_are_killed_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_RESTARTS", 1)
    id = endless(tmp_path)
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        with Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as store:
            before = store.job(id).job.attempt  # which may have begun where it was submitted
            with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, text=True) as driver:
                until(lambda s=store, n=before: s.job(id).job.attempt > n, "it is not taken up")
                driver.send_signal(signal.SIGKILL)
    with connect(workers=0, directory=tmp_path) as client, pytest.raises(JobFailed, match="without being closed"):
        client.job(id).result(WAIT)
