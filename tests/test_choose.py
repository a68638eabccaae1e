"""The dimension that is cut is the one whose plan would end first; the text tells what was considered."""

import numpy as np
import pytest

import graphir as gi
from scheduler import choose
from scheduler.choose import BESIDE, NOMINAL_BYTES
from scheduler.driver.local import run_plan
from scheduler.memory import peak_bytes
from scheduler.pipeline import compile
from scheduler.place import place, ranks_for
from scheduler.simulate import Cluster, simulate


def two_layers() -> gi.Graph:
    """Rows of examples and a hidden dimension, which the second product contracts."""
    x, v, w = gi.input("x", ("n", 20)), gi.input("v", (20, "h")), gi.input("w", ("h", 30))
    loss = gi.mean((gi.tanh(x @ v) @ w) ** 2)
    return gi.append_gradients(gi.Graph({"loss": loss}), "loss", ["v", "w"])


@pytest.mark.parametrize(("n", "h", "expected"), [(100_000, 16, "n"), (16, 100_000, "h")])
def test_examples_or_hidden_units(n: int, h: int, expected: str) -> None:
    plan = compile(two_layers(), {"n": n, "h": h})
    assert plan.cuts == (expected,)
    text = plan.to_text()
    assert f"considered: cutting 'n' = {n}" in text
    assert f"considered: cutting 'h' = {h}" in text


@pytest.mark.parametrize("cut", ["n", "h"])
def test_a_contracted_dimension_gives_the_same_result(cut: str) -> None:
    graph, rng = two_layers(), np.random.default_rng(5)
    feeds = {name: rng.normal(size=node.type.bind({"n": 24, "h": 37})) for name, node in graph.inputs.items()}
    plan = compile(graph, {"n": 24, "h": 37}, cut=[cut], chunk={cut: 5})
    assert plan.cuts == (cut,)
    for name, value in gi.evaluate(graph, feeds).items():
        np.testing.assert_allclose(run_plan(plan, feeds)[name], value, rtol=1e-10)


def test_no_other_single_cut_would_end_earlier() -> None:
    graph = two_layers()
    for sizes in ({"n": 3000, "h": 50}, {"n": 50, "h": 3000}, {"n": 700, "h": 700}):
        plans = [compile(graph, sizes, cut=[name]) for name in ("n", "h")]
        seconds = {p.cuts[0]: simulate(p, Cluster(ranks_for(p, BESIDE)), {}).seconds for p in plans}
        assert compile(graph, sizes).cuts[0] == min(seconds, key=lambda name: seconds[name])


def test_the_chunk_size_names_the_dimension() -> None:
    assert compile(two_layers(), {"n": 5, "h": 100_000}, chunk={"n": 2}).cuts == ("n",)


def test_several_chunk_sizes_cut_several_dimensions() -> None:
    plan = compile(two_layers(), {"n": 24, "h": 37}, chunk={"n": 6, "h": 10})
    assert set(plan.cuts) == {"n", "h"}
    assert plan.rows == {"n": 6, "h": 10}
    rng, graph = np.random.default_rng(5), two_layers()
    feeds = {name: rng.normal(size=node.type.bind({"n": 24, "h": 37})) for name, node in graph.inputs.items()}
    for name, value in gi.evaluate(graph, feeds).items():
        np.testing.assert_allclose(run_plan(plan, feeds)[name], value, rtol=1e-10)


def test_a_grid_where_one_dimension_is_not_enough() -> None:
    x, y = gi.input("x", ("n", 4)), gi.input("y", (4, "m"))
    far = gi.Graph(
        {"sum": gi.sum(gi.exp(x @ y))}
    )  # the product has 8 TB, and a thousandth of it is more than a worker can hold twice
    plan = compile(far, {"n": 1_000_000, "m": 1_000_000})
    assert set(plan.cuts) == {"n", "m"}
    ranks = ranks_for(plan, BESIDE)
    assert peak_bytes(plan, place(plan, ranks, {}, ["sum"]), ranks, {}) <= NOMINAL_BYTES
    assert "considered: cutting 'n' = 1000000" in plan.to_text()
    one = compile(far, {"n": 1_000_000, "m": 1_000_000}, chunk={"n": 62_500})
    assert peak_bytes(one, place(one, 8, {}, ["sum"]), 8, {}) > NOMINAL_BYTES


def test_slices_are_made_again_where_keeping_them_takes_too_much() -> None:
    x, y = gi.input("x", ("n", 50)), gi.input("y", (50, 200))
    hidden = gi.exp(x @ y)
    graph = gi.Graph({"out": gi.sum((hidden - gi.mean(hidden, axis=0)) ** 2)})
    small, large = compile(graph, {"n": 1000}), compile(graph, {"n": 100_000_000})
    kept = {v.type.shape for v in small.values.values() if v.layout == "shard"}
    again = {v.type.shape for v in large.values.values() if v.layout == "shard"}
    assert kept == {("n", 50), ("n", 200)}
    assert again == {("n", 50)}
    assert "slices made again in each stage" in large.to_text()


def three_dims() -> gi.Graph:
    x, v, w = gi.input("x", ("n", 20)), gi.input("v", (20, "h")), gi.input("w", ("h", "o"))
    return gi.Graph({"loss": gi.sum(gi.tanh(gi.tanh(x @ v) @ w))})


def test_no_more_plans_are_made_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"n": 50_000, "h": 300, "o": 20}
    every = compile(three_dims(), sizes).to_text()
    assert "not considered" not in every
    monkeypatch.setattr(choose, "PLANNED", 1)
    plan = compile(three_dims(), sizes)
    assert plan.cuts == ("n",)  # with the most bytes fed along it
    assert "not considered: cutting 'h', since plans of" in plan.to_text()
    assert "not considered: cutting 'n' and 'h'" in plan.to_text()


def test_a_grid_has_no_more_cells_than_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"n": 1_000_000, "m": 1_000_000}
    x, y = gi.input("x", ("n", 4)), gi.input("y", (4, "m"))
    far = gi.Graph({"sum": gi.sum(gi.exp(x @ y))})
    assert len(compile(far, sizes).cuts) == 2
    monkeypatch.setattr(choose, "CELLS", 15)
    assert len(compile(far, sizes).cuts) == 1
