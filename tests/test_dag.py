"""Graphs without a dimension to cut are divided into parts without a cycle, and give the same bits."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.partition import dag, divide
from graphir.partition.dag import PART_SECONDS, split
from graphir.partition.data import partition
from graphir.partition.flow import Flow, branches, longest_path
from graphir.partition.moves import refined
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
def flows(draw: st.DrawFn) -> Flow:
    """A random graph with seconds and bytes of each node; some read many others."""
    count = draw(st.integers(1, 40))
    reads = [sorted(draw(st.sets(st.integers(0, max(0, k - 1)), max_size=4 if k else 0))) for k in range(count)]
    seconds = draw(st.lists(st.floats(0, 5 * PART_SECONDS), min_size=count, max_size=count))
    sizes = draw(st.lists(st.integers(0, 10**6), min_size=count, max_size=count))
    return flow_of(reads, seconds, sizes)


def flow_of(reads: Sequence[Sequence[int]], seconds: Sequence[float], sizes: Sequence[int]) -> Flow:
    sources = np.array([source for each in reads for source in each], np.int64)
    return Flow(sources, np.array([len(each) for each in reads]), np.array(seconds), np.array(sizes))


def edges(flow: Flow) -> list[tuple[int, int]]:
    return list(zip(flow.sources.tolist(), flow.readers.tolist(), strict=True))


@given(flows())
def test_parts_have_no_cycle_and_are_numbered_without_gaps(flow: Flow) -> None:
    found, why_not = split(flow)
    part = found.tolist()
    assert bool(why_not) == (max(part) == 0)
    assert all(part[source] <= part[reader] for source, reader in edges(flow))
    assert set(part) == set(range(max(part) + 1))
    assert max(part) <= 2 * dag.MOST_PARTS


@given(flows())
def test_no_parts_where_a_path_is_as_long_as_everything(flow: Flow) -> None:
    chained = flow_of([[k - 1] if k else [] for k in range(len(flow))], flow.seconds.tolist(), flow.bytes.tolist())
    part, why_not = split(chained)
    assert not part.any()
    assert why_not == dag.TOO_LITTLE or "one path" in why_not


@given(flows())
def test_the_longest_path_and_the_order_by_branches(flow: Flow) -> None:
    reads = [[source for source, reader in edges(flow) if reader == node] for node in range(len(flow))]
    ended: list[float] = []
    for node, sources in enumerate(reads):
        ended.append(flow.seconds[node] + max((ended[source] for source in sources), default=0.0))
    assert longest_path(flow) == max(ended)
    order: list[int] = []

    def visit(node: int) -> None:
        if node not in order:
            for source in reads[node]:
                visit(source)
            order.append(node)

    for sink in sorted(set(range(len(flow))) - {source for source, _ in edges(flow)}):
        visit(sink)
    assert branches(flow).tolist() == order


@settings(max_examples=200)
@given(flows(), st.integers(2, 5), st.booleans())
def test_blocks_are_the_best_contiguous_ones(flow: Flow, count: int, by_branches: bool) -> None:
    kept = min(10, len(flow))
    reads = [[s for s, r in edges(flow) if r == node] for node in range(kept)]
    seconds = np.round(flow.seconds[:kept] / PART_SECONDS) / 4  # sums and comparisons are exact
    flow = flow_of(reads, seconds.tolist(), flow.bytes[:kept].tolist())
    mean = max(flow.total, 1.0) / count
    order = branches(flow) if by_branches else np.arange(kept)
    weights = flow.seconds[order].tolist()
    part = dag.blocks(flow, order, mean)[order].tolist()
    assert part == sorted(part)
    place = {node: k for k, node in enumerate(order.tolist())}
    live = [
        sum(
            int(flow.bytes[node])
            for node in range(kept)
            if place[node] < border and any(s == node and place[r] >= border for s, r in edges(flow))
        )
        for border in range(kept + 1)
    ]
    assert dag.crossing(flow, order).tolist() == live

    def allowed(begin: int, end: int) -> bool:
        weight = sum(weights[begin:end])
        return (weight <= dag.LOOSE * mean or end - begin == 1) and (weight >= mean / 2 or end == kept)

    possible = [
        ends
        for size in range(kept)
        for ends in combinations(range(1, kept), size)
        if all(allowed(a, b) for a, b in pairwise([0, *ends, kept]))
    ]
    chosen = [k for k in range(1, kept) if part[k] != part[k - 1]]
    if possible:
        assert all(allowed(a, b) for a, b in pairwise([0, *chosen, kept]))
        assert sum(live[end] for end in chosen) == min(sum(live[end] for end in ends) for ends in possible)


def sent(flow: Flow, part: Sequence[int]) -> int:
    """Bytes that go from part to part."""
    needs = {(source, part[reader]) for source, reader in edges(flow) if part[source] != part[reader]}
    return sum(int(flow.bytes[source]) for source, _ in needs)


@given(flows(), st.integers(2, 6))
def test_moves_save_bytes_and_keep_the_parts_in_order(flow: Flow, count: int) -> None:
    before = dag.blocks(flow, np.arange(len(flow)), max(flow.total, 1e-3) / count)
    heaviest = max(dag.LOOSE * flow.total / (before.max() + 1), np.bincount(before, flow.seconds).max())
    after = refined(flow, before, dag.LOOSE)
    assert all(after[source] <= after[reader] for source, reader in edges(flow))
    assert sent(flow, after.tolist()) <= sent(flow, before.tolist())
    assert np.bincount(after, flow.seconds).max() <= heaviest * (1 + 1e-9)
    assert (after == before).all() or sent(flow, after.tolist()) < sent(flow, before.tolist())


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
    plan = compile(gi.Graph({"y": values[-1]}), {})
    assert len(plan.steps) == 1
    assert f"is not divided: {dag.TOO_LITTLE}" in plan.to_text()


def test_a_chain_is_not_divided() -> None:
    x = gi.input("x", (300, 300))
    value = x
    for _ in range(300):
        value = gi.tanh(value @ x)
    plan = compile(gi.Graph({"y": value}), {})
    assert len(plan.steps) == 1
    assert "is not divided: one path through it takes" in plan.to_text()
