"""Several dimensions cut at once: the same values as uncut, and the same bits for any number of ranks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.partition.data import partition
from graphir.partition.plan import Plan
from graphir.partition.refine import refine
from scheduler.check import check_plan
from scheduler.driver.local import run_plan
from scheduler.simulate import Cluster, simulate
from tests.test_partition import with_gradients
from tests.test_ranks import Ranks
from tests.test_simulate import sent_by

SIZES = {"n": 7, "h": 5, "m": 3}


def two_layers(normalise: bool = False) -> gi.Graph:
    x, t = gi.input("x", ("n", 4)), gi.input("t", ("n",), "int64")
    v, b, w = gi.input("v", (4, "h")), gi.input("b", ("h",)), gi.input("w", ("h", 3))
    hidden = gi.tanh(x @ v + b)
    if normalise:
        hidden = (hidden - gi.mean(hidden, axis=0)) / gi.sqrt(gi.var(hidden, axis=0) + 1e-3)
    logits = hidden @ w
    picked = gi.take_along_axis(logits, t[:, None], axis=1)[:, 0]
    return with_gradients(gi.mean(gi.logsumexp(logits, axis=1) - picked), v, b, w)


def graphs() -> dict[str, gi.Graph]:
    x, y = gi.input("x", ("n", "h")), gi.input("y", ("h", "m"))
    z, s = gi.input("z", ("n", "m")), gi.input("s", ("h", "h"))
    here = gi.arange("n", dtype="float64")[:, None] + 10 * gi.arange("h", dtype="float64")
    wide = gi.exp(x * 0.1 + here * 0.01)
    draws = gi.random.normal(gi.random.key(3), ("n", "h"))
    return {
        "product": gi.Graph({"xy": x @ y, "sum": gi.sum(x @ y), "rows": gi.sum(x, axis=0), "columns": gi.max(x, axis=1)}),
        "three products": with_gradients(gi.sum((gi.tanh(x @ y) - z) ** 2), x, y),
        "network": two_layers(),
        "batch normalisation": two_layers(normalise=True),
        "softmax over both": gi.Graph({"a": gi.softmax(wide, axis=0), "b": gi.softmax(wide, axis=1), "all": gi.logsumexp(wide)}),
        "positions": gi.Graph({"here": here, "x": x + here, "sizes": gi.size("n") * gi.size("h")}),
        "transposed": gi.Graph({"out": x.T @ z, "gram": x @ x.T, "other": x.T @ x, "again": (x @ x.T) @ x}),
        "square": gi.Graph({"out": x @ s, "back": s.T @ s, "through": gi.einsum("nh,hk,nk->", x, s, x)}),
        "merged": gi.Graph({"flat": gi.reshape(wide, (-1,)) * 2.0, "back": gi.reshape(gi.reshape(wide, (-1,)) + 1.0, ("n", "h"))}),
        "gathered": gi.Graph({"up": gi.flip(wide, axis=0) + wide, "left": gi.flip(wide, axis=1) * wide, "best": gi.argmax(wide, axis=1)}),
        "chance": gi.Graph({"draws": draws, "sum": gi.sum(draws * x), "rows": gi.cumulative_sum(draws, axis=1)}),
        "inputs": gi.Graph({"x": x, "x again": x, "doubled": x + x, "y": y, "one": gi.ones(("n", "h"))}),
        "combined later": gi.Graph({"out": gi.sum(x, axis=0) @ (y * gi.max(x)), "c": x - gi.sum(x, axis=0) - gi.sum(x, axis=1)[:, None]}),
    }  # fmt: skip


GRAPHS = graphs()


def feeds_for(graph: gi.Graph) -> dict[str, Any]:
    rng = np.random.default_rng(8)
    shapes = {name: node.type.bind(SIZES) for name, node in graph.inputs.items()}
    integers = {name for name, node in graph.inputs.items() if node.type.dtype.kind == "i"}
    return {n: rng.integers(0, 3, s) if n in integers else rng.standard_normal(s) for n, s in shapes.items()}


def sizes_of(graph: gi.Graph) -> dict[str, int]:
    return {name: SIZES[name] for name in graph.sizes}


def cut(graph: gi.Graph, chunks: Mapping[str, int], *, remake: bool = False) -> Plan:
    """The graph cut along the given dimensions, one after the other."""
    sizes = sizes_of(graph)
    (first, rows), *others = [(dim, rows) for dim, rows in chunks.items() if dim in sizes]
    plan = partition(graph, sizes, first, rows, remake=remake)
    for dim, rows in others:
        plan = refine(plan, dim, rows, remake=remake)
    return check_plan(plan)


CHUNKS = [{"n": 2, "h": 2}, {"h": 2, "n": 3}, {"n": 1, "h": 1, "m": 1}, {"m": 2, "h": 3, "n": 2}, {"h": 5, "n": 7}]


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("chunks", CHUNKS, ids=lambda chunks: "-".join(f"{d}{k}" for d, k in chunks.items()))
def test_cut_equals_uncut(name: str, chunks: dict[str, int]) -> None:
    graph, feeds = GRAPHS[name], feeds_for(GRAPHS[name])
    whole = gi.evaluate(graph, feeds, sizes=sizes_of(graph))
    made = run_plan(cut(graph, chunks), feeds)
    assert list(made) == list(whole)
    for key, expected in whole.items():
        assert made[key].dtype == expected.dtype
        np.testing.assert_allclose(made[key], expected, rtol=1e-9, atol=1e-11, err_msg=key)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_ranks_gives_the_bits_of_one_process(name: str, count: int) -> None:
    graph, feeds = GRAPHS[name], feeds_for(GRAPHS[name])
    for chunks in CHUNKS[:4]:
        plan = cut(graph, chunks)
        ranks = Ranks(plan, count, {})
        try:
            ranks.feed(feeds, {})
            ranks.run(0, 1)
            assert ranks.outputs() == {output: value.tobytes() for output, value in run_plan(plan, feeds).items()}
        finally:
            ranks.close()


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_messages_are_those_of_a_run(name: str, count: int) -> None:
    for chunks in CHUNKS[:2]:
        plan = cut(GRAPHS[name], chunks)
        sizes = sent_by(plan, feeds_for(GRAPHS[name]), count, {})
        assert simulate(plan, Cluster(count), {}).messages == len(sizes)


def momentum() -> tuple[gi.Graph, dict[str, str], dict[str, Any]]:
    """Descent whose weights are cut along "h", with a state for each row and one for each cell of the grid."""
    x, y, w = gi.input("x", ("n", "h")), gi.input("y", ("n",)), gi.input("w", ("h",))
    rows, seen, grid = gi.input("rows", ("n",)), gi.input("seen"), gi.input("grid", ("n", "h"))
    error = x @ w - y + 0.1 * rows
    loss = gi.mean(error**2) + 0.01 * gi.sum(grid * w)
    (dw,) = gi.grad(loss, [w])
    outputs = {
        "loss": loss, "w2": w - 0.1 * dw, "rows2": rows * 0.5 + error, "seen2": seen + gi.size("h"),
        "grid2": grid * 0.9 + error[:, None] * w,
    }  # fmt: skip
    rng = np.random.default_rng(2)
    feeds = {"x": rng.normal(size=(13, 9)), "y": rng.normal(size=13), "w": rng.normal(size=9)}
    carry = {"w": "w2", "rows": "rows2", "seen": "seen2", "grid": "grid2"}
    return gi.Graph(outputs), carry, {**feeds, "rows": np.zeros(13), "seen": 0.0, "grid": np.ones((13, 9))}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 6, 11])
def test_iterations_carry_blocks(count: int, apart: bool) -> None:
    graph, carry, feeds = momentum()
    plan = check_plan(refine(partition(graph, {"n": 13, "h": 9}, "n", 4), "h", 3))
    now, losses = dict(feeds), []
    for _ in range(5):
        out = run_plan(plan, now)
        losses.append(float(out["loss"]))
        now |= {name: out[output] for name, output in carry.items()}
    ranks = Ranks(plan, count, carry, apart=apart)
    try:
        assert not ranks.runners[0].route.carried_whole("w")
        ranks.feed(feeds, carry)
        numbers = ranks.run(0, 1) + ranks.run(1, 4)
        assert [float(each["loss"]) for each in numbers] == losses
        assert ranks.outputs() == {name: value.tobytes() for name, value in out.items()}
        assert ranks.run(1, 4) == numbers[1:]  # the values before it are still here
    finally:
        ranks.close()
    sizes = sent_by(plan, feeds, count, carry)
    forecast = simulate(plan, Cluster(count), carry)
    assert forecast.messages == len(sizes)
    assert sum(sizes) <= forecast.sent <= 1.5 * sum(sizes)  # the last chunks are smaller


@settings(max_examples=25)
@given(st.data())
def test_any_grid_of_any_graph(data: st.DataObject) -> None:
    graph = GRAPHS[data.draw(st.sampled_from(sorted(GRAPHS)))]
    sizes = sizes_of(graph)
    dims = data.draw(st.permutations(sorted(sizes)))[: data.draw(st.integers(1, len(sizes)))]
    plan = cut(graph, {dim: data.draw(st.integers(1, sizes[dim])) for dim in dims}, remake=data.draw(st.booleans()))
    made, feeds = run_plan(plan, feeds_for(graph)), feeds_for(graph)
    for key, expected in gi.evaluate(graph, feeds, sizes=sizes).items():
        np.testing.assert_allclose(made[key], expected, rtol=1e-9, atol=1e-11, err_msg=key)
