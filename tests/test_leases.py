"""Several runners on one database: each job has one, dead ones lose theirs, and who lost a job writes nothing to it any more."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

import graphir as gi
from graphir.client import Client, connect
from scheduler.driver.patience import patiently
from scheduler.driver.process import is_gone, this_process
from scheduler.job.events import CancelRequested, Finished, Resumed, SetAside, Started, StepDone
from scheduler.job.leases import Other, Runners, Vigil
from scheduler.job.spec import JobSpec
from scheduler.job.state import Status
from scheduler.job.store import Lease, LeaseLost, SeqConflict, Store
from scheduler.job.tables import DatabaseUnavailable
from scheduler.local import EmbeddedService

WAIT = 90.0
RESULT = "c" * 64


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def submitted(store: Store, now: float = 1.0, **fields: Any) -> str:
    return store.submit(JobSpec.model_validate({"graph": "a" * 64, **fields}), now)


def runner(store: Store, id: str) -> Runners:
    found = Runners(store, id, f"process of {id}")
    found.beat(1.0)
    return found


# ---- the leases ----


def test_a_job_has_one_runner(url: str, store: Store) -> None:
    a, b = runner(store, "a"), runner(store, "b")
    job, other = submitted(store), submitted(store, 2.0)
    assert store.to_run(a.id) == store.to_run(b.id) == [job, other]
    store.append(job, [Started(3.0, a.id)], lease=Lease(a.id, takes=True))
    assert store.to_run(a.id) == [job, other]
    assert store.to_run(b.id) == [other]
    with Store(url) as theirs:
        for happened in (Resumed(4.0, b.id), StepDone(4.0, 0, 1)):
            for takes in (True, False):
                with pytest.raises(LeaseLost, match=f"another runner has job {job}"):
                    theirs.append(job, [happened], lease=Lease(b.id, takes))
    assert len(store.events(job)) == 1
    store.append(job, [StepDone(5.0, 0, 1), Finished(6.0, 1, RESULT)], lease=Lease(a.id))
    assert store.to_run(a.id) == [other]
    with Store(url) as theirs:  # what ended is nobody's, and stays as it is
        late = theirs.append(job, [StepDone(7.0, 0, 1)], lease=Lease(b.id))
    assert (late.job.status, late.seq, late.commands) == (Status.SUCCEEDED, 3, ())


def test_who_writes_must_have_taken_the_job(store: Store) -> None:
    a = runner(store, "a")
    job = submitted(store)
    with pytest.raises(LeaseLost):
        store.append(job, [Started(2.0)], lease=Lease(a.id))
    assert store.job(job).seq == 0


def test_the_job_of_a_dead_runner_goes_on_elsewhere_and_only_there(url: str, store: Store) -> None:
    a, b = runner(store, "a"), runner(store, "b")
    job = submitted(store, steps=3)
    store.append(job, [Started(2.0, a.id), StepDone(3.0, 0, 1)], lease=Lease(a.id, takes=True))
    (seen,) = b.others()
    a.beat(3.0)
    assert not b.bury(seen)  # it has shown itself
    assert store.to_run(b.id) == []
    (seen,) = b.others()
    assert b.bury(seen)
    assert store.to_run(b.id) == [job]
    with Store(url) as theirs:
        taken = theirs.append(job, [Resumed(4.0, b.id)], lease=Lease(b.id, takes=True))
        assert (taken.job.attempt, taken.job.step) == (2, 0)
        a.beat(5.0)  # it was only slow, and is there again
        for happened in (StepDone(6.0, 1, 1), CancelRequested(6.0), Resumed(6.0)):
            with pytest.raises(LeaseLost):
                store.append(job, [happened], lease=Lease(a.id))
        theirs.append(job, [StepDone(7.0, 0, 2)], lease=Lease(b.id))
    assert [logged.event for logged in store.events(job, 2)] == [Resumed(4.0, b.id), StepDone(7.0, 0, 2)]


def test_a_runner_that_was_buried_alive_keeps_what_nobody_took(store: Store) -> None:
    a, b = runner(store, "a"), runner(store, "b")
    job = submitted(store)
    store.append(job, [Started(2.0)], lease=Lease(a.id, takes=True))
    assert b.bury(b.others()[0])
    a.beat(3.0)
    store.append(job, [StepDone(4.0, 0, 1)], lease=Lease(a.id))
    assert store.to_run(b.id) == []


def test_jobs_are_left_in_order(store: Store) -> None:
    a, b = runner(store, "a"), runner(store, "b")
    jobs = [submitted(store, float(k)) for k in range(2)]
    for job in jobs:
        store.append(job, [Started(2.0)], lease=Lease(a.id, takes=True))
    store.append(jobs[0], [SetAside(3.0, 1)], lease=Lease(a.id))
    assert store.to_run(b.id) == [jobs[0]]
    a.leave()
    assert store.to_run(b.id) == jobs
    assert b.others() == []


def test_runners_that_reach_for_the_same_jobs_get_each_once(url: str, store: Store) -> None:
    jobs = [submitted(store, float(k)) for k in range(20)]

    def take(k: int) -> list[str]:
        got = []
        with Store(url) as own:
            me = runner(own, f"runner {k}")
            while waiting := [job for job in own.to_run(me.id) if job not in got]:
                try:
                    own.append(waiting[0], [Started(2.0, me.id)], after=0, lease=Lease(me.id, takes=True))
                    got.append(waiting[0])
                except (LeaseLost, SeqConflict):
                    pass
        return got

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take, range(4)))
    assert sorted(job for each in taken for job in each) == jobs
    for k, each in enumerate(taken):
        assert all(store.job(job).job.runner == f"runner {k}" for job in each)


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.booleans(), st.booleans()), max_size=40))
def test_only_who_stands_still_for_a_lease_is_dead(looks: list[tuple[float, bool, bool]]) -> None:
    """Looks at one other runner: the time since the look before, whether it has shown itself, whether the database answered."""
    vigil, now, beat, still = Vigil(10.0, lambda process: False), 0.0, 0, None
    for after, beats, answered in looks:
        now, beat = now + after, beat + beats
        if beats:
            still = None
        if not answered:
            vigil.forget()
            still = None
            continue
        still = now if still is None else still
        dead = vigil.dead([Other("o", beat, "p")], now)
        assert bool(dead) == (now - still >= 10.0)


def test_whose_process_is_gone_is_dead_at_once() -> None:
    vigil = Vigil(10.0, lambda process: process == "gone")
    others = [Other("a", 1, "gone"), Other("b", 1, "here")]
    assert vigil.dead(others, 5.0) == others[:1]


def test_a_process_is_known_to_be_gone() -> None:
    told = "from scheduler.driver.process import this_process; print(this_process(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as other:
        assert other.stdout is not None
        process = other.stdout.readline().strip()
        assert not is_gone(process)
        other.kill()
        other.stdout.read()
        patience = iter(range(10_000))
        while not is_gone(process):  # also while nobody has asked for its exit code
            assert next(patience) < 9_999
    assert is_gone(process)
    where, pid, started = process.split()
    assert not is_gone(this_process())
    assert is_gone(f"{this_process().split()[0]} {pid} {started}")
    for unsure in ("", "elsewhere 1 2", f"other{where} {pid} {started}", f"{where} x {started}", f"{where} {pid}"):
        assert not is_gone(unsure)


# ---- a database that comes and goes ----


class Flaky(Store):
    """Some calls fail: before they did anything, or after it, when only the answer is lost."""

    calls = 0

    def append(self, *given: Any, **more: Any) -> Any:
        self.calls += 1
        if self.calls % 3 == 1:
            raise DatabaseUnavailable("it does not answer")
        done = super().append(*given, **more)
        if self.calls % 3 == 2:
            raise DatabaseUnavailable("the answer is lost")
        return done


def trained(client: Client, **options: Any) -> Any:
    x, w = gi.input("x", ("n", 3)), gi.input("w", (3,))
    loss = gi.mean((x @ w - 1.0) ** 2)
    (dw,) = gi.grad(loss, [w])
    feeds = {"x": np.random.default_rng(0).normal(size=(40, 3)), "w": np.zeros(3)}
    graph = gi.Graph({"loss": loss, "w_next": w - 0.1 * dw})
    return client.submit(graph, feeds, carry={"w": "w_next"}, steps=12, checkpoint_every=4, **options)


def bits(result: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: np.asarray(value).tobytes() for name, value in result.items()}


def test_reports_come_through_a_database_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(workers=0) as calm:
        job = trained(calm)
        expected, journal = job.result(WAIT), list(job.events())
    monkeypatch.setattr("scheduler.local.Store", Flaky)
    with connect(workers=0) as client:
        job = trained(client)
        found = job.result(WAIT)
        told = list(job.events())
        assert client.service.store.calls > len(told) // 2
    assert bits(found) == bits(expected)
    told, journal = (
        [event for event in events if event["type"] != "worked"] for events in (told, journal)
    )  # by the clock
    kinds = [(event["type"], event.get("step"), event.get("attempt")) for event in told]
    assert kinds == [(event["type"], event.get("step"), event.get("attempt")) for event in journal]


def test_patience_ends_when_somebody_wants_it() -> None:
    answers = iter([DatabaseUnavailable("no"), DatabaseUnavailable("no"), "yes"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(ask, lambda: False) == "yes"
    answers = iter([DatabaseUnavailable("no"), "yes"])
    with pytest.raises(DatabaseUnavailable):
        patiently(ask, lambda: True)


# ---- services that share a database ----


def test_services_share_jobs_and_one_that_only_accepts_never_runs_them(url: str, tmp_path: Path) -> None:
    accepting = EmbeddedService(directory=tmp_path, database=url, runs=False)
    client = Client(accepting)
    job, cancelled = trained(client), trained(client)
    cancelled.cancel()
    assert accepting.pool is None
    assert [job.status, cancelled.status] == ["queued", "cancelled"]
    running = EmbeddedService(directory=tmp_path, database=url, workers=0)
    try:
        found = job.result(WAIT)
        assert [event["type"] for event in job.events()][-1] == "finished"
        assert cancelled.status == "cancelled"
    finally:
        running.close()
        client.close()
    with connect(workers=0) as alone:
        expected = trained(alone).result(WAIT)
    assert bits(found) == bits(expected)


def test_a_clock_that_jumps_costs_nothing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days to and fro at each look at it, while two runners share the jobs and watch each other."""
    with connect(workers=0) as alone:
        expected = bits(trained(alone).result(WAIT))
    chance, now = random.Random(3), time.time
    monkeypatch.setattr(time, "time", lambda: now() + chance.uniform(-86400.0, 86400.0))
    with ExitStack() as stack:
        services = [EmbeddedService(directory=tmp_path, database=url, workers=0, lease=3.0) for _ in range(2)]
        clients = [stack.enter_context(Client(each)) for each in services]
        jobs = [trained(client, fresh=True) for _ in range(6) for client in clients]
        for job in jobs:
            assert bits(job.result(WAIT)) == expected
            assert [event["type"] for event in job.events()].count("finished") == 1


def test_a_damaged_job_does_not_keep_others_from_running(url: str, tmp_path: Path) -> None:
    accepting = EmbeddedService(directory=tmp_path, database=url, runs=False)
    client = Client(accepting)
    jobs = [trained(client, fresh=True) for _ in range(5)]
    with accepting.store.transaction(writes=True) as connection:
        connection.execute(text("UPDATE jobs SET state = '{}' WHERE id = :id"), {"id": jobs[2].id})
    running = EmbeddedService(directory=tmp_path, database=url, workers=0)
    try:
        for job in (*jobs[:2], *jobs[3:]):
            job.result(WAIT)
    finally:
        running.close()
        client.close()
