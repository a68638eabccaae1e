"""numpy's functions and methods on expressions against numpy's own on arrays, and their derivatives against JAX's."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import graphir as gi

SEED = np.random.default_rng(8)
A, B = SEED.normal(size=(2, 4, 3))
V, W = SEED.normal(size=(2, 4))
S = SEED.normal(size=(3, 3))
C = SEED.normal(size=(2, 3, 4))
HOLES = np.where(SEED.random((4, 3)) < 0.3, np.nan, A)
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5])
POINTS = np.array([-1.0, 0.0, 0.5, 2.0])

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "dot_matrix_vector": (lambda a, b: np.dot(a, b), (A.T, V)),
    "dot_vectors": (lambda a, b: np.dot(a, b), (V, W)),
    "dot_scalar": (lambda a: np.dot(a, 2.0), (A,)),
    "dot_of_more_axes": (lambda a, b: np.dot(a, b), (C, SEED.normal(size=(2, 4, 5)))),
    "inner": (lambda a, b: np.inner(a, b), (A, B)),
    "vdot": (lambda a, b: np.vdot(a, b), (A, B)),
    "kron": (lambda a, b: np.kron(a, b), (A, S)),
    "kron_of_ranks": (lambda a, b: np.kron(a, b), (V, S)),
    "norm": (lambda a: np.linalg.norm(a), (C,)),
    "norm_1_of_vectors": (lambda a: np.linalg.norm(a, 1, axis=-1, keepdims=True), (C,)),
    "norm_of_matrices": (lambda a: np.linalg.norm(a, axis=(0, 2), keepdims=True), (C,)),
    "norm_2_of_matrices": (lambda a: np.linalg.norm(a, 2, axis=(2, 0)), (C,)),
    "norm_inf_of_matrix": (lambda a: np.linalg.norm(a, np.inf), (A,)),
    "multi_dot": (lambda a, b, c: np.linalg.multi_dot([a, b, c]), (A, S, B.T)),
    "multi_dot_vectors": (lambda a, b, c: np.linalg.multi_dot([a, b, c]), (V, A, S[0])),
    "linalg_trace": (lambda a: np.linalg.trace(a), (SEED.normal(size=(2, 3, 3)),)),
    "linalg_diagonal": (lambda a: np.linalg.diagonal(a, offset=1), (C,)),
    "vstack": (lambda a, b: np.vstack([a, b, a[0]]), (A, B)),
    "hstack": (lambda a, b: np.hstack([a, b]), (A, B)),
    "hstack_vectors": (lambda a, b: np.hstack([a, b, 1.0]), (V, W)),
    "dstack": (lambda a, b: np.dstack([a, b]), (A, B)),
    "dstack_vectors": (lambda a, b: np.dstack((a, b)), (V, W)),
    "column_stack": (lambda a, b: np.column_stack([a, b]), (V, A)),
    "ravel": (lambda a: np.ravel(a), (C,)),
    "copy": (lambda a: np.copy(a), (C,)),
    "squeeze": (lambda a: np.squeeze(a[:, None]), (A,)),
    "swapaxes": (lambda a: np.swapaxes(a, 0, -1), (C,)),
    "atleast_1d": (lambda a: np.atleast_1d(a), (np.array(2.0),)),
    "atleast_2d": (lambda a: np.atleast_2d(a), (V,)),
    "atleast_3d": (lambda a: np.atleast_3d(a), (A,)),
    "atleast_3d_vector": (lambda a: np.atleast_3d(a), (V,)),
    "flips": (lambda a: np.flipud(a) - 2 * np.fliplr(a), (A,)),
    "split": (lambda a: np.stack(np.split(a, 2)), (A,)),
    "split_at": (lambda a: np.hstack([p * k for k, p in enumerate(np.split(a, [1, 3], axis=1), 1)]), (C[0],)),
    "array_split": (lambda a: np.vstack([p * k for k, p in enumerate(np.array_split(a, 3), 1)]), (A,)),
    "diagonal": (lambda a: np.diagonal(a, 1, 0, 2), (C,)),
    "trace": (lambda a: np.trace(a, axis1=1, axis2=2), (C,)),
    "diag_of_matrix": (lambda a: np.diag(a, -1), (S,)),
    "diag": (lambda a: np.diag(a), (V,)),
    "diag_above": (lambda a: np.diag(a, 2), (V,)),
    "diag_below": (lambda a: np.diag(a, -1), (V,)),
    "var_ddof": (lambda a: np.var(a, axis=0, ddof=1), (A,)),
    "std_ddof": (lambda a: np.std(a, axis=(0, 1), ddof=1, keepdims=True), (A,)),
    "average": (lambda a: np.average(a, axis=1), (A,)),
    "average_weighted": (lambda a, b: np.average(a, axis=0, weights=abs(b)), (A, V)),
    "average_weighted_by_all": (lambda a, b: np.average(a, weights=abs(b), keepdims=True), (A, B)),
    "median": (lambda a: np.median(a), (A,)),
    "median_of_odd": (lambda a: np.median(a, axis=1, keepdims=True), (A,)),
    "median_with_nan": (lambda a: np.median(a, axis=0), (HOLES,)),
    "ptp": (lambda a: np.ptp(a, axis=0), (A,)),
    "nansum": (lambda a: np.nansum(a, axis=0), (HOLES,)),
    "nanprod": (lambda a: np.nanprod(a), (HOLES,)),
    "nanmean": (lambda a: np.nanmean(a, keepdims=True), (HOLES,)),
    "nanmax": (lambda a: np.nanmax(a) - np.nanmin(a), (HOLES,)),
    "trapezoid": (lambda a: np.trapezoid(a, dx=0.5), (A,)),
    "trapezoid_at": (lambda a, x: np.trapezoid(a, x, axis=0), (A, np.sort(V))),
    "trapezoid_at_all": (lambda a, x: np.trapezoid(a, x, axis=0), (A, np.sort(B, axis=0))),
    "round": (lambda a: np.round(a, 2) + np.round(100 * a, -1) + np.round(a), (A,)),
    "divmod": (lambda a: np.stack(np.divmod(a, 0.3)), (A,)),
    "fmax": (lambda a, b: np.fmax(a, b) + np.fmin(b, a), (HOLES, np.where(SEED.random((4, 3)) < 0.3, np.nan, B))),
    "heaviside": (lambda a: np.heaviside(a, 0.5), (ODD,)),
    "cbrt": (lambda a: np.cbrt(a), (A,)),
    "sinc": (lambda a: np.sinc(a), (POINTS,)),
    "exp2": (lambda a: np.exp2(a), (A,)),
    "fix": (lambda a: np.fix(3 * a), (A,)),
    "degrees": (lambda a: np.deg2rad(a) + np.rad2deg(a) + np.radians(a) + np.degrees(a), (A,)),
    "nan_to_num": (lambda a: np.nan_to_num(a), (ODD,)),
    "nan_to_num_by": (lambda a: np.nan_to_num(a, nan=3.0, posinf=4.0, neginf=-5.0), (ODD,)),
    "select": (lambda a: np.select([a > 0.5, a > 0], [a, -a], 7.0), (A,)),
    "interp": (lambda a, p, f: np.interp(a, p, f), (3 * A, POINTS, V)),
    "interp_outside": (lambda a, p, f: np.interp(a, p, f, left=-9.0, right=9.0), (3 * A, POINTS, V)),
    "method_transpose": (lambda a: a.transpose(1, 0, 2) + a.transpose((1, 0, 2)), (C,)),
    "method_reversed": (lambda a: a.transpose(), (C,)),
    "method_products": (lambda a, b: a.T.dot(b).ravel(), (A, B)),
    "method_places": (lambda a: a.argmax(0) + a.argmin(0), (A,)),
    "method_tests": (lambda a: (a > 0).any(1) ^ (a > -1).all(axis=1), (A,)),
    "method_spread": (lambda a: a.std(0, ddof=1) + a.var(0), (A,)),
    "method_running": (lambda a: a.cumsum(0) + a.cumprod(0), (A,)),
    "method_layout": (lambda a: a.swapaxes(0, 1)[:, None].squeeze().flatten(), (A,)),
    "method_picks": (lambda a: a.take(np.array([0, 2]), axis=1).repeat(2, axis=0), (A,)),
    "method_diagonals": (lambda a: a.diagonal(1).prod() + a.trace(), (S,)),
    "method_limits": (lambda a: a.clip(-0.5, 0.5).round(1), (A,)),
    "method_sum": (lambda a: a.sum(0, keepdims=True) + a.mean(1, keepdims=True) + a.max(0) - a.min(0), (A,)),
}
DERIVED = (
    "norm_2_of_matrices", "median", "average_weighted", "interp", "kron", "sinc", "cbrt", "diag_above", "trapezoid_at",
    "nanmean",
)  # fmt: skip


def _symbolic(case: Callable[..., Any], arrays: tuple[Any, ...]) -> tuple[gi.Expr, list[gi.Expr]]:
    inputs = [gi.input(f"x{k}", a.shape, a.dtype.name) for k, a in enumerate(arrays)]
    return case(*inputs), inputs


@pytest.mark.parametrize("name", CASES)
def test_values_equal_numpys(name: str) -> None:
    case, arrays = CASES[name]
    made, _ = _symbolic(case, arrays)
    found = gi.evaluate(gi.Graph(outputs={"y": made}), {f"x{k}": a for k, a in enumerate(arrays)})["y"]
    expected = np.asarray(case(*arrays))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", DERIVED)
def test_derivatives_equal_those_of_jax(name: str) -> None:
    case, arrays = CASES[name]
    made, inputs = _symbolic(case, arrays)
    graph = gi.Graph(outputs={"d": gi.grad(gi.sum(made * made), [inputs[0]])[0]})
    found = gi.evaluate(graph, {f"x{k}": a for k, a in enumerate(arrays)})["d"]
    as_jax = FunctionType(
        case.__code__, {"np": jnp, "__builtins__": __builtins__}
    )  # the same lines, with JAX's functions
    with jax.enable_x64(True):
        expected = jax.grad(lambda x: (as_jax(x, *arrays[1:]) ** 2).sum())(arrays[0])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


def test_shapes_are_told_without_numbers() -> None:
    x = gi.input("x", ("n", 3))
    assert (np.shape(x), np.ndim(x), np.size(x, 1), np.size(x)) == (("n", 3), 2, 3, "3*n")
    assert np.vstack([x, x]).shape == ("2*n", 3)
    assert np.linalg.norm(x, axis=1).shape == ("n",)


MISTAKES: tuple[tuple[type[gi.GraphError], str, Callable[[gi.Expr], Any]], ...] = (
    (gi.ShapeError, "no 2 equal parts", lambda x: np.split(x[:3], 2)),
    (gi.ShapeError, "size of axis 0", lambda x: np.split(x, 2)),
    (gi.ShapeError, "size of axis 0", lambda x: np.median(x, axis=0)),
    (gi.ShapeError, "one axis or two", lambda x: np.linalg.norm(x[None], 2)),
    (gi.ShapeError, "multi_dot", lambda x: np.linalg.multi_dot([x])),
    (gi.AttributeValueError, "select", lambda x: np.select([x > 0], [])),
    (gi.AttributeValueError, "order", lambda x: np.ravel(x, order="F")),
    (gi.GraphError, r"np.linalg.lstsq is not available", lambda x: np.linalg.lstsq(x, x)),
    (gi.GraphError, r"logsumexp|logaddexp", lambda x: np.logaddexp2(x, x)),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_say_what_is_wrong(number: int) -> None:
    error, words, mistake = MISTAKES[number]
    with pytest.raises(error, match=words):
        mistake(gi.input("x", ("n", 3)))
