"""Derivatives of products with zeros, to the third order: JAX, and exact arithmetic on small integers."""

import itertools
from collections.abc import Callable
from fractions import Fraction
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import graphir as gi
from graphir.cost import operations
from scheduler.driver.local import run_plan
from scheduler.pipeline import compile

jax.config.update("jax_enable_x64", True)
SIZE = 5


def tower(f: Callable[[gi.Expr], gi.Expr], x: gi.Expr, order: int) -> gi.Expr:
    """All derivatives of an order, with one more set of axes for each."""
    value = f(x)
    for _ in range(order):
        (value,) = gi.jacobian(value, [x])
    return value


def jax_tower(f: Callable[[jax.Array], jax.Array], order: int) -> Callable[[jax.Array], jax.Array]:
    for _ in range(order):
        f = jax.jacfwd(f)
    return f


def with_zeros(shape: tuple[int, ...], zeros: int) -> np.ndarray:
    rng = np.random.default_rng(zeros)
    point = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
    point.reshape(-1)[rng.permutation(point.size)[:zeros]] = 0.0
    return point


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", ["prod", "cumulative_prod", "two axes"])
def test_derivatives_agree_with_jax(name: str, order: int, zeros: int) -> None:
    shape = (2, 2, 2) if name == "two axes" else (SIZE,)
    ours: dict[str, Callable[[gi.Expr], gi.Expr]] = {
        "prod": gi.prod,
        "cumulative_prod": gi.cumulative_prod,
        "two axes": lambda v: gi.prod(v, axis=(0, 2)),
    }
    theirs: dict[str, Callable[[jax.Array], jax.Array]] = {
        "prod": jnp.prod,
        "cumulative_prod": jnp.cumprod,
        "two axes": lambda v: jnp.prod(v, axis=(0, 2)),
    }
    x, point = gi.input("x", shape), with_zeros(shape, zeros)
    found = gi.evaluate(gi.Graph({"out": tower(ours[name], x, order)}), {"x": point})["out"]
    np.testing.assert_allclose(found, jax_tower(theirs[name], order)(jnp.asarray(point)), rtol=1e-13, atol=1e-14)


@given(hnp.arrays(np.float64, SIZE, elements=st.integers(-2, 2)))
def test_derivatives_on_integers_are_exact(point: np.ndarray) -> None:
    """A derivative by distinct elements is the product of the others; by one element twice it is zero."""
    for order in (1, 2, 3):
        found = gi.evaluate(TOWERS[order], {"x": point})["out"]
        for picked in itertools.product(range(SIZE), repeat=order):
            rest = prod(int(point[k]) for k in range(SIZE) if k not in picked)
            assert found[picked] == (rest if len(set(picked)) == order else 0)


TOWERS = {order: gi.Graph({"out": tower(gi.prod, gi.input("x", (SIZE,)), order)}) for order in (1, 2, 3)}


def test_a_product_that_underflows_keeps_its_gradient() -> None:
    x = gi.input("x", (4,))
    point = np.array([1e-200, 2e-200, 3.0, 4.0])
    out = gi.evaluate(gi.Graph({"p": gi.prod(x), "g": gi.grad(gi.prod(x), [x])[0]}), {"x": point})
    exact = [float(prod(Fraction(point[j]) for j in range(4) if j != k)) for k in range(4)]
    assert out["p"] == 0.0
    np.testing.assert_allclose(out["g"], exact, rtol=1e-15)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_cut_along_n_has_the_same_derivatives(axis: int) -> None:
    x = gi.input("x", ("n", 3))
    v = gi.input("v", ("n", 3))
    loss = gi.sum(gi.sin(gi.prod(x, axis=axis)))
    outputs = {"g": gi.grad(loss, [x])[0], "h": gi.hvp(loss, [x], [v])[0]}
    graph = gi.Graph(outputs)
    feeds = {"x": with_zeros((7, 3), 3), "v": with_zeros((7, 3), 0)}
    plan = compile(graph, {"n": 7}, chunk={"n": 2})
    cut, whole = run_plan(plan, feeds), gi.evaluate(graph, feeds)
    for name in outputs:
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-14, atol=1e-15)


def test_the_gradient_costs_five_values_at_any_size() -> None:
    x = gi.input("x", ("n", 4))
    value = gi.prod(x, axis=0)
    (gradient,) = gi.vjp([value], [x], [gi.input("ct", (4,))])
    graph = gi.simplify(gi.Graph({"value": value, "gradient": gradient}))
    for n in (8, 1024):
        assert operations(graph, {"n": n}) == 5 * operations(gi.Graph({"value": value}), {"n": n})
