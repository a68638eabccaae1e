"""Jobs of one short step: one call of one worker, the same bits, errors and faults as others."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, connect
from graphir.errors import JobFailed
from scheduler.driver import quick
from scheduler.driver.members import Member
from scheduler.driver.ray import RayPool
from scheduler.local import EmbeddedService

pytestmark = pytest.mark.usefixtures("local_ray")
WAIT = 90.0
RNG = np.random.default_rng(4)


def job(power: int = 2, rows: int = 33) -> tuple[gi.Graph, dict[str, Any]]:
    """Outputs of every kind: a number, a sum over the chunks, something gathered, an input."""
    x, w = gi.input("x", ("n", 3), "float32"), gi.input("w", (3,), "float32")
    loss = gi.mean((x @ w) ** power)
    (dw,) = gi.grad(loss, [w])
    graph = gi.Graph({"loss": loss, "dw": dw, "rows": gi.exp(x), "w": w})
    return graph, {"x": RNG.normal(size=(rows, 3)).astype("f4"), "w": RNG.normal(size=3).astype("f4")}


@pytest.fixture(scope="module")
def client(local_ray: None) -> Iterator[Client]:
    with connect(workers=2) as connected:
        yield connected


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of a worker whether it was set up with it."""
    made: list[bool] = []
    learns = Member.learns

    def counted(member: Member, name: str, most: int) -> bool:
        made.append(learns(member, name, most))
        return made[-1]

    monkeypatch.setattr(Member, "learns", counted)
    return made


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_what_comes_again_is_set_up_once_a_worker_and_has_the_bits_of_one_process(
    client: Client, calls: list[bool]
) -> None:
    with connect(workers=0) as inline:
        for turn in range(6):
            graph, feeds = job()
            fetch = None if turn % 2 else ["dw", "rows"]
            found = client.submit(graph, feeds, fetch=fetch).result(WAIT)
            assert same_bits(found, inline.submit(graph, feeds, fetch=fetch).result(WAIT))
            np.testing.assert_allclose(found["rows"], np.exp(feeds["x"]), rtol=1e-6)
    assert len(calls) == 6
    assert sum(calls) <= 4  # two sets of outputs, two workers
    assert not calls[-1]


def test_a_worker_that_has_forgotten_is_told_again(
    client: Client, calls: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "KEPT", 2)
    jobs = [job(power) for power in range(3, 9)]
    first = [client.submit(*each).result(WAIT) for each in jobs]
    assert calls == [True] * 6
    for known in client.service.pool.members:  # type: ignore[attr-defined]  # as if the driver counted on all of them
        known.ready.update(dict.fromkeys(f"quick-{number}" for number in range(1, 100)))
    monkeypatch.setattr(quick, "KEPT", 1000)
    calls.clear()
    again = [client.submit(*each).result(WAIT) for each in jobs]
    assert all(map(same_bits, first, again))
    assert calls.count(True) == 2  # the first of each worker, after an answer that it is unknown
    assert len(calls) == 8


def test_long_or_large_or_carried_jobs_are_not_of_this_kind(client: Client, calls: list[bool]) -> None:
    graph, feeds = job(rows=200_000)
    client.submit(graph, feeds).result(WAIT)
    graph, feeds = job()
    step = gi.Graph({"w_next": graph.outputs["w"], "loss": graph.outputs["loss"]})
    client.submit(step, feeds, carry={"w": "w_next"}, steps=2).result(WAIT)
    assert calls == []
    assert len(client.submit(graph, feeds, steps=3).result(WAIT)) == 4
    assert len(calls) in (3, 4)  # a call a step, perhaps one more to be set up


def test_a_kernel_s_error_names_the_node_and_the_worker_lives(client: Client) -> None:
    a = gi.input("a", (2, 2), "float64")
    graph = gi.Graph({"inverse": gi.linalg.inv(a)})
    before = client.service.pool.pids()  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(JobFailed, match=r"singular[\s\S]*at "):
            client.submit(graph, {"a": np.zeros((2, 2))}).result(WAIT)
        np.testing.assert_allclose(client.submit(graph, {"a": 2 * np.eye(2)}).result(WAIT)["inverse"], np.eye(2) / 2)
    assert client.service.pool.pids() == before  # type: ignore[attr-defined]


def test_a_killed_worker_is_replaced_and_the_call_made_again(client: Client) -> None:
    service = client.service
    assert isinstance(service, EmbeddedService)
    assert isinstance(service.pool, RayPool)
    graph, feeds = job()
    expected = client.submit(graph, feeds).result(WAIT)
    for pid in service.pool.pids():
        os.kill(pid, signal.SIGKILL)
    jobs = [client.submit(graph, feeds) for _ in range(4)]
    assert all(same_bits(each.result(WAIT), expected) for each in jobs)
    assert any(event["type"] == "worker_lost" for each in jobs for event in each.events())
