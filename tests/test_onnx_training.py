"""Gradient operators inside ONNX models against JAX, also where equal or stored tensors must be told apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import parser

import graphir as gi

jax.config.update("jax_enable_x64", True)
RNG = np.random.default_rng(20)
X, W = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2))


def run(body: str, **feeds: Any) -> dict[str, Any]:
    header = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.preview.training" : 1, "own" : 1]>\n'
    model = parser.parse_model(header + body)
    for tensor in model.graph.initializer:
        if tensor.name in ("W", "V"):  # the same numbers, twice
            tensor.CopyFrom(onnx.numpy_helper.from_array(W, tensor.name))
    return gi.evaluate(gi.from_onnx(model.SerializeToString()), feeds)


def test_derivatives_by_stored_weights_that_are_equal() -> None:
    found = run(
        """g (double[3,4] X) => (double[4,2] dW, double[4,2] dV)
        <double[1] W = {0}, double[1] V = {0}> {
            a = MatMul (X, W)
            b = MatMul (X, V)
            s = Sin (b)
            p = Mul (a, s)
            q = Mul (W, W)
            t = ReduceSum (q)
            r = ReduceSum <keepdims = 0> (p)
            y = Add (r, t)
            dW, dV = ai.onnx.preview.training.Gradient <xs = ["W", "V"], zs = ["X"], y = "y"> (W, V, X)
        }""",
        X=X,
    )
    expected = jax.grad(lambda w, v: jnp.sum((X @ w) * jnp.sin(X @ v)) + jnp.sum(w * w), (0, 1))(W, W)
    for got, want in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_derivatives_by_intermediate_values_and_again() -> None:
    found = run(
        """g (double[3,4] X) => (double[3,4] dH, double[3,4] dX, double[3,4] ddX) {
            H = Sin (X)
            K = Sin (X)
            p = Mul (H, K)
            y = Mul (p, H)
            dH = ai.onnx.preview.training.Gradient <xs = ["H"], y = "y"> (H)
            dX = ai.onnx.preview.training.Gradient <xs = ["X"], y = "y"> (X)
            ddX = ai.onnx.preview.training.Gradient <xs = ["X"], y = "dX"> (X)
        }""",
        X=X,
    )
    s, ds = jnp.sin(X), jax.grad(lambda x: jnp.sum(jnp.sin(x) ** 3))
    np.testing.assert_allclose(found["dH"], jax.grad(lambda h: jnp.sum(h * h * s))(s), rtol=1e-12)
    np.testing.assert_allclose(found["dX"], ds(X), rtol=1e-12)
    np.testing.assert_allclose(found["ddX"], jax.grad(lambda x: jnp.sum(ds(x)))(X), rtol=1e-12)


def test_derivatives_at_other_values_than_the_graph_has() -> None:
    found = run(
        """g (double[3,4] X, double[3,4] Z) => (double[3,4] d, double[3,4] e) {
            y = Exp (X)
            H = Cos (X)
            u = Mul (H, X)
            d = ai.onnx.preview.training.Gradient <xs = ["X"], y = "y"> (Z)
            e = ai.onnx.preview.training.Gradient <xs = ["H"], zs = ["X"], y = "u"> (H, Z)
        }""",
        X=X,
        Z=2 * X,
    )
    np.testing.assert_allclose(found["d"], np.exp(2 * X), rtol=1e-12)
    np.testing.assert_allclose(found["e"], 2 * X, rtol=1e-12)


def test_derivatives_by_what_has_no_path_are_zero() -> None:
    found = run(
        """g (double[3,4] X, double[3,4] Z) => (double[3,4] d) {
            y = Exp (X)
            d = ai.onnx.preview.training.Gradient <xs = ["Z"], zs = ["X"], y = "y"> (Z, X)
        }""",
        X=X,
        Z=X,
    )
    np.testing.assert_array_equal(found["d"], np.zeros_like(X))


def test_a_step_of_descent_learns_through_an_optimiser() -> None:
    found = run(
        """g (double[3,4] X, double[4,2] M) => (double[4,2] new, double[4,2] moved)
        <double[1] W = {0}, double r = {0.1}, int64 t = {3}> {
            a = MatMul (X, W)
            b = Tanh (a)
            y = ReduceSum <keepdims = 0> (b)
            d = ai.onnx.preview.training.Gradient <xs = ["W"], zs = ["X"], y = "y"> (W, X)
            new, moved = ai.onnx.preview.training.Momentum
                <mode = "standard", alpha = 0.5, beta = 0.25, norm_coefficient = 0.0> (r, t, W, d, M)
        }""",
        X=X,
        M=W,
    )
    slope = jax.grad(lambda w: jnp.sum(jnp.tanh(X @ w)))(W)
    np.testing.assert_allclose(found["moved"], 0.5 * W + 0.25 * slope, rtol=1e-12)
    np.testing.assert_allclose(found["new"], W - 0.1 * found["moved"], rtol=1e-12)


@pytest.mark.parametrize(
    ("attributes", "error"),
    [('xs = ["Q"], y = "y"', gi.FormatError), ('xs = ["X", "X"], y = "y"', gi.FormatError)],
)
def test_damaged_gradients_are_refused(attributes: str, error: type[gi.GraphError]) -> None:
    with pytest.raises(error, match="Gradient node"):
        run(
            f"""g (double[3,4] X) => (double[3,4] d) {{
                y = Exp (X)
                d = ai.onnx.preview.training.Gradient <{attributes}> (X)
            }}""",
            X=X,
        )
