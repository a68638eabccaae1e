"""Counted limits of derivatives: cheap gradient principle (Griewank, Walther 2008, section 4), in operations."""

import pytest

import graphir as gi
from graphir.cost import operations

SIZES = {"n": 256}


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
