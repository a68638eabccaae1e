"""A soak: many jobs at a time, and every kind of fault at random moments; each result has the bits of an undisturbed run.

Ten minutes, or GRADFLEET_SOAK_SECONDS; the faults follow from GRADFLEET_SOAK_SEED. Prints what was done and what came of it.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, Job, connect
from graphir.errors import JobCancelled
from scheduler.driver import overseer
from scheduler.driver.ray import RayPool
from scheduler.local import EmbeddedService
from tests import test_fault_moments, test_faults, test_pool, test_sharing
from tests.faulty import Rules, disturb
from tests.jobs import bits

pytestmark = pytest.mark.usefixtures("local_ray")
SECONDS = float(os.environ.get("GRADFLEET_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("GRADFLEET_SOAK_SEED", "1"))
WAIT = 300.0
AT_ONCE = 5
"""Jobs in hand at one time: one more than the service runs."""
RETRIES = 1000

Bits = Mapping[str, bytes]


def kinds_of_jobs() -> dict[str, tuple[gi.Graph, Mapping[str, Any], dict[str, Any]]]:
    """Graph, feeds and options by name: carried weights and rows, large arrays between workers, one step of many chunks."""
    descent, product = (test_faults.GRAPH, test_faults.FEEDS), (test_pool.GRAPH, test_pool.FEEDS)
    newton = test_fault_moments.GRAPH, test_fault_moments.FEEDS
    ten = {"chunk": {"n": 10}}
    x = gi.input("x", ("n", 50))
    sums = gi.Graph({"s": gi.sum(gi.tanh(x * 2.0), axis=0)})
    rows = {"x": np.random.default_rng(8).normal(size=(4_000, 50))}
    return {
        "weights": (*descent, {**ten, "carry": {"w": "w2"}, "steps": 400, "checkpoint_every": 50}),
        "rows": (*descent, {**ten, "carry": {"w": "w2", "rows": "rows2"}, "steps": 400, "checkpoint_every": 50}),
        "no checkpoint": (*newton, {**ten, "carry": {"w": "w2", "rows": "rows2"}, "steps": 150}),
        "large": (*product, {**ten, "carry": {"w": "w2"}, "steps": 60, "checkpoint_every": 20}),
        "short": (*test_sharing.JOBS[3], {"carry": {"w": "next"}, "steps": 5}),
        "once": (sums, rows, {"chunk": {"n": 20}}),
    }


JOBS = kinds_of_jobs()


def submit(client: Client, kind: str) -> Job:
    graph, feeds, options = JOBS[kind]
    return client.submit(graph, feeds, retries=RETRIES, name=kind, fresh=True, **options)


class Soak:
    """The service, the jobs in hand, and what was done to them."""

    def __init__(self, directory: Path, rules: Rules, expected: Mapping[str, Bits]) -> None:
        self.directory, self.rules, self.expected = directory, rules, expected
        self.chance = random.Random(SEED)
        self.client = connect(workers=3, directory=directory)
        self.jobs: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.injected: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    @property
    def pool(self) -> RayPool | None:
        assert isinstance(self.client.service, EmbeddedService)
        pool = self.client.service.pool
        assert pool is None or isinstance(pool, RayPool)
        return pool

    # ---- faults ----

    def kill(self) -> bool:
        return self._signal(signal.SIGKILL, 1)

    def kill_all(self) -> bool:
        return self._signal(signal.SIGKILL, 10)

    def freeze(self) -> bool:
        return self._signal(signal.SIGSTOP, 1)

    def _signal(self, number: signal.Signals, how_many: int) -> bool:
        pids = self.pool.pids() if self.pool is not None else []
        for pid in self.chance.sample(pids, min(how_many, len(pids))):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return bool(pids)

    def raise_once(self) -> bool:
        self.rules.add(
            self.chance.choice(["map", "combine", "single"]), self.chance.choice(["OSError", "RuntimeError"])
        )
        return True

    def hold(self) -> bool:
        self.rules.add("map", "hold")
        return True

    def slow_down(self) -> bool:
        pids = self.pool.pids() if self.pool is not None else []
        if pids:
            self.rules.add("map", "0.3", times=100, pid=self.chance.choice(pids))
        return bool(pids)

    def resize(self) -> bool:
        if self.pool is not None:
            self.pool.resize(self.chance.randint(1, 4))
        return self.pool is not None

    def restart(self) -> bool:
        self.client.close()
        self.client = connect(workers=3, directory=self.directory)
        return True

    def cancel(self) -> bool:
        job = self.chance.choice(sorted(self.jobs))
        self.cancelled.add(job)
        self.client.job(job).cancel()
        return True

    # ---- jobs ----

    def top_up(self) -> None:
        while len(self.jobs) < AT_ONCE:
            kind = self.chance.choice(sorted(JOBS))
            self.jobs[submit(self.client, kind).id] = kind

    def reap(self, wait: float = 0.0) -> None:
        """Check what has ended."""
        for id, kind in list(self.jobs.items()):
            job = self.client.job(id)
            if not wait and job.status in ("queued", "running"):
                continue
            try:
                found = bits(job.result(wait or 60.0))
            except JobCancelled:
                assert id in self.cancelled
                self.finished["cancelled"] += 1
            else:
                assert found == self.expected[kind], f"job {id} ({kind}) has other bits"
                self.finished[kind] += 1
            self.told.update(event["type"] for event in job.events())
            del self.jobs[id]


FAULTS: dict[str, tuple[int, Callable[[Soak], bool]]] = {
    "kill a worker": (6, Soak.kill),
    "kill all workers": (1, Soak.kill_all),
    "stop a worker": (1, Soak.freeze),
    "an exception": (4, Soak.raise_once),
    "a kernel that hangs": (1, Soak.hold),
    "a slow worker": (1, Soak.slow_down),
    "another number of workers": (2, Soak.resize),
    "restart the service": (1, Soak.restart),
    "cancel a job": (1, Soak.cancel),
}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 2 * WAIT)
def test_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(overseer, "SLOW_SECONDS", 4.0)
    (tmp_path / "rules").mkdir()
    with connect(workers=0) as inline:
        expected = {kind: bits(submit(inline, kind).result(WAIT)) for kind in JOBS}
    soak = Soak(tmp_path / "jobs", disturb(tmp_path / "rules", monkeypatch), expected)
    names, weights = list(FAULTS), [weight for weight, _ in FAULTS.values()]
    begun = time.monotonic()
    try:
        while (elapsed := time.monotonic() - begun) < SECONDS:
            soak.top_up()
            time.sleep(soak.chance.uniform(0.1, 4.0))
            fault = soak.chance.choices(names, weights)[0]
            if FAULTS[fault][1](soak):
                soak.injected[fault] += 1
            soak.reap()
            soak.rules.tidy()
        soak.reap(WAIT)
        submit(soak.client, "short").result(WAIT)
    finally:
        soak.client.close()
        with capsys.disabled():
            print(f"\nsoak of {elapsed:.0f} s, seed {SEED}")
            for title, counts in (("injected", soak.injected), ("finished", soak.finished), ("told", soak.told)):
                print(f"  {title} ({counts.total()}): " + ", ".join(f"{k} {v}" for k, v in sorted(counts.items())))
    assert soak.injected.total() >= SECONDS / 20
    assert soak.finished.total() >= SECONDS / 30
    assert soak.told["worker_lost"] > 0
