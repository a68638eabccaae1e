"""Graphs without a dimension to cut are divided into parts without a cycle, and give the same bits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.node import Node
from graphir.partition import dag, divide
from graphir.partition.dag import PART_SECONDS, Weights, split
from graphir.partition.data import partition
from scheduler.check import check_plan
from scheduler.driver.local import run_plan
from scheduler.pipeline import compile
from scheduler.place import place, ranks_for
from tests.random_graphs import N as SIZE
from tests.random_graphs import feeds as feeds_of
from tests.random_graphs import graphs
from tests.test_ranks import Ranks
from workers.work import EVERYWHERE


@st.composite
def weighted(draw: st.DrawFn) -> tuple[dict[Node, tuple[Node, ...]], Weights]:
    """A random graph of additions with seconds and bytes of each node."""
    values = [gi.input("x").node]
    inputs: dict[Node, tuple[Node, ...]] = {}
    for _ in range(draw(st.integers(1, 40))):
        left, right = (values[draw(st.integers(0, len(values) - 1))] for _ in range(2))
        node = (gi.sin(gi.Expr(left)) + gi.cos(gi.Expr(right)) * len(values)).node
        if node not in inputs:
            values.append(node)
            inputs[node] = tuple(dict.fromkeys(n for n in (left, right) if n in inputs))
    seconds = {node: draw(st.floats(0, 5 * PART_SECONDS)) for node in inputs}
    sizes = {node: draw(st.integers(0, 10**6)) for node in inputs}
    return inputs, Weights(seconds.__getitem__, sizes.__getitem__)


@given(weighted())
def test_parts_cover_the_nodes_once_and_have_no_cycle(case: tuple[dict[Node, tuple[Node, ...]], Weights]) -> None:
    inputs, weights = case
    parts = split(inputs, weights)
    where = {node: number for number, part in enumerate(parts) for node in part}
    assert sum(map(len, parts)) == len(inputs) == len(where)
    assert all(where[source] <= where[node] for node in inputs for source in inputs[node])
    total = sum(weights.seconds(node) for node in inputs)
    assert len(parts) <= max(1, 2 * total / PART_SECONDS + 1)


@given(weighted())
def test_no_parts_where_a_path_is_as_long_as_everything(case: tuple[dict[Node, tuple[Node, ...]], Weights]) -> None:
    inputs, weights = case
    nodes = list(inputs)
    chained = {node: (nodes[k - 1],) if k else () for k, node in enumerate(nodes)}
    assert split(chained, weights) == [nodes]


@settings(max_examples=60)
@given(weighted(), st.integers(2, 5))
def test_blocks_are_the_best_contiguous_ones(case: tuple[dict[Node, tuple[Node, ...]], Weights], count: int) -> None:
    inputs, weights = case
    order = list(inputs)[:10]
    inputs = {node: tuple(i for i in inputs[node]) for node in order}
    users = dag.consumers(inputs)
    seconds = dict.fromkeys(order, 1.0)
    sizes = {node: weights.bytes(node) for node in order}
    mean = len(order) / count
    part = dag._blocks(order, users, seconds, sizes, mean)
    crossing = dag._crossing(order, users, sizes)

    def cost(ends: tuple[int, ...]) -> int:
        return sum(crossing[end] for end in ends)

    def cuts(start: int) -> list[tuple[int, ...]]:
        found = [()] if start and _allowed(len(order) - start, mean, last=True) else []
        for end in range(start + 1, len(order)):
            if _allowed(end - start, mean, last=False):
                found += [(end, *rest) for rest in cuts(end)]
        if start == 0 and _allowed(len(order), mean, last=True):
            found.append(())
        return found

    chosen = tuple(k for k in range(1, len(order)) if part[order[k]] != part[order[k - 1]])
    if possible := cuts(0):
        assert cost(chosen) <= min(map(cost, possible))


def _allowed(size: int, mean: float, *, last: bool) -> bool:
    return size <= dag.LOOSE * mean and (last or size >= mean / 2)


def wide(width: int, depth: int, size: int) -> gi.Graph:
    """Branches of matrix products that were made by turns."""
    x = gi.input("x", (size, size))
    values = [x * (1.0 + k) for k in range(width)]
    for _ in range(depth):
        values = [gi.tanh(v @ x) for v in values]
    total = gi.sum(values[0])
    for value in values[1:]:
        total = total + gi.sum(value)
    return gi.Graph({"total": total, "first": values[0], "view": values[1].T})


def with_gradient(graph: gi.Graph) -> gi.Graph:
    return gi.append_gradients(graph, "total", ["x"])


def small_parts(monkeypatch: pytest.MonkeyPatch, seconds: float = 2e-5) -> None:
    monkeypatch.setattr(dag, "PART_SECONDS", seconds)
    monkeypatch.setattr(divide, "PART_SECONDS", seconds)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_branches_go_to_several_ranks_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, gradient: bool, count: int
) -> None:
    small_parts(monkeypatch, 3e-5)
    graph = with_gradient(wide(6, 4, 60)) if gradient else wide(6, 4, 60)
    whole, plan = partition(gi.simplify(graph), {}), compile(graph, {})
    assert len(plan.steps) > 3
    feeds = {"x": np.random.default_rng(2).normal(size=(60, 60)) / 10}
    expected = {name: value.tobytes() for name, value in run_plan(whole, feeds).items()}
    assert {name: value.tobytes() for name, value in run_plan(plan, feeds).items()} == expected
    assert ranks_for(plan, count) == count
    assert {s.at for s in place(plan, count, {}, list(plan.outputs)).steps} - {EVERYWHERE} == set(range(count))
    ranks = Ranks(plan, count, {})
    try:
        ranks.feed(feeds, {})
        ranks.run(0, 1)
        assert ranks.outputs() == expected
    finally:
        ranks.close()


@settings(max_examples=40)
@given(st.data())
def test_any_graph_divided_has_the_bits_of_the_whole(data: st.DataObject) -> None:
    graph = gi.simplify(data.draw(graphs()))
    feeds: dict[str, Any] = feeds_of(graph, data.draw(st.integers(0, 99)))
    plan = partition(graph, {"n": SIZE})
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch, 1e-6)
        divided = check_plan(divide.divide(plan))
    try:
        expected = run_plan(plan, feeds)
    except gi.GraphError:
        with pytest.raises(gi.GraphError):
            run_plan(divided, feeds)
        return
    found = run_plan(divided, feeds)
    assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in expected.items()}


def test_what_follows_a_cut_is_divided_too(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, 3e-5)
    x = gi.input("x", ("n", 40))
    gram = x.T @ x
    left, right = gram, gram + 1.0
    for _ in range(6):
        left, right = gi.tanh(left @ gram), gi.sin(right @ gram)
    graph = gi.Graph({"left": left, "right": right})
    plan = compile(graph, {"n": 64}, chunk={"n": 8})
    assert [step.kind for step in plan.steps[:2]] == ["map", "combine"]
    assert sum(step.kind == "single" for step in plan.steps) > 1
    feeds = {"x": np.random.default_rng(2).normal(size=(64, 40)) / 20}
    for name, value in gi.evaluate(graph, feeds).items():
        np.testing.assert_allclose(run_plan(plan, feeds)[name], value, rtol=1e-9)
    assert "divided into" in plan.to_text()


def test_tiny_nodes_stay_together() -> None:
    rng = np.random.default_rng(1)
    values = [gi.input(f"x{k}", (8,)) for k in range(16)]
    for _ in range(10_000):
        left, right = rng.integers(max(0, len(values) - 256), len(values), 2)
        values.append(values[left] + values[right])
    assert len(compile(gi.Graph({"y": values[-1]}), {}).steps) == 1


def test_a_chain_is_not_divided() -> None:
    x = gi.input("x", (300, 300))
    value = x
    for _ in range(300):
        value = gi.tanh(value @ x)
    assert len(compile(gi.Graph({"y": value}), {}).steps) == 1
