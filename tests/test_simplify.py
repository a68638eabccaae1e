"""Simplify changes no bit; verify finds what is broken; rewriting is idempotent."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.node import _Fields
from graphir.ops import arithmetic

SPECIAL = np.array([0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-310, 1e308])
x = gi.input("s", (9,))
REDUCED: dict[str, tuple[Callable[[], gi.Expr], Callable[[], gi.Expr]]] = {
    "x * 1": (lambda: x * 1.0, lambda: x),
    "1 * x": (lambda: 1.0 * x, lambda: x),
    "x / 1": (lambda: x / 1.0, lambda: x),
    "x - 0": (lambda: x - 0.0, lambda: x),
    "x + -0.0": (lambda: x + -0.0, lambda: x),
    "--x": (lambda: gi.negative(gi.negative(x)), lambda: x),
    "+x": (lambda: +x, lambda: x),
    "reshape twice": (lambda: gi.reshape(gi.reshape(x, (3, 3)), (9,)), lambda: x),
    "transpose twice": (lambda: gi.reshape(gi.reshape(x, (3, 3)).T.T, (9,)), lambda: x),
    "flip twice": (lambda: x[::-1][::-1], lambda: x),
    "fold": (lambda: x * (gi.constant(2.0) * gi.constant(3.0)), lambda: x * 6.0),
    "where": (lambda: gi.where(gi.constant(True), x, -x), lambda: x),
}


@pytest.mark.parametrize("name", REDUCED)
def test_what_is_reduced(name: str) -> None:
    before, after = REDUCED[name]
    graph = gi.Graph({"out": before()}, inputs=[x])
    assert gi.simplify(graph).outputs["out"] is after().node


@pytest.mark.parametrize("kept", [lambda: x + 0.0, lambda: x * 0.0, lambda: x - -0.0, lambda: 0.0 - x, lambda: x / x])
def test_what_would_change_a_bit_is_kept(kept: Callable[[], gi.Expr]) -> None:
    graph = gi.Graph({"out": kept()})
    assert gi.simplify(graph) == graph


def steps() -> st.SearchStrategy[list[tuple[str, float]]]:
    names = [
        "add",
        "multiply",
        "subtract",
        "divide",
        "negative",
        "where",
        "reshape",
        "flip",
        "tanh",
        "broadcast",
        "pow",
        "cast",
    ]
    return st.lists(st.tuples(st.sampled_from(names), st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0])), max_size=10)


def build(program: list[tuple[str, float]]) -> gi.Expr:
    value, other = x, gi.input("o", (9,))
    moves: dict[str, Callable[[gi.Expr, float], gi.Expr]] = {
        "add": lambda v, c: v + c,
        "multiply": lambda v, c: c * v,
        "subtract": lambda v, c: v - c,
        "divide": lambda v, c: v / c,
        "negative": lambda v, c: -v,
        "where": lambda v, c: gi.where(gi.constant(c) > 0, v, other),
        "reshape": lambda v, c: gi.reshape(gi.reshape(v, (3, 3)).T, (9,)),
        "flip": lambda v, c: v[::-1],
        "tanh": lambda v, c: gi.tanh(v),
        "broadcast": lambda v, c: v * gi.broadcast_to(gi.broadcast_to(gi.constant(c), (1,)), (9,)),
        "pow": lambda v, c: v**c,
        "cast": lambda v, c: gi.astype(gi.astype(v, "float64"), "float64") + gi.constant(c) * gi.constant(3.0),
    }
    for name, c in program:
        value = moves[name](value, c)
    return value


@given(steps())
def test_no_bit_changes(program: list[tuple[str, float]]) -> None:
    graph = gi.Graph({"out": build(program), "x": x}, inputs=[x, gi.input("o", (9,))])
    feeds = {"s": SPECIAL, "o": SPECIAL[::-1].copy()}
    simple = gi.simplify(graph)
    assert list(simple.inputs) == list(graph.inputs)
    before, after = gi.evaluate(graph, feeds)["out"], gi.evaluate(simple, feeds)["out"]
    assert np.array_equal(np.isnan(before), np.isnan(after))
    plain = ~np.isnan(before)
    assert before[plain].tobytes() == after[plain].tobytes()
    assert len(simple) <= len(graph)
    assert gi.simplify(simple) == simple


# ---- verify ----


def test_verify_accepts_what_the_language_makes() -> None:
    loss = gi.mean(gi.logsumexp(gi.tanh(x)))
    graph = gi.Graph({"loss": loss, "d": gi.grad(loss, [x])[0]})
    assert gi.verify(graph) is graph


def test_verify_finds_a_wrong_order() -> None:
    graph = gi.Graph({"out": gi.sin(x)})
    with pytest.raises(gi.InvariantError, match="before it is made"):
        gi.verify(gi.Graph.from_nodes(graph.nodes[::-1], dict(graph.outputs), [x.node]))


def test_verify_finds_missing_and_double_nodes() -> None:
    graph = gi.Graph({"out": gi.sin(x)})
    with pytest.raises(gi.InvariantError, match="not among the graph's nodes"):
        gi.verify(gi.Graph.from_nodes(graph.nodes[:1], dict(graph.outputs), [x.node]))
    with pytest.raises(gi.InvariantError, match="twice"):
        gi.verify(gi.Graph.from_nodes((*graph.nodes, graph.nodes[-1]), dict(graph.outputs), [x.node]))


def test_verify_finds_a_forged_node() -> None:
    true = gi.sin(x).node
    forged = _Fields(arithmetic.negative, (x.node,), (), true.type.with_shape((3,)), 10**9, None)
    forged.__class__ = type(true)
    with pytest.raises(gi.InvariantError, match=r"float64\[3\] but its op infers float64\[9\]"):
        gi.verify(gi.Graph.from_nodes((x.node, forged), {"out": forged}, [x.node]))  # type: ignore[dict-item]
