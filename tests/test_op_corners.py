"""Where derivatives are delicate: zeros, ties, infinities. The oracle is JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import graphir as gi
from graphir.node import REGISTRY

jax.config.update("jax_enable_x64", True)
INF = float("inf")

CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], list[float]]] = {
    "prod with one zero": (lambda x: gi.prod(x), jnp.prod, [2.0, 0.0, -3.0]),
    "prod with two zeros": (lambda x: gi.prod(x), jnp.prod, [2.0, 0.0, 0.0]),
    "logsumexp with -inf": (lambda x: gi.logsumexp(x), jax.scipy.special.logsumexp, [-INF, 1.0, 2.0]),
    "maximum at a tie": (lambda x: gi.sum(gi.maximum(x, 1.0)), lambda x: jnp.sum(jnp.maximum(x, 1.0)), [0.0, 1.0, 2.0]),
    "minimum at a tie": (lambda x: gi.sum(gi.minimum(1.0, x)), lambda x: jnp.sum(jnp.minimum(1.0, x)), [0.0, 1.0, 2.0]),
    "maximum of infinities": (
        lambda x: gi.sum(gi.maximum(x, INF)),
        lambda x: jnp.sum(jnp.maximum(x, INF)),
        [-INF, 1.0, INF],
    ),
    "max with ties": (lambda x: gi.max(x), jnp.max, [3.0, 1.0, 3.0]),
    "min with ties": (lambda x: gi.min(x), jnp.min, [1.0, 1.0, 3.0]),
    "softmax of large values": (
        lambda x: gi.sum(gi.softmax(x) * gi.constant([1.0, 2.0, 3.0])),
        lambda x: jnp.sum(jax.nn.softmax(x) * jnp.array([1.0, 2.0, 3.0])),
        [1000.0, 1001.0, -1000.0],
    ),
    "square at zero": (lambda x: gi.sum(x**2), lambda x: jnp.sum(x**2), [0.0, 1.0, -2.0]),
    "logaddexp of -inf": (
        lambda x: gi.sum(gi.logaddexp(x, 0.5)),
        lambda x: jnp.sum(jnp.logaddexp(x, 0.5)),
        [-INF, 0.0, 1.0],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_agrees_with_jax(name: str) -> None:
    ours, theirs, point = CASES[name]
    x = gi.input("corner", (3,))
    value = ours(x)
    out = gi.evaluate(gi.Graph({"v": value, "g": gi.grad(value, [x])[0]}), {"corner": point})
    expected = jax.value_and_grad(theirs)(jnp.array(point))
    np.testing.assert_allclose(out["v"], expected[0], rtol=1e-13)
    np.testing.assert_allclose(out["g"], expected[1], rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 2.5])
@pytest.mark.parametrize("base", [0.0, 0.7])
def test_powers_to_the_third_derivative(base: float, exponent: float) -> None:
    if base == 0.0 and exponent == 2.5:
        return  # the third derivative is infinite there
    x = gi.input("base")
    derivative = x ** gi.constant(exponent)
    exact, power = 1.0, exponent
    for order in range(1, 4):
        (derivative,) = gi.grad(derivative, [x], disconnected="zero")
        exact *= power
        power -= 1
        found = gi.evaluate(gi.Graph({"d": derivative}, inputs=[x]), {"base": base})["d"]
        expected = exact * base**power if exact else 0.0
        np.testing.assert_allclose(found, expected, rtol=1e-13, err_msg=f"order {order}")


@pytest.mark.parametrize("function", [gi.maximum, gi.minimum])
def test_neither_value_wins_beside_a_nan(function: Callable[[gi.Expr, gi.Expr], gi.Expr]) -> None:
    x, y = gi.input("x", (3,)), gi.input("y", (3,))
    value = function(x, y)
    dx, dy = gi.grad(gi.sum(value), [x, y])
    nan = float("nan")
    out = gi.evaluate(gi.Graph({"v": value, "dx": dx, "dy": dy}), {"x": [nan, 1.0, nan], "y": [1.0, nan, nan]})
    assert np.isnan(out["v"]).all()
    assert not out["dx"].any()
    assert not out["dy"].any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "int64", "bool"])
def test_where_gives_the_bits_of_what_it_chooses(dtype: str) -> None:
    rng = np.random.default_rng(3)
    x, y = ((rng.standard_normal((70, 90)) * 50).astype(dtype) for _ in range(2))
    if x.dtype.kind == "f":
        x[0, 0], y[1, 1], y[2] = np.nan, -np.inf, -0.0
    zero, less = (
        np.broadcast_to(np.zeros((), dtype), x.shape),
        np.broadcast_to(np.asarray(-0.0).astype(dtype), x.shape),
    )
    condition = rng.random((70, 90)) > 0.5
    kernel = REGISTRY["where"].kernel
    for left, right in (
        (x, y),
        (x.T.copy().T, y),
        (x, zero),
        (zero, y),
        (x[::-1], less),
        (np.broadcast_to(x[:1], x.shape), y),
    ):
        for chosen in (condition, condition[:, ::-1], np.broadcast_to(condition[:1], condition.shape)):
            assert (
                np.ascontiguousarray(kernel(chosen, left, right)).tobytes() == np.where(chosen, left, right).tobytes()
            )
