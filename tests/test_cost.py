"""Counted limits of derivatives: cheap gradient principle (Griewank, Walther 2008, section 4), in operations."""

from collections.abc import Iterator
from math import prod
from typing import Any

import pytest

import graphir as gi
from graphir.cost import operations
from graphir.example import Example
from graphir.node import REGISTRY, Op
from graphir.ops.sources import input_
from graphir.reverse import carries

SIZES = {"n": 256}

DEARER = {
    "prod": "running products from both ends and their recurrences, for nothing is divided where elements may be zero",
    "retraced_scan": "computes its body again on purpose, to keep few states",
}
"""Ops whose Hessian-vector products cost more than ten values, but at most fifteen, and why."""


def network(layers: int, normalise: bool = False) -> tuple[gi.Expr, list[gi.Expr]]:
    value = gi.input("x", ("n", 32))
    weights = [gi.input(f"w{k}", (32, 32)) for k in range(layers)]
    for w in weights:
        value = gi.tanh(value @ w)
        if normalise:
            value = (value - gi.mean(value, axis=0)) / gi.sqrt(gi.var(value, axis=0) + 1e-3)
    return gi.mean(gi.logsumexp(value, axis=1)), weights


def counted(**outputs: gi.Expr) -> int:
    return operations(gi.simplify(gi.Graph(outputs)), SIZES)


@pytest.mark.parametrize("normalise", [False, True])
def test_value_and_gradient_cost_at_most_five_values(normalise: bool) -> None:
    loss, weights = network(3, normalise)
    gradients = dict(zip("abc", gi.grad(loss, weights), strict=True))
    assert counted(loss=loss) < counted(loss=loss, **gradients) <= 5 * counted(loss=loss)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_hessian_vector_product_costs_at_most_ten_values(normalise: bool) -> None:
    loss, weights = network(3, normalise)
    vectors = [gi.input(f"v{k}", (32, 32)) for k in range(3)]
    products = dict(zip("abc", gi.hvp(loss, weights, vectors), strict=True))
    assert counted(loss=loss, **products) <= 10 * counted(loss=loss)


def test_the_gradient_graph_grows_linearly() -> None:
    sizes = []
    for layers in (4, 8, 16):
        loss, weights = network(layers)
        graph = gi.Graph({"loss": loss, **{f"g{k}": g for k, g in enumerate(gi.grad(loss, weights))}})
        sizes.append(len(graph))
    assert sizes[2] - sizes[1] == 2 * (sizes[1] - sizes[0])


def test_counts_are_those_of_the_rules() -> None:
    x, w = gi.input("x", (5, 7)), gi.input("w", (7, 3))
    assert operations(gi.Graph({"out": x @ w})) == 2 * 5 * 7 * 3
    assert operations(gi.Graph({"out": gi.sum(x)})) == 35
    assert operations(gi.Graph({"out": gi.reshape(x, (35,))})) == 0
    assert operations(gi.Graph({"out": gi.tanh(gi.input("n", ("n", 2)))}), {"n": 9}) == 10 * 18


# ---- the op set ----


def op_cases() -> Iterator[Any]:
    for op in REGISTRY.values():
        for k, example in enumerate(op.examples):
            if op.name not in ("input", "custom_vjp") and all(prod(s.shape) for s in example.inputs):
                value, wrt, _ = applied(op, example)
                if wrt:
                    yield pytest.param(op, example, id=f"{op.name}-{k}")
                assert value.node.op is op


def applied(op: Op, example: Example) -> tuple[gi.Expr, list[gi.Expr], int]:
    """The op on inputs, those of them that have a derivative, and the most elements of its operands."""
    inputs = [input_(name=f"arg{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs)]
    node = op(*inputs, **example.attrs)
    wrt = [gi.Expr(source) for k, source in enumerate(inputs) if carries(node, k)]
    return gi.Expr(node), wrt, max(prod(n.type.bind({})) for n in (node, *inputs))


@pytest.mark.parametrize(("op", "example"), list(op_cases()))
def test_derivatives_of_every_op_are_cheap(op: Op, example: Example) -> None:
    """A view, which costs nothing, is taken to cost one operation for each element."""
    value, wrt, elements = applied(op, example)
    weights = gi.input("weights", value.shape, value.dtype)
    gradients = gi.vjp([value], wrt, [weights], disconnected="zero")
    first = counted(value=value, **{f"g{k}": g for k, g in enumerate(gradients)})
    assert first <= 5 * max(counted(value=value), elements)

    loss = gi.sum(value * weights)
    vectors = [gi.input(f"v{k}", x.shape, x.dtype) for k, x in enumerate(wrt)]
    slopes = gi.grad(loss, wrt, disconnected="zero")
    products = gi.vjp(slopes, wrt, vectors, constants=vectors, disconnected="zero")
    second = counted(loss=loss, **{f"h{k}": h for k, h in enumerate(products)})
    assert second <= (15 if op.name in DEARER else 10) * counted(loss=loss)
