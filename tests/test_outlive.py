"""API, runners and PostgreSQL are killed at random while clients go on: no job is lost or doubled, and each has the bits of an
undisturbed one.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, connect
from scheduler.job.state import Status, replay
from scheduler.job.store import Store
from tests.postgres import Postgres
from tests.served import Served

WAIT = 170.0
LEASE = 2.0
KINDS = ("api", "runner", "postgres", "other runner")


def submit(client: Client, number: int) -> Any:
    """A job of one step, or one of many with checkpoints; a function of the number."""
    x, w = gi.input("x", ("n", 4)), gi.input("w", (4,))
    loss = gi.mean((x @ w - 1.0) ** 2)
    (dw,) = gi.grad(loss, [w])
    rng = np.random.default_rng(number)
    feeds = {"x": rng.normal(size=(64, 4)), "w": rng.normal(size=4)}
    if number % 3:
        return client.submit(gi.Graph({"loss": loss, "dw": dw}), feeds, chunk={"n": 16}, key=f"job {number}")
    graph = gi.Graph({"loss": loss, "w_next": w - 0.1 * dw})
    return client.submit(
        graph, feeds, carry={"w": "w_next"}, steps=60, checkpoint_every=10, chunk={"n": 16}, key=f"job {number}"
    )


def bits(result: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: np.asarray(value).tobytes() for name, value in result.items()}


@dataclass
class World:
    """A service in parts, each of which may be killed and started anew."""

    postgres: Postgres
    url: str
    api: Served
    runners: list[Served]
    kills: Counter[str] = field(default_factory=Counter)

    def kill(self, kind: str, pause: float) -> None:
        """SIGKILL, and after a while a new one in the same place."""
        part = {"api": self.api, "postgres": self.postgres}.get(kind, self.runners[kind != "runner"])
        part.kill()
        time.sleep(pause)
        part.start()
        self.kills[kind] += 1


@pytest.fixture
def world(postgres: Postgres, tmp_path: Path) -> Iterator[World]:
    url = postgres.fresh()
    shared = ("--database", url, "--lease", LEASE)
    with ExitStack() as stack:
        parts = []
        for role in ("api", "runner", "runner"):
            workers = () if role == "api" else ("--workers", 0)
            parts.append(Served(tmp_path, "--role", role, *shared, *workers))
            stack.callback(parts[-1].close)
        yield World(postgres, url, parts[0], parts[1:])


def jobs_through_kills(world: World, clients: int, jobs: int, rounds: int, longest: float) -> None:
    """Clients submit and await jobs, at least so many, until each part was killed so often."""
    numbers, taken, done = iter(range(10**6)), threading.Lock(), threading.Event()

    def enough() -> bool:
        return len(results) >= jobs and min(world.kills[kind] for kind in KINDS) >= rounds

    def work(_: int) -> None:
        with connect(world.api.url) as client:
            while not enough() and not done.is_set():
                with taken:
                    number = next(numbers)
                job = submit(client, number)
                results[number] = job.id, bits(job.result(WAIT))

    def disturb() -> None:
        chance = random.Random(7)
        while not done.is_set() and not enough():
            for kind in chance.sample(KINDS, len(KINDS)):
                if not done.wait(chance.uniform(0.1, longest)):
                    world.kill(kind, chance.uniform(0.0, longest / 2))

    results: dict[int, tuple[str, dict[str, bytes]]] = {}
    with ThreadPoolExecutor(clients + 1) as pool:
        trouble = pool.submit(disturb)
        work_done = [pool.submit(work, k) for k in range(clients)]
        try:
            for each in work_done:
                each.result()
        finally:
            done.set()
        trouble.result()
    with Store(world.url) as store:
        records = {record.id: record for record in store.records(store_ids(store))}
        assert len({id for id, _ in results.values()}) == len(results)
        assert records.keys() == {id for id, _ in results.values()}
        for record in records.values():
            journal = [logged.event for logged in store.events(record.id)]
            assert record.job.status is Status.SUCCEEDED
            assert Counter(type(event).__name__ for event in journal)["Finished"] == 1
            assert replay(record.spec, journal) == record.job
    with connect(workers=0) as alone:
        for number, (_, found) in results.items():
            assert found == bits(submit(alone, number).result(WAIT)), f"job {number}"


def store_ids(store: Store) -> list[str]:
    """All jobs that there are."""
    found: list[str] = []
    while page := store.jobs(1000, found[-1] if found else None):
        found += [record.id for record in page]
    return found


def test_jobs_outlive_their_service(world: World) -> None:
    jobs_through_kills(world, clients=4, jobs=24, rounds=1, longest=0.6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_jobs_outlive_their_service(world: World) -> None:
    jobs_through_kills(world, clients=32, jobs=1000, rounds=3, longest=6.0)


def until(job: Any, kind: str) -> None:
    """Wait for an event of this kind."""
    assert any(event["type"] == kind for event in job.events()), f"nothing was {kind}"


@pytest.mark.slow
def test_a_runner_that_stands_still_loses_its_job_to_another(world: World) -> None:
    """It lives, so nobody can know it is gone, but it does not show itself; when it goes on it must write nothing."""
    first, second = world.runners
    second.kill()
    x, w = gi.input("x", ("n",)), gi.input("w", ("n",))
    graph = gi.Graph({"w_next": gi.sin(w) + x, "sum": gi.sum(w)})
    feeds = {"x": np.linspace(0.0, 1.0, 50), "w": np.zeros(50)}
    with connect(world.api.url) as client:
        for steps in (1500, 6000, 24000):  # as many as it takes to stop the runner in the middle
            options: dict[str, Any] = {"carry": {"w": "w_next"}, "steps": steps, "checkpoint_every": 100}
            job = client.submit(graph, feeds, **options)
            until(job, "checkpointed")
            first.pause()
            if job.status == "running":
                break
            first.go_on()
        second.start()
        until(job, "resumed")
        first.go_on()
        found = bits(job.result(WAIT))
        told = list(job.events())
    runners = [event["runner"] for event in told if event["type"] in ("started", "resumed")]
    assert len(set(runners)) == 2
    assert told[-1]["type"] == "finished"
    resumed = [place for place, event in enumerate(told) if event["type"] == "resumed"]
    saved = max(event["step"] for event in told[: resumed[0]] if event["type"] == "checkpointed")
    assert next(event["step"] for event in told[resumed[0] :] if event["type"] == "step_done") == saved
    with connect(workers=0) as alone:
        assert found == bits(alone.submit(graph, feeds, **options).result(WAIT))
    assert first.stop() == 0
