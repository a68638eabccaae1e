"""Narrow products: any sizes and layouts against exact arithmetic, and the same bits for each row wherever it is."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from workers.backends.llvm import build, narrow
from workers.executor import Executor

SHAPES = st.tuples(st.integers(1, 400), st.integers(1, 90), st.integers(1, 17))
DTYPES = ["float32", "float64"]


def close(found: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Within the error of any order of additions with one rounding a term."""
    exact, sizes = x.astype(np.float64) @ y.astype(np.float64), np.abs(x).astype(np.float64) @ np.abs(y)
    slack = 2 * x.shape[1] * float(np.finfo(x.dtype).eps) + 1e-300
    assert found.dtype == x.dtype
    assert found.flags.c_contiguous
    assert (np.abs(found - exact) <= slack * sizes).all()


@settings(max_examples=80, deadline=None)
@given(SHAPES, st.sampled_from(DTYPES), st.integers(0, 9))
def test_any_sizes_agree_with_the_product(shape: tuple[int, int, int], dtype: str, seed: int) -> None:
    rows, terms, columns = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, terms)).astype(dtype)
    y, d = rng.standard_normal((terms, columns)).astype(dtype), rng.standard_normal((rows, columns)).astype(dtype)
    if build.vector_bytes():
        assert narrow._by_rows(x, y) is not None
        close(narrow._by_rows(x, y), x, y)
        close(np.ascontiguousarray(narrow._over_rows(x, d)), d.T, x)
    close(narrow.matmul(x, y), x, y)
    close(narrow.matmul(x.T, d), x.T, d)
    close(np.ascontiguousarray(narrow.matmul(d.T, x)), d.T, x)


def test_one_element_is_the_exact_sum() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(-50, 50, (500, 33)).astype(np.float32), rng.integers(-50, 50, (33, 7)).astype(np.float32)
    exact = [
        [sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, column, strict=True)) for column in y.T]
        for row in x[:20]
    ]
    assert narrow.matmul(x, y)[:20].tolist() == [[float(value) for value in row] for row in exact]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 3, 5, 10, 12])
def test_a_row_has_the_same_bits_wherever_it_is(dtype: str, columns: int) -> None:
    rng = np.random.default_rng(columns)
    x, y = rng.standard_normal((1003, 141)).astype(dtype), rng.standard_normal((141, columns)).astype(dtype)
    whole = narrow.matmul(x, y)
    for begin, end in ((0, 500), (1, 902), (333, 1003), (501, 700)):
        assert narrow.matmul(x[begin:end], y).tobytes() == whole[begin:end].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_factors_may_lie_in_any_way(dtype: str) -> None:
    rng = np.random.default_rng(1)
    wide, y, d = (rng.standard_normal(shape).astype(dtype) for shape in ((700, 120), (60, 10), (700, 10)))
    x = np.ascontiguousarray(wide[:, :60])
    plain, sums = narrow.matmul(x, y), narrow.matmul(x.T, d)
    moved = np.empty(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    moved[:] = x
    for same in (wide[:, :60], moved):
        assert narrow.matmul(same, y).tobytes() == plain.tobytes()
        assert narrow.matmul(same, np.asfortranarray(y)).tobytes() == plain.tobytes()
        assert narrow.matmul(same.T, d).tobytes() == sums.tobytes()
    close(narrow.matmul(wide[:, ::2], y), wide[:, ::2], y)
    close(narrow.matmul(x[::-1], y), x[::-1], y)
    close(narrow.matmul(np.broadcast_to(x[0], x.shape), y), np.broadcast_to(x[0], x.shape), y)
    swapped, other = (a.astype(a.dtype.newbyteorder(">")) for a in (x, y))
    close(narrow.matmul(swapped, y).astype(dtype), x, y)
    close(narrow.matmul(swapped, other).astype(dtype), x, y)


def test_nothing_is_read_or_written_outside_and_what_is_not_finite_stays() -> None:
    x, y = np.ones((600, 19), np.float32), np.ones((19, 3), np.float32)
    x[7, 18], x[8, 0] = np.inf, np.nan
    guarded = np.full((602, 3), 5, np.float32)
    found = narrow.matmul(x, y)
    guarded[1:-1] = found
    assert np.isposinf(found[7]).all()
    assert np.isnan(found[8]).all()
    assert (np.delete(found, [7, 8], 0) == 19).all()
    assert narrow.matmul(x[:0], y).shape == (0, 3)


@pytest.mark.parametrize("classes", [1, 4, 10])
def test_regressions_have_the_same_bits_for_any_threads(classes: int) -> None:
    x, w, y = gi.input("x", ("n", 70)), gi.input("w", (70, classes)), gi.input("y", ("n",), "int64")
    loss = gi.nn.cross_entropy(x @ w, y) if classes > 1 else gi.mean(gi.square(x @ w))
    graph = gi.Graph({"loss": loss, "slope": gi.grad(loss, [w])[0]}, inputs=[x, w, y][: 3 if classes > 1 else 2])
    rng = np.random.default_rng(4)
    feeds = {"x": rng.standard_normal((20_011, 70)), "w": rng.standard_normal((70, classes))}
    if classes > 1:
        feeds["y"] = rng.integers(0, classes, 20_011)
    one, wanted = Executor(graph, "llvm", threads=1)(feeds), gi.evaluate(graph, feeds)
    for threads in (2, 3):
        other = Executor(graph, "llvm", threads=threads)(feeds)
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    for name in wanted:
        np.testing.assert_allclose(one[name], wanted[name], rtol=1e-11, atol=1e-13)
