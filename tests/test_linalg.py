"""Linear algebra: values against NumPy and SciPy, first and second derivatives against JAX, singular matrices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.partition.data import partition
from scheduler.driver.local import run_plan

jax.config.update("jax_enable_x64", True)
la = gi.linalg
RNG = np.random.default_rng(4)
A = RNG.normal(size=(4, 4)) + 3 * np.eye(4)
SPD = A @ A.T
TALL, WIDE = RNG.normal(size=(5, 3)), RNG.normal(size=(3, 5))
STACK = RNG.normal(size=(2, 3, 3)) + 2 * np.eye(3)
B, V = RNG.normal(size=(4, 3)), RNG.normal(size=4)


def run(function: Callable[..., Any], *arrays: Any) -> Any:
    inputs = [gi.input(f"m{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
    result = function(*inputs)
    outputs = dict(enumerate(result)) if isinstance(result, tuple) else {0: result}
    graph = gi.Graph({f"o{k}": v for k, v in outputs.items()}, inputs=inputs)
    found = gi.evaluate(graph, {f"m{k}": a for k, a in enumerate(arrays)})
    for name, node in graph.outputs.items():
        assert (found[name].shape, found[name].dtype) == (node.type.shape, node.type.dtype)
    return tuple(found.values()) if isinstance(result, tuple) else found["o0"]


SAME: dict[str, tuple[Callable[[Any], Callable[..., Any]], tuple[Any, ...]]] = {
    "solve": (lambda m: m.solve, (A, B)), "solve a vector": (lambda m: m.solve, (A, V)),
    "solve a stack": (lambda m: m.solve, (STACK, RNG.normal(size=(2, 3, 2)))),
    "solve integers": (lambda m: m.solve, (np.array([[2, 1], [1, 3]]), np.array([[1, 2], [3, 4]]))),
    "inv": (lambda m: m.inv, (STACK,)), "det": (lambda m: m.det, (STACK,)), "slogdet": (lambda m: m.slogdet, (-STACK,)),
    "cholesky": (lambda m: m.cholesky, (SPD,)), "qr": (lambda m: m.qr, (TALL,)),
    "qr complete": (lambda m: lambda x: m.qr(x, mode="complete"), (TALL,)), "qr wide": (lambda m: m.qr, (WIDE,)),
    "eigh": (lambda m: m.eigh, (SPD,)), "eigvalsh": (lambda m: m.eigvalsh, (SPD,)),
    "svd": (lambda m: lambda x: m.svd(x, full_matrices=False), (WIDE,)), "svd full": (lambda m: m.svd, (TALL,)),
    "svdvals": (lambda m: m.svdvals, (STACK,)), "pinv": (lambda m: m.pinv, (TALL,)), "pinv wide": (lambda m: m.pinv, (WIDE,)),
    "matrix_rank": (lambda m: m.matrix_rank, (np.outer(V, V),)), "matrix_power": (lambda m: lambda x: m.matrix_power(x, 5), (A,)),
    "matrix_power -2": (lambda m: lambda x: m.matrix_power(x, -2), (A,)), "matrix_power 0": (lambda m: lambda x: m.matrix_power(x, 0), (A,)),
    "cross": (lambda m: m.cross, (TALL, TALL[0])), "trace": (lambda m: lambda x: m.trace(x, offset=1), (STACK,)),
    "diagonal": (lambda m: lambda x: m.diagonal(x, offset=-1), (TALL,)), "outer": (lambda m: m.outer, (V, V)),
}  # fmt: skip
NORMS = {f"vector {order}": (lambda m, order=order: lambda x: m.vector_norm(x, axis=1, ord=order), (WIDE,)) for order in (0, 1, 2, 3, 0.5, np.inf, -np.inf)}  # fmt: skip
NORMS |= {f"matrix {order}": (lambda m, order=order: lambda x: m.matrix_norm(x, ord=order, keepdims=True), (STACK,)) for order in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)}  # fmt: skip


@pytest.mark.parametrize("name", SAME | NORMS)
def test_values_are_those_of_numpy(name: str) -> None:
    function, arrays = (SAME | NORMS)[name]
    found, expected = run(function(la), *arrays), function(np.linalg)(*arrays)
    for own, other in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True):
        assert own.dtype == np.asarray(other).dtype
        np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("size", [1, 4, 33, 100])
def test_triangular_systems_are_solved_as_by_scipy(size: int, lower: bool, trans: bool) -> None:
    a, b = RNG.normal(size=(size, size)) + size * np.eye(size), RNG.normal(size=(size, 2))
    found = run(lambda a, b: la.solve_triangular(a, b, lower=lower, trans=trans), a, b)
    expected = scipy.linalg.solve_triangular(a, b, lower=lower, trans=int(trans))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


def symmetric(m: Any, x: Any) -> Any:
    return (x + m.swapaxes(x, -1, -2)) / 2 if m is jnp else (x + gi.matrix_transpose(x)) / 2


def parts(m: Any, *values: Any) -> Any:
    """A number that depends on every element in its own way, but not on the sign of a column."""
    return sum(m.sum(m.sin(v * v + 0.3 * k)) for k, v in enumerate(values))


SCALARS: dict[str, tuple[Callable[[Any, Any], Callable[..., Any]], tuple[Any, ...]]] = {
    "solve": (lambda m, la: lambda a, b: parts(m, la.solve(a, b)), (A, B)),
    "inv": (lambda m, la: lambda a: parts(m, la.inv(a)), (STACK,)),
    "det": (lambda m, la: lambda a: parts(m, la.det(a)), (STACK,)),
    "slogdet": (lambda m, la: lambda a: parts(m, la.slogdet(a)[1]), (STACK,)),
    "cholesky": (lambda m, la: lambda a: parts(m, la.cholesky(symmetric(m, a))), (SPD,)),
    "qr": (lambda m, la: lambda a: parts(m, *la.qr(a)), (TALL,)),
    "eigh": (lambda m, la: lambda a: parts(m, *la.eigh(symmetric(m, a))), (SPD,)),
    "eigvalsh": (lambda m, la: lambda a: parts(m, la.eigvalsh(symmetric(m, a))), (SPD,)),
    "svd": (lambda m, la: lambda a: parts(m, *la.svd(a, full_matrices=False)), (TALL,)),
    "svd wide": (lambda m, la: lambda a: parts(m, *la.svd(a, full_matrices=False)), (WIDE,)),
    "nuclear": (lambda m, la: lambda a: la.matrix_norm(a, ord="nuc"), (WIDE,)),
    "pinv": (lambda m, la: lambda a: parts(m, la.pinv(a)), (TALL,)),
    "pinv wide": (lambda m, la: lambda a: parts(m, la.pinv(a)), (WIDE,)),
    "power": (lambda m, la: lambda a: parts(m, la.matrix_power(a, 3) / 100), (A,)),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALARS)
def test_first_and_second_derivatives_are_those_of_jax(name: str) -> None:
    function, arrays = SCALARS[name]
    inputs = [gi.input(f"m{k}", a.shape) for k, a in enumerate(arrays)]
    vectors = [RNG.normal(size=a.shape) for a in arrays]
    value = function(gi, la)(*inputs)
    slopes = gi.grad(value, inputs)
    seconds = gi.hvp(value, inputs, [gi.constant(v) for v in vectors])
    outputs = {f"g{k}": g for k, g in enumerate(slopes)} | {f"h{k}": h for k, h in enumerate(seconds)}
    found = gi.evaluate(gi.Graph(outputs, inputs=inputs), {f"m{k}": a for k, a in enumerate(arrays)})
    of = function(jnp, jnp.linalg)
    which = tuple(range(len(arrays)))
    first = jax.grad(of, which)
    expected = first(*arrays)
    _, second = jax.jvp(first, arrays, tuple(vectors))
    for k in which:
        np.testing.assert_allclose(found[f"g{k}"], expected[k], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(found[f"h{k}"], second[k], rtol=1e-6, atol=1e-7)


def test_triangular_systems_have_the_derivatives_of_jax() -> None:
    a, b = gi.input("a", (4, 4)), gi.input("b", (4, 3))
    value = gi.sum(gi.sin(la.solve_triangular(a, b, lower=True)))
    found = gi.evaluate(gi.Graph(dict(zip("ab", gi.grad(value, [a, b]), strict=True))), {"a": A, "b": B})
    of = lambda a, b: jnp.sum(jnp.sin(jax.scipy.linalg.solve_triangular(a, b, lower=True)))  # noqa: E731
    for own, other in zip(found.values(), jax.grad(of, (0, 1))(A, B), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-11, atol=1e-12)


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_the_gradient_of_det_is_right_at_singular_matrices(size: int, rank: int, seed: int) -> None:
    rng, rank = np.random.default_rng(seed), min(rank, size)
    x = rng.normal(size=(size, rank)) @ rng.normal(size=(rank, size))
    m = gi.input("m", (size, size))
    found = gi.evaluate(gi.Graph({"g": gi.grad(la.det(m), [m])[0]}), {"m": x})["g"]
    minors = [
        [(-1) ** (i + j) * np.linalg.det(np.delete(np.delete(x, i, 0), j, 1)) for j in range(size)] for i in range(size)
    ]
    np.testing.assert_allclose(found, minors, rtol=1e-7, atol=1e-9 * max(1, np.abs(x).max()) ** size)


def test_stacks_are_cut_and_matrices_are_not() -> None:
    x, y = gi.input("x", ("n", 3, 3)), gi.input("y", ("n", 3))
    loss = gi.mean(la.slogdet(x).logabsdet) + gi.sum(la.solve(x, y[:, :, None]) ** 2)
    dx, dy = gi.grad(loss, [x, y])
    graph = gi.Graph({"loss": loss, "dx": dx, "dy": dy})
    feeds = {"x": RNG.normal(size=(10, 3, 3)) + 3 * np.eye(3), "y": RNG.normal(size=(10, 3))}
    plan = partition(graph, {"n": 10}, "n", 4)
    assert plan.notes == ()
    found = run_plan(plan, feeds)
    for name, value in gi.evaluate(graph, feeds).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


SINGULAR = np.stack([np.eye(2), np.ones((2, 2))])


@pytest.mark.parametrize(
    ("function", "array"),
    [(lambda x: la.solve(x, x), SINGULAR), (la.inv, SINGULAR), (la.cholesky, -SINGULAR[:, None]), (la.inv, np.zeros((2, 2)))],
)  # fmt: skip
def test_a_singular_matrix_is_named(function: Callable[..., Any], array: Any) -> None:
    with pytest.raises(
        gi.SingularMatrixError, match=r"(matrix \[\d.*\] of the stack|the matrix) is .*test_linalg\.py|identity"
    ):
        run(function, array)
    with pytest.raises(gi.SingularMatrixError, match="zero on its diagonal"):
        run(lambda x: la.solve_triangular(x, x), np.zeros((2, 2)))
    with pytest.raises(gi.SingularMatrixError, match="NaN"):
        run(la.svdvals, np.full((2, 2), np.nan))


def test_what_is_wrong_is_said() -> None:
    x = gi.input("x", (3, 2))
    with pytest.raises(gi.ShapeError, match="square"):
        la.inv(x)
    with pytest.raises(gi.ShapeError, match="two axes"):
        la.det(x[0])
    with pytest.raises(gi.DTypeError, match="float32 or float64"):
        la.inv(gi.astype(x[:2], "float16"))
    with pytest.raises(gi.ShapeError, match="as many rows"):
        la.solve(x[:2], x)
    with pytest.raises(gi.AttributeValueError, match="mode"):
        la.qr(x, mode="raw")
    with pytest.raises(gi.AttributeValueError, match="matrix norm"):
        la.matrix_norm(x, ord=3)
    with pytest.raises(gi.ShapeError, match="3 elements"):
        la.cross(x, x)
    with pytest.raises(gi.DisconnectedError, match="not determined"):
        gi.grad(gi.sum(la.svd(x).U), [x])
    assert np.linalg.inv(gi.input("y", (2, 2))).shape == (2, 2)  # NumPy's functions take expressions
