"""The process that runs jobs is killed and started again: it finds the job and goes on from the last checkpoint."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphir.client import connect
from scheduler.job.store import Store
from tests.test_faults import CARRIES, FEEDS, GRAPH

pytestmark = pytest.mark.usefixtures("local_ray")
ROOT = Path(__file__).resolve().parent.parent
WAIT = 90.0
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


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


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
    saved = max(event["step"] for event in events[:at] if event["type"] == "checkpointed")
    assert saved >= 50
    assert next(event["step"] for event in events[at:] if event["type"] == "step_done") == saved
