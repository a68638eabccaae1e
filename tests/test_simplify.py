"""Simplification against the reference evaluation: not one bit may change; verify finds what is broken."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.errors import GraphError, InvariantError
from graphir.graph import Graph
from graphir.interpret import evaluate
from graphir.node import Node, _Fields, made_by
from graphir.ops import arithmetic as a
from graphir.ops.bits import bitcast
from graphir.ops.contraction import einsum, matmul
from graphir.ops.indexing import take
from graphir.ops.layout import broadcast, concat, fill_like, flip, permute, place, reduce_sum, reshape, slice_
from graphir.ops.select import cast, logical_not, where
from graphir.ops.sources import input_, iota, literal, size
from graphir.ops.transcendental import pow_, sin
from graphir.origin import Origin
from graphir.rewrite import Rule, rewrite
from graphir.simplify import MAX_FOLDED_BYTES, Layouts, simplify
from tests.random_graphs import feeds, graphs, same_bits

X = gi.input("s", (9,))
REDUCED: dict[str, tuple[Callable[[], gi.Expr], Callable[[], gi.Expr]]] = {
    "x * 1": (lambda: X * 1.0, lambda: X),
    "1 * x": (lambda: 1.0 * X, lambda: X),
    "x / 1": (lambda: X / 1.0, lambda: X),
    "x - 0": (lambda: X - 0.0, lambda: X),
    "x + -0.0": (lambda: X + -0.0, lambda: X),
    "--x": (lambda: gi.negative(gi.negative(X)), lambda: X),
    "+x": (lambda: +X, lambda: X),
    "reshape twice": (lambda: gi.reshape(gi.reshape(X, (3, 3)), (9,)), lambda: X),
    "transpose twice": (lambda: gi.reshape(gi.reshape(X, (3, 3)).T.T, (9,)), lambda: X),
    "flip twice": (lambda: X[::-1][::-1], lambda: X),
    "fold": (lambda: X * (gi.constant(2.0) * gi.constant(3.0)), lambda: X * 6.0),
    "where": (lambda: gi.where(gi.constant(True), X, -X), lambda: X),
}


def _input(name: str = "x", dtype: str = "float64", shape: tuple[int | str, ...] = ("n", 4)) -> Node:
    return input_(name=name, dtype=dtype, shape=shape)


def _simple(node: Node) -> Node:
    return simplify(Graph({"y": node})).outputs["y"]


@settings(max_examples=400)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_no_bit_changes_and_twice_is_once(graph: Graph, seed: int) -> None:
    values = feeds(graph, seed)
    simple = simplify(graph)
    assert list(simple.inputs.items()) == list(graph.inputs.items())
    assert list(simple.outputs) == list(graph.outputs)
    assert simplify(simple) is simple
    try:
        expected = evaluate(graph, values, sizes={"n": 3})
    except GraphError as error:
        with pytest.raises(type(error)):
            evaluate(simple, values, sizes={"n": 3})
        return
    assert same_bits(evaluate(simple, values, sizes={"n": 3}), expected)


@settings(max_examples=200)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_what_is_said_to_be_contiguous_is(graph: Graph, seed: int) -> None:
    layouts = Layouts()
    compact = Graph({f"v{k}": n for k, n in enumerate(graph.nodes)}, inputs=graph.inputs)
    try:
        values = evaluate(compact, feeds(graph, seed), sizes={"n": 3})
    except GraphError:
        return
    for name, node in compact.outputs.items():
        assert values[name].flags.c_contiguous or not layouts.compact(node), node


def test_the_same_bits_read_as_another_type_lie_as_they_lay() -> None:
    column = gi.input("x", (3, 1), "int64")
    spread = gi.broadcast_to(column, (3, 4))
    assert not Layouts().compact(bitcast(spread.node, dtype="float64"))
    assert Layouts().compact(bitcast(column.node, dtype="float64"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8"])
def test_neutral_elements_vanish(dtype: str) -> None:
    x = _input(dtype=dtype)
    one, zero = fill_like(x, 1), fill_like(x, 0)
    cases = [a.multiply(x, one), a.multiply(one, x), a.subtract(x, zero), a.positive(x), a.negative(a.negative(x))]
    if x.type.dtype.kind == "f":
        cases += [a.divide(x, one), a.add(x, fill_like(x, -0.0)), a.add(fill_like(x, -0.0), x)]
    else:
        cases += [a.add(x, zero), a.add(zero, x), pow_(x, one)]
    assert [_simple(case) for case in cases] == [x] * len(cases)


def test_what_only_looks_exact_stays() -> None:
    x = _input()
    one, zero = fill_like(x, 1), fill_like(x, 0)
    column = _input("c", shape=("n", 1))
    cases = [
        a.add(x, zero),  # -0.0 + 0.0 is 0.0
        a.subtract(x, fill_like(x, -0.0)),
        a.multiply(x, zero),
        a.subtract(x, x),
        pow_(x, one),
        reduce_sum(column, axes=(1,)),  # numpy: 0.0 + -0.0
        a.multiply(permute(x, axes=(1, 0)), permute(one, axes=(1, 0))),  # another layout
        reshape(reshape(permute(x, axes=(1, 0)), shape=("4*n",)), shape=("n", 4)),  # the first one copies
    ]
    assert [_simple(case) for case in cases] == cases


def test_views_are_fused_and_copies_of_the_whole_vanish() -> None:
    x, k = _input(), _input("k", "int64", ("n", 1))
    assert _simple(permute(permute(x, axes=(1, 0)), axes=(1, 0))) is x
    assert _simple(flip(flip(x, axis=1), axis=1)) is x
    assert _simple(slice_(x, axis=0, start=0, stop="n", step=1)) is x
    assert _simple(place(x, axis=0, size="n", start=0, step=1)) is x
    assert _simple(concat(x, axis=0)) is x
    assert _simple(cast(x, dtype="float64")) is x
    assert _simple(reshape(reshape(x, shape=("4*n",)), shape=("n", 4))) is x
    assert _simple(reduce_sum(k, axes=(1,))) is reshape(k, shape=("n",))
    twice = broadcast(broadcast(x, shape=("n", 2, 4), axes=(0, 2)), shape=(5, "n", 2, 4), axes=(1, 2, 3))
    assert _simple(twice) is broadcast(x, shape=(5, "n", 2, 4), axes=(1, 3))


def test_where_with_a_known_condition() -> None:
    x, y = _input(), _input("y")
    yes = broadcast(literal(True), shape=("n", 4), axes=())
    assert _simple(where(yes, x, y)) is x
    assert _simple(where(logical_not(yes), x, y)).op is where  # broadcasts are not folded
    assert _simple(where(_input("c", "bool"), x, x)) is x
    both = Graph({"z": where(yes, x, y)})
    assert list(simplify(both).inputs) == ["x", "y"]  # y is still to be fed


def test_constants_are_folded_within_bounds() -> None:
    two, three = literal(2.0), literal(np.arange(3.0))
    assert _simple(a.multiply(two, a.add(two, two))) is literal(8.0)
    assert _simple(reduce_sum(sin(three), axes=(0,))) is literal(np.sum(np.sin(np.arange(3.0)), axis=0))
    assert _simple(size(dim=5)) is literal(np.int64(5))
    large = literal(np.ones(MAX_FOLDED_BYTES // 8))
    for kept in (
        a.divide(two, literal(0.0)),  # not finite: the error must name the user's node
        a.negative(literal(np.nan)),
        cast(literal(1e300), dtype="int8"),
        a.negative(large),
        broadcast(two, shape=(9,), axes=()),
        iota(shape=("n",)),
        size(dim="n"),
        pow_(literal(2), literal(-1)),  # the kernel refuses
        take(literal(np.arange(3.0)), literal(7), axis=0),
    ):
        assert _simple(kept) is kept


def test_dead_nodes_go_inputs_and_kept_nodes_stay() -> None:
    x, unused = _input(), _input("unused")
    with made_by(Origin("user", "model.py:7")):
        y = sin(a.multiply(x, fill_like(x, 1)))
        kept = a.negative(x)
    rest = [node for node in Graph({"y": y, "k": kept}).nodes if node is not x]
    graph = Graph.from_nodes((x, unused, sin(x), *rest), {"y": y, "k": kept}, [x, unused])
    simple = simplify(graph)
    assert list(simple.inputs) == ["x", "unused"]
    assert simple.outputs["k"] is kept
    assert {node.op.name for node in simple.nodes} == {"input", "sin", "negative"}


def test_replacements_have_the_origin_of_what_they_replace() -> None:
    x = _input("origin_probe")
    with made_by(Origin("user", "model.py:9")):
        node = permute(permute(x, axes=(1, 0)), axes=(0, 1))
        outer = a.multiply(node, sin(node))
    assert _simple(outer).origin == Origin("user", "model.py:9")
    assert _simple(node).origin.where == "model.py:9"


def test_products_of_views_keep_their_bits() -> None:
    x = _input("x", shape=(40, 30))
    t = permute(x, axes=(1, 0))
    turned = einsum(x, subscripts="ij->ji")
    graph = Graph({"m": matmul(a.multiply(t, fill_like(t, 1)), x), "s": reduce_sum(a.positive(turned), axes=(0, 1))})
    value = {"x": np.random.default_rng(5).normal(size=(40, 30))}
    assert same_bits(evaluate(simplify(graph), value), evaluate(graph, value))


def test_a_long_chain_does_not_recurse() -> None:
    x = node = _input()
    one = fill_like(x, 1)
    for _ in range(20_000):
        node = a.multiply(node, one)
    assert _simple(node) is x
    assert Layouts().compact(node)


def test_rules_that_lie_or_circle_are_caught() -> None:
    x = _input()
    graph = Graph({"y": sin(x)})
    with pytest.raises(InvariantError, match="'lie' made"):
        rewrite(graph, [Rule("lie", frozenset({"sin"}), lambda node: cast(node, dtype="float32"))])
    there = Rule("there", frozenset({"sin"}), lambda node: a.negative(node.inputs[0]))
    back = Rule("back", frozenset({"negative"}), lambda node: sin(node.inputs[0]))
    with pytest.raises(InvariantError, match="undo one another"):
        rewrite(graph, [there, back])


# ---- on expressions ----


@pytest.mark.parametrize("name", REDUCED)
def test_what_is_reduced(name: str) -> None:
    before, after = REDUCED[name]
    graph = gi.Graph({"out": before()}, inputs=[X])
    assert gi.simplify(graph).outputs["out"] is after().node


@pytest.mark.parametrize("kept", [lambda: X + 0.0, lambda: X * 0.0, lambda: X - -0.0, lambda: 0.0 - X, lambda: X / X])
def test_what_would_change_a_bit_is_kept(kept: Callable[[], gi.Expr]) -> None:
    graph = gi.Graph({"out": kept()})
    assert gi.simplify(graph) == graph


# ---- verify ----


def test_verify_accepts_what_the_language_makes() -> None:
    loss = gi.mean(gi.logsumexp(gi.tanh(X)))
    graph = gi.Graph({"loss": loss, "d": gi.grad(loss, [X])[0]})
    assert gi.verify(graph) is graph


def test_verify_finds_a_wrong_order() -> None:
    graph = gi.Graph({"out": gi.sin(X)})
    with pytest.raises(gi.InvariantError, match="before it is made"):
        gi.verify(gi.Graph.from_nodes(graph.nodes[::-1], dict(graph.outputs), [X.node]))


def test_verify_finds_missing_and_double_nodes() -> None:
    graph = gi.Graph({"out": gi.sin(X)})
    with pytest.raises(gi.InvariantError, match="not among the graph's nodes"):
        gi.verify(gi.Graph.from_nodes(graph.nodes[:1], dict(graph.outputs), [X.node]))
    with pytest.raises(gi.InvariantError, match="twice"):
        gi.verify(gi.Graph.from_nodes((*graph.nodes, graph.nodes[-1]), dict(graph.outputs), [X.node]))


def test_verify_finds_a_forged_node() -> None:
    true = gi.sin(X).node
    forged = _Fields(a.negative, (X.node,), (), true.type.with_shape((3,)), 10**9, None)
    forged.__class__ = type(true)
    with pytest.raises(gi.InvariantError, match=r"float64\[3\] but its op infers float64\[9\]"):
        gi.verify(gi.Graph.from_nodes((X.node, forged), {"out": forged}, [X.node]))  # type: ignore[dict-item]
