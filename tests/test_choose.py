"""The dimension that is cut is the one whose plan would end first; the text tells what was considered."""

import numpy as np
import pytest

import graphir as gi
from scheduler.choose import BESIDE
from scheduler.driver.local import run_plan
from scheduler.pipeline import compile
from scheduler.place import ranks_for
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
