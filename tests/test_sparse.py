"""Sparse Jacobians and Hessians against dense ones of JAX; the number of colours is that of the pattern."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.colouring import apart, star
from graphir.sparse import sparse_hessian, sparse_jacobian
from graphir.sparsity import pattern

jax.config.update("jax_enable_x64", True)
N = 24
x = gi.input("x", (N,))
POINT = np.random.default_rng(3).uniform(0.2, 1.5, N)
MIX = np.where(np.random.default_rng(4).random((N, N)) < 0.06, 1.0, 0.0)


def rosenbrock(x: gi.Expr) -> gi.Expr:
    return gi.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def jax_rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


VALUES: dict[str, tuple[Callable[[gi.Expr], gi.Expr], Callable[[jax.Array], jax.Array], int]] = {
    "diagonal": (lambda v: gi.sin(v) * v, lambda v: jnp.sin(v) * v, 1),
    "banded": (lambda v: v[2:] * v[1:-1] + gi.exp(v[:-2]), lambda v: v[2:] * v[1:-1] + jnp.exp(v[:-2]), 3),
    "arrow by rows": (
        lambda v: gi.concat([v[1:] * v[1:], gi.reshape(gi.sum(v * v), (1,))]),
        lambda v: jnp.concatenate([v[1:] * v[1:], jnp.sum(v * v)[None]]),
        2,
    ),
    "blocks": (
        lambda v: gi.reshape(
            gi.exp(gi.sum(gi.reshape(v, (6, 4)), axis=1, keepdims=True)) * gi.reshape(v, (6, 4)), (N,)
        ),
        lambda v: (jnp.exp(jnp.sum(v.reshape(6, 4), axis=1, keepdims=True)) * v.reshape(6, 4)).reshape(-1),
        4,
    ),
    "dense": (lambda v: gi.sin(gi.constant(MIX) @ v), lambda v: jnp.sin(MIX @ v), N),
}


@pytest.mark.parametrize("name", VALUES)
def test_jacobian_agrees_with_jax(name: str) -> None:
    ours, theirs, colours = VALUES[name]
    matrix = sparse_jacobian(ours(x), x)
    expected = np.asarray(jax.jacrev(theirs)(POINT))
    np.testing.assert_allclose(matrix.evaluate({"x": POINT}).toarray(), expected, rtol=1e-12, atol=1e-300)
    assert matrix.colours <= colours, f"{matrix.colours} colours for {N} columns"


def test_a_given_pattern_saves_colours() -> None:
    value = gi.sin(gi.constant(MIX) @ x)
    matrix = sparse_jacobian(value, x, sparsity=sp.csr_matrix(MIX))
    np.testing.assert_allclose(
        matrix.evaluate({"x": POINT}).toarray(), jax.jacrev(lambda v: jnp.sin(MIX @ v))(POINT), rtol=1e-12
    )
    assert matrix.colours < N // 2
    with pytest.raises(gi.ShapeError, match="the derivative has"):
        sparse_jacobian(value, x, sparsity=sp.identity(3))


def test_hessian_agrees_with_jax() -> None:
    matrix = sparse_hessian(rosenbrock(x), x)
    np.testing.assert_allclose(
        matrix.evaluate({"x": POINT}).toarray(), jax.hessian(jax_rosenbrock)(POINT), rtol=1e-11, atol=1e-11
    )
    assert matrix.colours == 3
    assert matrix.data.shape == (3 * N - 2,)


def test_a_large_tridiagonal_hessian() -> None:
    count = 100_000
    big = gi.input("x", (count,))
    matrix = sparse_hessian(rosenbrock(big), big)
    assert matrix.colours == 3
    point = np.random.default_rng(5).uniform(0.2, 1.5, count)
    found = matrix.evaluate({"x": point})
    assert found.nnz == 3 * count - 2
    main = 1200 * point[:-1] ** 2 - 400 * point[1:] + 2
    main = np.append(main, 0.0) + np.append(0.0, np.full(count - 1, 200.0))
    np.testing.assert_allclose(found.diagonal(), main, rtol=1e-10)
    np.testing.assert_allclose(found.diagonal(1), -400 * point[:-1], rtol=1e-12)


def random_pattern(rows: int, columns: int, density: float, seed: int) -> sp.csr_matrix:
    return sp.csr_matrix(sp.random(rows, columns, density, "csr", random_state=seed).astype(bool))


def lists(matrix: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    return matrix.indptr, matrix.indices


def test_colours_never_share_a_row() -> None:
    for seed in range(20):
        matrix = random_pattern(30, 40, 0.08, seed)
        colour = apart(lists(matrix), lists(sp.csr_matrix(matrix.T)))
        for row in matrix.toarray():
            used = colour[row]
            assert len(set(used.tolist())) == len(used)


@given(st.integers(2, 12), st.floats(0.0, 0.7), st.integers(0, 10**6))
def test_no_path_of_four_has_two_colours(count: int, density: float, seed: int) -> None:
    """Every path of four vertices, listed by networks of the pattern's own entries."""
    half = random_pattern(count, count, density, seed)
    near = (half + half.T).toarray() & ~np.eye(count, dtype=bool)
    colour = star(lists(sp.csr_matrix(near)))
    pairs = np.argwhere(near)
    assert all(colour[a] != colour[b] for a, b in pairs)
    for b, c in pairs:
        for a, d in itertools.product(np.flatnonzero(near[b]), np.flatnonzero(near[c])):
            if len({a, b, c, d}) == 4:
                assert len({colour[a], colour[b], colour[c], colour[d]}) >= 3


# ---- symmetric patterns ----


def pairs_of(
    rows: np.ndarray, columns: np.ndarray
) -> tuple[Callable[[gi.Expr], gi.Expr], Callable[[jax.Array], jax.Array]]:
    """A value whose Hessian has the given off-diagonal elements: the sum of sin(x_i) x_j^2 over them."""
    i, j = rows.astype(np.int64), columns.astype(np.int64)
    return (
        lambda v: gi.sum(gi.sin(gi.take(v, gi.constant(i), axis=0)) * gi.take(v, gi.constant(j), axis=0) ** 2),
        lambda v: jnp.sum(jnp.sin(v[i]) * v[j] ** 2),
    )


def symmetric(name: str) -> sp.csr_matrix:
    """The lower triangle, without the diagonal, of a pattern of N columns."""
    kind, _, number = name.partition(" ")
    if kind == "band":
        return sp.csr_matrix(sum(sp.eye_array(N, k=-k, dtype=bool) for k in range(1, int(number) + 1)))
    if kind == "arrow":
        tip = int(number)
        matrix = sp.lil_matrix((N, N), dtype=bool)
        matrix[tip, :tip] = True
        matrix[tip + 1 :, tip] = True
        return sp.csr_matrix(matrix)
    return sp.csr_matrix(sp.tril(random_pattern(N, N, float(number), 7), -1))


@pytest.mark.parametrize(
    ("name", "most"),
    [("band 1", 3), ("band 2", 5), ("band 4", 9), ("arrow 0", 2), ("arrow 23", 2), ("arrow 9", 2),
     ("random 0.05", N // 2), ("random 0.1", N - 4), ("random 0.3", N)],
)  # fmt: skip
def test_symmetric_patterns_agree_with_jax(name: str, most: int) -> None:
    lower = symmetric(name).tocoo()
    ours, theirs = pairs_of(lower.row, lower.col)
    expected = np.asarray(jax.hessian(theirs)(POINT))
    mask = sp.csr_matrix(lower + sp.eye_array(N, dtype=bool))  # one triangle is enough
    matrix = sparse_hessian(ours(x), x, sparsity=mask)
    found = matrix.evaluate({"x": POINT}).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(found, found.T)
    assert matrix.colours <= most
    print(f"{name}: {matrix!r}")
    assert repr(matrix) == f"<SparseMatrix {N} x {N}, {matrix.indptr[-1]} elements, {matrix.colours} colours by star>"


def test_an_arrow_found_from_the_graph_takes_two_colours() -> None:
    count = 100_000
    big = gi.input("x", (count,))
    matrix = sparse_hessian(gi.sum(gi.sin(big[1:]) * big[0] ** 2), big)
    assert matrix.colours == 2
    point = np.random.default_rng(6).uniform(0.2, 1.5, count)
    found = matrix.evaluate({"x": point})
    np.testing.assert_allclose(found[0].toarray()[0, 1:], 2 * point[0] * np.cos(point[1:]), rtol=1e-12)
    np.testing.assert_allclose(found.diagonal()[1:], -(point[0] ** 2) * np.sin(point[1:]), rtol=1e-12)
    np.testing.assert_array_equal(found[:, [0]].toarray()[:, 0], found[0].toarray()[0])


def test_patterns_never_miss_an_element() -> None:
    for ours, theirs, _ in VALUES.values():
        found = pattern(ours(x).node, x.node).toarray()
        assert np.all(found | (np.asarray(jax.jacrev(theirs)(POINT)) == 0))
    named = gi.input("named", ("n",))
    with pytest.raises(gi.ShapeError, match="sizes that are numbers"):
        pattern(gi.sin(named).node, named.node)


def test_the_public_functions_choose_by_sparsity() -> None:
    (auto,) = gi.jacobian(gi.sin(x) * x, [x], sparsity="auto")
    (given,) = gi.jacobian(gi.sin(x) * x, [x], sparsity=[sp.identity(N)])
    (hessian,) = gi.hessian(rosenbrock(x), [x], sparsity="auto")
    (dense,) = gi.jacobian(gi.sin(x) * x, [x])
    expected = gi.evaluate(gi.Graph({"out": dense}), {"x": POINT})["out"]
    for matrix in (auto, given):
        np.testing.assert_allclose(matrix.evaluate({"x": POINT}).toarray(), expected, rtol=1e-13, atol=1e-300)
    assert hessian.colours == 3
    with pytest.raises(gi.ShapeError, match="one pattern for each"):
        gi.jacobian(x, [x], sparsity=[])
