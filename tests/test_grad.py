"""Derivatives: the functions of graphir.grad, against JAX and against closed forms."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy


def _value(expr: gi.Expr, **feeds: Any) -> Any:
    graph = gi.Graph({"out": expr})
    return gi.evaluate(graph, {name: feeds[name] for name in graph.inputs})["out"]


def test_vjp_hvp_and_seed() -> None:
    x, v = gi.input("x", (3,)), gi.input("v", (3,))
    at, direction = np.array([0.5, -1.0, 2.0]), np.array([1.0, 2.0, -3.0])
    (pulled,) = gi.vjp([gi.sin(x)], [x], [v])
    np.testing.assert_allclose(_value(pulled, x=at, v=direction), direction * np.cos(at), rtol=1e-15)
    (seeded,) = gi.grad(gi.sin(x), [x], seed=v)
    assert seeded.node is pulled.node
    (product,) = gi.hvp(gi.sum(x**3) + gi.prod(x), [x], [v])
    a, b, c = at
    hessian = np.array([[6 * a, c, b], [c, 6 * b, a], [b, a, 6 * c]])
    np.testing.assert_allclose(_value(product, x=at, v=direction), hessian @ direction, rtol=1e-13)


def test_append_gradients_names_and_prefix() -> None:
    x, w, k = gi.input("x", ("n", 2)), gi.input("w", (2,)), gi.input("k", (), "int64")
    graph = gi.Graph({"loss": gi.mean((x @ w) ** 2) * k})
    extended = gi.append_gradients(graph)
    assert list(extended.outputs) == ["loss", "d_loss_d_x", "d_loss_d_w"]
    assert extended.nodes[: len(graph.nodes)] == graph.nodes
    assert extended.outputs["d_loss_d_x"].type == graph.inputs["x"].type
    with pytest.raises(gi.DisconnectedError, match="no output 'cost'"):
        gi.append_gradients(graph, "cost")
    with pytest.raises(gi.DisconnectedError, match="no input 'q'"):
        gi.append_gradients(graph, "loss", ["q"])


def test_value_and_grad() -> None:
    x, w = gi.input("x", ("n", 2)), gi.input("w", (2,))
    graph = gi.Graph({"loss": gi.sum((x @ w) ** 2)})
    data, weights = np.arange(6.0).reshape(3, 2), np.array([1.0, -2.0])
    value, gradients = gi.value_and_grad(graph, {"x": data, "w": weights}, wrt=["w"])
    assert value == np.sum((data @ weights) ** 2)
    np.testing.assert_allclose(gradients["w"], 2 * data.T @ (data @ weights), rtol=1e-14)


def test_stop_gradient_and_constants() -> None:
    x = gi.input("x")
    y = gi.sin(x)
    (stopped,) = gi.grad(gi.stop_gradient(y) * x, [x])
    (held,) = gi.grad(y * x, [x], constants=[y])
    for expr in (stopped, held):
        assert _value(expr, x=0.7) == np.sin(0.7)


def test_disconnected_says_where() -> None:
    x, other, i = gi.input("x"), gi.input("other"), gi.input("i", (), "int32")
    with pytest.raises(gi.DisconnectedError, match="depends on 'other'"):
        gi.grad(gi.sin(x), [other])
    (zero,) = gi.grad(gi.sin(x), [other], disconnected="zero")
    assert _value(zero, other=3.0) == 0.0
    with pytest.raises(gi.DisconnectedError, match=r"(?s)gives int64.*test_grad\.py.*path: x -> sin -> cast"):
        gi.grad(gi.astype(gi.astype(gi.sin(x), "int64"), "float64"), [x])
    with pytest.raises(gi.DisconnectedError, match="only floats carry derivatives"):
        gi.grad(i * gi.sin(x), [i])
    with pytest.raises(gi.DisconnectedError, match="cast it to a float"):
        gi.grad(i, [i])


def test_grad_needs_a_scalar_and_a_list() -> None:
    x = gi.input("x", (3,))
    with pytest.raises(gi.ShapeError, match="grad needs a scalar"):
        gi.grad(x, [x])
    with pytest.raises(gi.ShapeError, match="list"):
        gi.grad(gi.sum(x), x)  # type: ignore[arg-type]  # the mistake under test


def test_constants_block_paths_and_nothing_else() -> None:
    x, point = gi.input("x", (3,)), np.array([0.3, -0.8, 1.7])
    y = gi.sin(x)
    value = gi.sum(y * gi.exp(x) * gi.cos(y))
    held = gi.grad(value, [x], constants=[y])[0]
    stopped = gi.grad(value, [x], constants=[gi.cos(y)])[0]

    def partly(which: str) -> Any:
        def function(x: Any) -> Any:
            y = jnp.sin(x)
            first = jax.lax.stop_gradient(y) if which == "y" else y
            return jnp.sum(first * jnp.exp(x) * jax.lax.stop_gradient(jnp.cos(y)))

        return jax.grad(function)(point)

    np.testing.assert_allclose(_value(held, x=point), partly("y"), rtol=1e-14)
    np.testing.assert_allclose(_value(stopped, x=point), partly("cos"), rtol=1e-14)
    assert gi.grad(value, [x], constants=[gi.tanh(x)])[0].node is gi.grad(value, [x])[0].node
    (second,) = gi.grad(gi.sum(held), [x])  # what was held is not held for ever
    expected = jax.grad(lambda v: jnp.sum(jnp.sin(v) * jnp.cos(jnp.sin(v)) * jnp.exp(v)))(point)
    np.testing.assert_allclose(_value(second, x=point), expected, rtol=1e-13)


def test_constants_on_every_path_are_an_error_or_zero() -> None:
    x = gi.input("x", (3,))
    y = gi.sin(x)
    with pytest.raises(gi.DisconnectedError, match=r"(?s)sin is among the constants.*path: x -> sin"):
        gi.grad(gi.sum(y), [x], constants=[y])
    with pytest.raises(gi.DisconnectedError, match="'x' is held constant; leave it out of wrt or of constants"):
        gi.grad(gi.sum(y), [x], constants=[x])
    for held in (x, y):
        (zero,) = gi.grad(gi.sum(y), [x], constants=[held], disconnected="zero")
        assert not _value(zero, x=np.ones(3)).any()
    with pytest.raises(gi.ShapeError, match="constants is a list"):
        gi.grad(gi.sum(y), [x], constants=y)


def test_seeds_may_be_arrays_expressions_and_of_other_dtypes() -> None:
    x, point = gi.input("x", (3,)), np.array([0.3, -0.8, 1.7])
    weights = np.array([1.0, -2.0, 3.0])
    for seed in (weights, gi.constant(weights), gi.constant(weights.astype("float32")), gi.constant([1, -2, 3])):
        (found,) = gi.grad(gi.sin(x), [x], seed=seed)
        np.testing.assert_allclose(_value(found, x=point), weights * np.cos(point), rtol=1e-15)
    (own,) = gi.grad(gi.sin(x), [x], seed=gi.exp(x))  # a seed is not differentiated at first, but later it is
    np.testing.assert_allclose(_value(own, x=point), np.exp(point) * np.cos(point), rtol=1e-15)
    (later,) = gi.grad(gi.sum(own), [x])
    np.testing.assert_allclose(_value(later, x=point), np.exp(point) * (np.cos(point) - np.sin(point)), rtol=1e-14)
    for wrong in (2.0, np.ones(2), np.ones((1, 3))):
        with pytest.raises(gi.ShapeError, match="one of the same shape"):
            gi.grad(gi.sin(x), [x], seed=wrong)


def test_several_outputs_and_variables() -> None:
    x, w = gi.input("x", (3,)), gi.input("w", (3, 3))
    rng = np.random.default_rng(2)
    at, weights, cts = rng.normal(size=3), rng.normal(size=(3, 3)), (rng.normal(size=3), np.array(0.7))
    y = gi.tanh(x @ w)
    found = gi.vjp([y, gi.sum(y * x)], [w, x, y, x], list(cts))
    expected = jax.vjp(lambda x, w: (jnp.tanh(x @ w), jnp.sum(jnp.tanh(x @ w) * x)), at, weights)[1](cts)
    by_y = cts[0] + cts[1] * at
    for expr, want in zip(found, (expected[1], expected[0], by_y, expected[0]), strict=True):
        np.testing.assert_allclose(_value(expr, x=at, w=weights), want, rtol=1e-13)


def test_hvp_along_a_vector_that_the_value_depends_on() -> None:
    x, point = gi.input("x", (3,)), np.array([0.3, -0.8, 1.7])
    y = gi.sin(x)
    hessian = jax.hessian(lambda v: jnp.sum(jnp.sin(v) ** 2 * jnp.prod(v)))(point)
    for vector, along in ((y, np.sin(point)), (x, point), (np.ones(3), np.ones(3))):
        (product,) = gi.hvp(gi.sum(y**2 * gi.prod(x)), [x], [vector])
        np.testing.assert_allclose(_value(product, x=point), hessian @ along, rtol=1e-12)


def test_zeros_where_one_of_several_is_disconnected() -> None:
    x, other, k = gi.input("x", ("n",)), gi.input("other", ("n", 2), "float32"), gi.input("k", (2,), "int32")
    found = gi.grad(gi.sum(gi.sin(x)), [x, other, k], disconnected="zero")
    out = gi.evaluate(
        gi.Graph({f"d{j}": g for j, g in enumerate(found)}, inputs=[x, other, k]),
        {"x": np.ones(4), "other": np.ones((4, 2), "float32"), "k": [1, 2]},
    )
    assert [(v.dtype.name, v.shape, v.any()) for v in out.values()] == [
        ("float64", (4,), True), ("float32", (4, 2), False), ("int32", (2,), False)
    ]  # fmt: skip


def test_what_does_not_fit_is_said() -> None:
    x = gi.input("x", (3,))
    y = gi.sin(x)
    with pytest.raises(gi.ShapeError, match="one cotangent for each of 1 outputs, not 2"):
        gi.vjp([y], [x], [np.ones(3), np.ones(3)])
    with pytest.raises(gi.ShapeError, match="one vector for each of 1 variables, not 0"):
        gi.hvp(gi.sum(y), [x], [])
    with pytest.raises(gi.ShapeError, match="outputs is a list"):
        gi.vjp(y, [x], [np.ones(3)])  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(gi.ShapeError, match="outputs is a list"):
        gi.jvp(y, [x], [np.ones(3)])  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(gi.GraphError, match="disconnected is 'error' or 'zero', not 'none'"):
        gi.grad(gi.sum(y), [x], disconnected="none")  # type: ignore[arg-type]  # the mistake under test


def test_long_chain_needs_no_recursion() -> None:
    x = gi.input("x")
    y = x
    for _ in range(100_000):
        y = gi.sin(y) + x
    (slope,) = gi.grad(y, [x])
    graph = gi.Graph({"slope": slope})
    assert len(graph) > 200_000
    assert np.isfinite(gi.evaluate(graph, {"x": 0.1})["slope"])


_UNARY = ("sin", "tanh", "exp", "square", "log1p")
_STEP = st.one_of(
    st.tuples(st.sampled_from(_UNARY), st.integers(0, 50), st.just(0)),
    st.tuples(st.sampled_from(("add", "multiply", "matmul", "divide")), st.integers(0, 50), st.integers(0, 50)),
    st.tuples(st.sampled_from(("sum", "max", "mean", "softmax", "logsumexp")), st.integers(0, 50), st.integers(0, 1)),
)


def _compose(steps: list[tuple[str, int, int]], values: list[Any], lib: Any) -> Any:
    soft = gi.softmax if lib is gi else jax.nn.softmax
    log_sum = gi.logsumexp if lib is gi else jax.scipy.special.logsumexp
    for name, first, second in steps:
        a, b = values[first % len(values)], values[second % len(values)]
        if name == "exp":
            made = lib.exp(lib.tanh(a))
        elif name == "log1p":
            made = lib.log1p(a * a)
        elif name == "square":
            made = lib.square(lib.sin(a))
        elif name in _UNARY:
            made = getattr(lib, name)(a)
        elif name == "divide":
            made = a / (b * b + 1.0)
        elif name in ("add", "multiply", "matmul"):
            made = getattr(lib, name)(a, lib.tanh(b))
        elif name == "softmax":
            made = soft(a, axis=second)
        elif name == "logsumexp":
            made = log_sum(a, axis=second, keepdims=True) - a
        else:
            made = getattr(lib, name)(a, axis=second, keepdims=True) - 0.5 * a
        values.append(made)
    return lib.sum(lib.tanh(values[-1]) * values[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(_STEP, min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_random_graphs_agree_with_jax(steps: list[tuple[str, int, int]], seed: int) -> None:
    x, y = np.random.default_rng(seed).normal(size=(2, 3, 3))
    graph = gi.Graph(
        {"loss": _compose(steps, [gi.input("x", (3, 3)), gi.input("y", (3, 3))], gi)},
        inputs=[gi.input("x", (3, 3)), gi.input("y", (3, 3))],
    )
    wrt = [gi.Expr(node) for node in graph.inputs.values()]
    found = gi.grad(gi.Expr(graph.outputs["loss"]), wrt, disconnected="zero")
    extended = graph.append({f"d{k}": value for k, value in enumerate(found)})
    numbers = gi.evaluate(extended, {"x": x, "y": y})
    expected = jax.grad(lambda a, b: _compose(steps, [a, b], jnp), argnums=(0, 1))(x, y)
    for k in (0, 1):
        scale = 1 + np.max(np.abs(expected[k]))
        np.testing.assert_allclose(numbers[f"d{k}"] / scale, expected[k] / scale, rtol=1e-10, atol=1e-10)
