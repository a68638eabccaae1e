"""A class of axes under a name of its own: the same graph, and its values to the last bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir import dims
from graphir.interpret import evaluate
from graphir.partition.naming import classes, fresh, named
from graphir.partition.pairing import paired
from tests.random_graphs import N, feeds, graphs, same_bits
from tests.workloads import WORKLOADS, values_for


@settings(max_examples=150)
@given(graphs(), st.integers(0, 3))
def test_random_graphs_keep_their_values(graph: gi.Graph, seed: int) -> None:
    values, sizes = feeds(graph, seed), {"n": N}
    try:
        expected = evaluate(graph, values, sizes=sizes)
    except gi.GraphError:
        return
    for one in classes(graph, sizes):
        renamed = named(graph, one, "tile", sizes)
        if renamed is not None:
            assert same_bits(evaluate(renamed, values, sizes={**sizes, "tile": one.size}), expected)


@pytest.mark.parametrize("name", WORKLOADS)
def test_rows_of_the_workloads_have_a_name(name: str) -> None:
    graph, rows = WORKLOADS[name]()
    values = values_for(graph)
    expected = evaluate(graph, values)
    picked = paired(graph)
    assert same_bits(evaluate(picked, values), expected)
    found = {one.size: named(picked, one, fresh(picked, {}), {}) for one in classes(picked, {})}
    renamed = found[rows]
    assert renamed is not None
    assert any("tile" in node.type.shape for node in renamed.inputs.values())
    for size, cut in found.items():
        if cut is not None:
            assert same_bits(evaluate(cut, values, sizes={"tile": size}), expected)


def test_a_reshape_makes_multiples() -> None:
    x, w = gi.input("x", (6, 5, 4)), gi.input("w", (4, 3))
    graph = gi.Graph({"y": gi.sum(gi.reshape(gi.reshape(x, (30, 4)) @ w, (6, 15)), axis=1)})
    (rows,) = [one for one in classes(graph, {}) if one.size == 6]
    renamed = named(graph, rows, "tile", {})
    assert renamed is not None
    assert renamed.outputs["y"].type.shape == ("tile",)
    assert {d for node in renamed.nodes for d in node.type.shape if dims.names(d)} == {"tile", "5*tile"}


def test_a_named_size_of_two_axes_is_told_apart() -> None:
    x = gi.input("x", ("n", 3))
    graph = gi.Graph({"gram": gi.exp(x @ x.T)})
    assert all(named(graph, one, "tile", {"n": 5}) is None for one in classes(graph, {"n": 5}) if one.size == 5)
    y = gi.input("y", ("n", 3))
    graph = gi.Graph({"cross": gi.exp(x @ y.T)})
    shapes = [
        renamed.outputs["cross"].type.shape
        for one in classes(graph, {"n": 5})
        if one.size == 5 and (renamed := named(graph, one, "tile", {"n": 5})) is not None
    ]
    assert sorted(map(str, shapes)) == ["('n', 'tile')", "('tile', 'n')"]


def test_what_reaches_a_constant_or_a_fixed_place_has_no_name() -> None:
    x = gi.input("x", (4, 3))
    for value in (x * np.arange(4.0)[:, None], gi.concat([x, gi.constant(np.ones((2, 3)))], axis=0) * 2):
        graph = gi.Graph({"y": value})
        assert all(one.size != 4 or named(graph, one, "tile", {}) is None for one in classes(graph, {}))


def test_the_name_is_none_that_the_graph_has() -> None:
    x = gi.input("x", ("tile", "tile_"))
    assert fresh(gi.Graph({"y": x + 1}), {}) == "tile__"


PICKS: dict[str, Any] = {
    "rows": lambda x, k, n: x[np.arange(n), k],
    "columns": lambda x, k, n: x[k, np.arange(n)],
    "named rows": lambda x, k, n: x[gi.arange("n"), k],
}


@pytest.mark.parametrize("kind", PICKS)
def test_picking_one_of_each_row(kind: str) -> None:
    n = 5
    shape = ("n", 4) if kind == "named rows" else (n, 4) if kind == "rows" else (4, n)
    x, k = gi.input("x", shape), gi.input("k", shape[:1] if kind != "columns" else (n,), "int64")
    picked = PICKS[kind](x, k, n)
    graph = gi.Graph({"picked": picked, "dx": gi.grad(gi.sum(picked**2), [x])[0]})
    other = paired(graph)
    assert not any(node.op.name in ("take_at", "scatter_add_at") for node in other.nodes)
    values = {"x": np.random.default_rng(0).normal(size=(4, n) if kind == "columns" else (n, 4)), "k": [0, 3, -1, 2, 2]}
    assert same_bits(evaluate(other, values), evaluate(graph, values))
    with pytest.raises(gi.GraphError, match="index 7 is out of range"):
        evaluate(other, {**values, "k": [0, 7, 1, 1, 1]})


def test_other_positions_stay_as_they_are() -> None:
    x, k = gi.input("x", (5, 4)), gi.input("k", (5,), "int64")
    for rows in (np.arange(5)[::-1].copy(), np.zeros(5, np.int64), k):
        graph = gi.Graph({"y": x[rows, k]})
        assert paired(graph) is graph
    graph = gi.Graph({"y": x[np.arange(3), k[:3]]})
    assert paired(graph) is graph
