"""What hangs before anybody knows how long it should take, or where nobody looks after it: done elsewhere, with the same bits."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, Job, connect
from scheduler.driver import calls, overseer, quick, scout
from scheduler.pipeline import compile
from tests.faulty import Rules, disturb
from tests.jobs import bits, kinds, pool_of, under_way, until
from tests.test_fault_moments import CARRIES, FEEDS, GRAPH

pytestmark = pytest.mark.usefixtures("local_ray")
OPTIONS: dict[str, Any] = {"carry": CARRIES["rows too"], "steps": 40, "chunk": {"n": 10}, "retries": 0}
"""No retries: a straggler costs none."""
a = gi.input("a", ("n", "n"))
FACTOR = gi.Graph({"factor": gi.linalg.cholesky(a)})
SQUARE = np.diag(np.arange(1.0, 6.0)) + 0.25


def submit(client: Client, **options: Any) -> Job:
    return client.submit(GRAPH, FEEDS, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, bytes]:
    with connect(workers=0) as client:
        return bits(submit(client))


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rules:
    (tmp_path / "rules").mkdir()
    monkeypatch.setattr(overseer, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(overseer, "SLOW_SECONDS", 2.0)
    monkeypatch.setattr(overseer, "SPARE_SECONDS", 3.0)
    monkeypatch.setattr(scout, "FIRST_SECONDS", 1.0)
    return disturb(tmp_path / "rules", monkeypatch)


def connected(workers: int) -> Iterator[Client]:
    with connect(workers=workers) as client:
        client.submit(FACTOR, {"a": SQUARE}).result()
        until(lambda: len(pool_of(client).pids()) == workers)
        yield client


@pytest.fixture
def lone(rules: Rules, local_ray: None) -> Iterator[Client]:
    """One worker, which has started."""
    yield from connected(1)


@pytest.fixture
def pair(rules: Rules, local_ray: None) -> Iterator[Client]:
    yield from connected(2)


@pytest.mark.parametrize("when", ["map", pytest.param("single", marks=pytest.mark.slow)])
def test_the_very_first_run_of_a_job_on_one_worker_is_tried_elsewhere(
    lone: Client, rules: Rules, undisturbed: dict[str, bytes], when: str
) -> None:
    (pid,) = pool_of(lone).pids()
    rules.add(when, "hold", pid=pid)
    job = submit(lone)
    assert bits(job) == undisturbed
    assert kinds(job).count("straggled") == 1
    assert pid not in pool_of(lone).pids()


@pytest.mark.slow
def test_a_first_run_that_takes_as_long_elsewhere_is_waited_for(
    lone: Client, rules: Rules, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, send = list[int](), scout.Scouting.send
    monkeypatch.setattr(scout.Scouting, "send", lambda *given: sent.append(1) or send(*given))
    pids = pool_of(lone).pids()
    rules.add("kernel", "8.0", times=2)  # in the worker's first run, and in that of the other one
    job = submit(lone)
    assert bits(job) == undisturbed
    assert sent
    assert "straggled" not in kinds(job)
    assert pool_of(lone).pids() == pids


@pytest.mark.slow
def test_a_hanging_worker_is_noticed_when_its_job_has_to_make_way(
    pair: Client, rules: Rules, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call was cancelled, so it is not watched like those that run."""
    monkeypatch.setattr(calls, "LONG_SECONDS", 0.5)
    pids, first = pool_of(pair).pids(), submit(pair, steps=400)
    under_way(pair, first, 30)
    rules.add("map", "hold", pid=pids[1])
    until(lambda: pids[1] in rules.held())
    second = submit(pair, retries=3)
    assert bits(second) == undisturbed
    with connect(workers=0) as inline:
        assert bits(first) == bits(submit(inline, steps=400))
    assert kinds(first).count("straggled") == 1
    assert "worker_lost" not in kinds(first)
    assert pids[1] not in pool_of(pair).pids()


@pytest.mark.slow
def test_a_worker_hangs_while_the_end_of_another_one_is_dealt_with(
    pair: Client, rules: Rules, undisturbed: dict[str, bytes]
) -> None:
    pids, job = pool_of(pair).pids(), submit(pair, retries=3, steps=400, checkpoint_every=10)
    under_way(pair, job, 30)
    rules.add("map", "hold", pid=pids[1])
    until(lambda: pids[1] in rules.held())
    os.kill(pids[0], signal.SIGKILL)
    with connect(workers=0) as inline:
        assert bits(job) == bits(submit(inline, steps=400))
    assert not set(pids) & set(pool_of(pair).pids())


@pytest.mark.slow  # what does not answer is waited for as long as in life, since here others are at work too
def test_a_worker_that_is_stopped_before_it_is_set_up_is_replaced(pair: Client, undisturbed: dict[str, bytes]) -> None:
    pids = pool_of(pair).pids()
    os.kill(pids[1], signal.SIGSTOP)
    job = submit(pair, retries=3)
    assert bits(job) == undisturbed
    assert "worker_lost" in kinds(job)
    assert pids[1] not in pool_of(pair).pids()


def test_values_are_asked_for_after_the_job_is_set_up(
    pair: Client, rules: Rules, undisturbed: dict[str, bytes]
) -> None:
    """A worker answers to that while it is busy with another job, behind whose call the set-up waits."""
    rule = rules.add("map", "hold", times=2)
    other = submit(pair)
    until(lambda: len(rules.held()) == 2)
    plan = compile(GRAPH, {"n": 160}, chunk={"n": 10})
    feeds = {name: value for name, value in FEEDS.items() if name not in OPTIONS["carry"]}
    session = pool_of(pair).open(plan, feeds, OPTIONS["carry"], ["loss"])
    session.restore({name: FEEDS[name] for name in OPTIONS["carry"]}, 0)
    with ThreadPoolExecutor(1) as threads:
        carried = threads.submit(session.carried)
        time.sleep(0.5)  # in which it would have failed
        rule.unlink()
        assert bits(carried.result()) == bits({name: FEEDS[name] for name in OPTIONS["carry"]})
    session.release()
    assert bits(other) == undisturbed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_short_job_that_hangs_is_done_by_another_worker_too(
    rules: Rules, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Whoever has the result first gives it; the one that hangs is ended when it is in the way."""
    monkeypatch.setattr(quick, "HANG_SECONDS", 1.0)
    for client in connected(workers):
        pids = pool_of(client).pids()
        held = [rules.add("kernel", "hold", pid=pid) for pid in pids[:1]]
        jobs = [client.submit(FACTOR, {"a": SQUARE}, retries=0) for _ in range(2)]
        for job in jobs:
            np.testing.assert_allclose(job.result()["factor"], np.linalg.cholesky(SQUARE), rtol=1e-14)
        assert sum(map(rules.used, held)) == 1
        assert sum(kinds(job).count("straggled") for job in jobs) >= 1
