"""Partial evaluation gives the same values with fewer inputs."""

import numpy as np
import pytest

import graphir as gi

x, w, b = gi.input("x", ("n", 3)), gi.input("w", (3,)), gi.input("b")
GRAPH = gi.Graph({"out": gi.tanh(x @ (w * 2.0)) + gi.exp(b), "norm": gi.sum(w * w)})
W = np.array([0.3, -1.0, 2.0])


def test_fixed_inputs_are_gone_and_values_stay() -> None:
    fixed = gi.partial(GRAPH, {"w": W, "b": 0.5})
    assert list(fixed.inputs) == ["x"]
    rows = np.random.default_rng(0).standard_normal((5, 3))
    found = gi.evaluate(fixed, {"x": rows})
    expected = gi.evaluate(GRAPH, {"x": rows, "w": W, "b": 0.5})
    for name in GRAPH.outputs:
        assert found[name].tobytes() == expected[name].tobytes()
    assert fixed.outputs["norm"].op.name == "constant"
    assert len(fixed) < len(GRAPH)


def test_what_cannot_be_fixed() -> None:
    with pytest.raises(gi.FeedError, match="'n'|\\(n, 3\\)"):
        gi.partial(GRAPH, {"x": np.zeros((2, 3))})
    with pytest.raises(gi.FeedError, match="not an input"):
        gi.partial(GRAPH, {"y": 1.0})
