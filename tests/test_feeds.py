"""Feeds: what is accepted, what is refused, and how named sizes bind."""

import numpy as np
import pytest

import graphir as gi


def _pair() -> gi.Graph:
    x, y = gi.input("x", ("n", 3)), gi.input("y", ("n",))
    return gi.Graph({"out": gi.sum(x, axis=1) + y})


def test_missing_and_surplus_feeds_are_named() -> None:
    with pytest.raises(gi.FeedError, match="'y' of type float64"):
        gi.evaluate(_pair(), {"x": np.ones((2, 3))})
    with pytest.raises(gi.FeedError, match="'z' is fed but is not an input"):
        gi.evaluate(_pair(), {"x": np.ones((2, 3)), "y": np.ones(2), "z": 1.0})


@pytest.mark.parametrize("shape", [(2, 4), (2,), (2, 3, 1)])
def test_wrong_shapes_name_the_input(shape: tuple[int, ...]) -> None:
    with pytest.raises(gi.ShapeError, match="'x'"):
        gi.evaluate(_pair(), {"x": np.ones(shape), "y": np.ones(2)})


def test_conflicting_sizes_name_both_inputs() -> None:
    with pytest.raises(gi.ShapeError) as caught:
        gi.evaluate(_pair(), {"x": np.ones((2, 3)), "y": np.ones(5)})
    assert "'x'" in str(caught.value)
    assert "'y'" in str(caught.value)


def test_sizes_given_must_agree() -> None:
    feeds = {"x": np.ones((2, 3)), "y": np.ones(2)}
    assert gi.evaluate(_pair(), feeds, sizes={"n": 2})["out"].shape == (2,)
    with pytest.raises(gi.ShapeError, match="sizes given"):
        gi.evaluate(_pair(), feeds, sizes={"n": 3})


def test_arrays_widen_but_never_narrow() -> None:
    graph = gi.Graph({"out": gi.input("a", (2,)) * 1.0})
    assert gi.evaluate(graph, {"a": np.ones(2, "float32")})["out"].dtype == np.float64
    narrow = gi.Graph({"out": gi.input("a", (2,), "float32") * 1.0})
    with pytest.raises(gi.DTypeError, match="'a' is float32"):
        gi.evaluate(narrow, {"a": np.ones(2)})
    assert gi.evaluate(narrow, {"a": [0.5, 1]})["out"].dtype == np.float32


def test_python_integers_must_fit() -> None:
    graph = gi.Graph({"out": gi.input("a", (), "int8") + 1})
    assert gi.evaluate(graph, {"a": 100})["out"] == 101
    with pytest.raises(gi.DTypeError, match="cannot hold"):
        gi.evaluate(graph, {"a": 300})
    with pytest.raises(gi.DTypeError):
        gi.evaluate(graph, {"a": 1.5})
    with pytest.raises(gi.DTypeError):
        gi.evaluate(graph, {"a": "text"})


def test_symbolic_size_is_solved() -> None:
    graph = gi.Graph({"out": gi.input("a", ("2*n",)) * gi.size("n")})
    np.testing.assert_array_equal(gi.evaluate(graph, {"a": np.ones(6)})["out"], np.full(6, 3.0))
    with pytest.raises(gi.ShapeError, match="'a'"):
        gi.evaluate(graph, {"a": np.ones(5)})


def test_check_finite_names_the_node_and_the_line() -> None:
    a = gi.input("a", (2,))
    graph = gi.Graph({"out": gi.log(a) + 1})
    assert np.isneginf(gi.evaluate(graph, {"a": [0.0, 1.0]})["out"][0])
    with pytest.raises(gi.NonFiniteError, match=r"(?s)-inf at index \[0\].*log.*test_feeds\.py:\d+"):
        gi.evaluate(graph, {"a": [0.0, 1.0]}, check_finite=True)
