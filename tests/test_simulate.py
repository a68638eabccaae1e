"""Forecasts against what happens: the very messages, and memory that stays below the bound."""

import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from graphir.partition.plan import Plan
from scheduler.driver.inline import InlinePool
from scheduler.memory import peak_bytes
from scheduler.outlook import with_outlook
from scheduler.pipeline import compile
from scheduler.place import place
from scheduler.simulate import Cluster, simulate
from tests.test_dag import small_parts, wide, with_gradient
from tests.test_partition import GRAPHS, N, feeds_for
from tests.test_ranks import Ranks, momentum
from workers.mesh import Address, Mesh


def sent_by(plan: Plan, feeds: Mapping[str, Any], count: int, carry: Mapping[str, str]) -> list[int]:
    """The bytes of each array that ranks send one another in the second of two iterations."""
    sizes: list[int] = []
    real = Mesh.send

    def counting(mesh: Mesh, peer: Address, tag: tuple[Any, ...], array: np.ndarray[Any, Any]) -> None:
        sizes.append(array.nbytes)
        real(mesh, peer, tag, array)

    ranks = Ranks(plan, count, carry)
    try:
        ranks.feed(feeds, carry)
        ranks.run(0, 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Mesh, "send", counting)
            ranks.run(1 if carry else 0, 1)
    finally:
        ranks.close()
    return sizes


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_messages_are_those_of_a_run(name: str, count: int) -> None:
    plan = compile(GRAPHS[name], {"n": N}, cut=["n"], chunk={"n": 2})
    sizes = sent_by(plan, feeds_for(GRAPHS[name]), count, {})
    forecast = simulate(plan, Cluster(count), {})
    assert forecast.messages == len(sizes)
    assert forecast.most_sent <= forecast.sent


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_bytes_of_iterations_are_those_of_a_run(count: int) -> None:
    graph, carry, feeds = momentum(50)
    plan = compile(graph, {"n": 29}, chunk={"n": 4})
    sizes = sent_by(plan, feeds, count, carry)
    forecast = simulate(plan, Cluster(count), carry)
    assert (forecast.messages, forecast.sent) == (len(sizes), sum(sizes))


def test_parts_of_a_dag_too(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, 3e-5)
    plan = compile(with_gradient(wide(6, 4, 60)), {})
    sizes = sent_by(plan, {"x": np.eye(60)}, 3, {})
    forecast = simulate(plan, Cluster(3), {})
    assert (forecast.messages, forecast.sent) == (len(sizes), sum(sizes))


def test_more_workers_are_faster_until_messages_cost_more() -> None:
    graph, carry, _ = momentum(64)
    plan = compile(graph, {"n": 10_000_000}, chunk={"n": 1000})
    times = [simulate(plan, Cluster(ranks), carry).seconds for ranks in (1, 10, 100, 1000)]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[1] == pytest.approx(10, rel=0.1)
    many = simulate(plan, Cluster(10_000), carry)
    assert many.tasks >= 10_000
    assert many.busy < 0.9


def test_stragglers_and_failures_cost_time() -> None:
    graph, carry, _ = momentum(64)
    plan = compile(graph, {"n": 1_000_000}, chunk={"n": 1000})
    even = simulate(plan, Cluster(100), carry).seconds
    slow = simulate(plan, Cluster(100, slow=0.1, slower=3.0), carry).seconds
    assert 1.5 * even < slow < 3.5 * even
    failing = simulate(plan, Cluster(100, failures=10.0), carry)
    assert failing.seconds > even
    assert failing.failures > 0


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("chunk", [3000, 20_000])
def test_memory_stays_below_what_the_plan_states(name: str, chunk: int) -> None:
    graph = GRAPHS[name]
    rows = 200 if any(node.type.shape.count("n") > 1 for node in graph.nodes) else 20_000
    plan = compile(graph, {"n": rows}, cut=["n"], chunk={"n": min(chunk, rows)})
    rng = np.random.default_rng(3)
    feeds = {}
    for key, node in graph.inputs.items():
        shape = node.type.bind({"n": rows})
        feeds[key] = rng.integers(0, 3, shape) if node.type.dtype.kind == "i" else rng.standard_normal(shape)
    session = InlinePool().open(plan, {}, {}, list(plan.outputs))
    tracemalloc.start()
    try:
        for key, value in feeds.items():
            session._runner.hold(key, value, graph.inputs[key].type.dtype.name)
        session.advance(1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    bound = peak_bytes(plan, place(plan, 1, {}, list(plan.outputs)), 1, {})
    assert peak <= bound + 500_000  # programs and their slots are not values


def test_the_text_of_a_plan_says_what_to_expect() -> None:
    graph, carry, _ = momentum(50)
    text = with_outlook(compile(graph, {"n": 29}, chunk={"n": 4}), 3, carry).to_text()
    for part in ("on 3 worker(s)", "an iteration", "between workers", "of values on a worker", "every worker performs"):
        assert part in text
