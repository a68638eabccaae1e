"""A worker that lives but is far slower than the others, or hangs in a kernel: its work is done again elsewhere."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphir.client import Client, Job, connect
from graphir.errors import JobCancelled
from scheduler.driver import overseer
from scheduler.driver import ray as driver
from scheduler.driver.ray import RayPool
from tests.faulty import Rules, disturb
from tests.jobs import WAIT, bits, kinds, pool_of, under_way
from tests.test_fault_moments import CARRIES, FEEDS, GRAPH

pytestmark = pytest.mark.usefixtures("local_ray")
STEPS = 500


def submit(client: Client, carry: str, **options: Any) -> Job:
    """No retries: a straggler costs none."""
    return client.submit(
        GRAPH, FEEDS, carry=CARRIES[carry], **{"steps": STEPS, "chunk": {"n": 10}, "retries": 0, **options}
    )


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, dict[str, bytes]]:
    with connect(workers=0) as client:
        return {carry: bits(submit(client, carry)) for carry in CARRIES}


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rules:
    (tmp_path / "rules").mkdir()
    monkeypatch.setattr(overseer, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(overseer, "SLOW_SECONDS", 2.0)
    return disturb(tmp_path / "rules", monkeypatch)


@pytest.fixture
def client(rules: Rules, local_ray: None) -> Iterator[Client]:
    with connect(workers=2) as connected:
        submit(connected, "weights", steps=1).result(WAIT)
        yield connected


@pytest.mark.parametrize(
    ("carry", "when", "what"),
    [
        ("rows too", "map", "hold"),
        pytest.param("weights", "map", "0.5", marks=pytest.mark.slow),
        pytest.param("rows too", "combine", "0.5", marks=pytest.mark.slow),
    ],
)
def test_the_work_of_a_slow_worker_is_done_again_elsewhere(
    client: Client, rules: Rules, undisturbed: dict[str, dict[str, bytes]], carry: str, when: str, what: str
) -> None:
    """It hangs for ever in a chunk, or takes half a second for what takes the other half a millisecond."""
    pids, job = pool_of(client).pids(), submit(client, carry)
    under_way(client, job, 30)
    rules.add(when, what, times=10_000, pid=pids[1])
    assert bits(job) == undisturbed[carry]
    assert kinds(job).count("straggled") == 1
    assert "worker_lost" not in kinds(job)
    assert client.service.status(job.id)["step"] == STEPS
    after = pool_of(client).pids()
    assert after[0] == pids[0]
    assert after[1] != pids[1]


@pytest.mark.slow
def test_a_slow_worker_that_gets_back_to_its_pace_before_the_other_is_there_has_won(
    client: Client, rules: Rules, undisturbed: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, job, spare, asked = pool_of(client).pids(), submit(client, "rows too"), RayPool.spare, []
    under_way(client, job, 30)
    rule = rules.add("map", "hold", pid=pids[1])

    def late(self: RayPool) -> Any:
        asked.append(1)
        rule.unlink()
        time.sleep(1.0)
        return spare(self)

    monkeypatch.setattr(RayPool, "spare", late)
    assert bits(job) == undisturbed["rows too"]
    assert asked == [1]
    assert "straggled" not in kinds(job)
    assert pool_of(client).pids() == pids


@pytest.mark.slow
def test_where_no_other_worker_can_start_the_slow_one_makes_room(
    rules: Rules, undisturbed: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overseer, "SPARE_SECONDS", 2.0)
    with connect(workers=6) as client:  # as many as there are CPUs
        submit(client, "rows too", steps=1).result(WAIT)
        pids, job = pool_of(client).pids(), submit(client, "rows too")
        under_way(client, job, 30)
        rules.add("map", "hold", pid=pids[3])
        assert bits(job) == undisturbed["rows too"]
        assert kinds(job).count("straggled") == 1
        assert pids[3] not in pool_of(client).pids()
        assert not os.path.exists(f"/proc/{pids[3]}/fd/0")


def test_the_only_worker_of_a_job_is_judged_by_what_it_took_before(
    rules: Rules, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    with connect(workers=1) as client:
        job = submit(client, "rows too")
        under_way(client, job, 30)
        (pid,) = pool_of(client).pids()
        rules.add("map", "hold", pid=pid)
        assert bits(job) == undisturbed["rows too"]
        assert kinds(job).count("straggled") == 1
        assert pid not in pool_of(client).pids()


def test_a_step_that_is_heavy_for_all_is_waited_for(client: Client, rules: Rules) -> None:
    """Nothing says that it should be faster."""
    pids = pool_of(client).pids()
    rules.add("map", "6.0", times=2)
    job = submit(client, "weights", steps=3)
    job.result(WAIT)
    assert "straggled" not in kinds(job)
    assert pool_of(client).pids() == pids


def test_a_kernel_that_hangs_in_a_cancelled_job_does_not_keep_its_workers_for_ever(
    client: Client, rules: Rules, undisturbed: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "ABANDON_SECONDS", 2.0)
    before = pool_of(client).pids()
    rules.add("map", "hold", times=2)
    job = submit(client, "weights")
    deadline = time.monotonic() + WAIT
    while len(rules.held()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(WAIT)
    assert bits(submit(client, "weights", retries=3)) == undisturbed["weights"]
    assert not set(before) & set(pool_of(client).pids())
