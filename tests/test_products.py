"""Products in parts on several threads: NumPy's values, the same bits for any number of threads, BLAS's threads given back."""

import numpy as np
import pytest

import graphir as gi
from workers import blas
from workers.executor import Executor
from workers.products import PART, WORTH, Contraction, Product, borders


@pytest.mark.parametrize("size", [17, 32, 100, PART, 2 * PART - 1, 5 * PART + 3, 40 * PART])
def test_parts_cover_a_side_once(size: int) -> None:
    found = borders(size)
    assert [position for begin, end in found for position in range(begin, end)] == list(range(size))
    assert len(found) >= 2
    assert all(begin % 16 == 0 for begin, _ in found)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(1024, 200, 130), (130, 333, 1031), (64, 600, 700), (2500, 90, 90), (33, 1000, 600)])
def test_parts_have_the_values_of_the_whole(shape: tuple[int, int, int], dtype: str) -> None:
    rows, terms, columns = shape
    rng = np.random.default_rng(rows)
    x, y = ((9 * rng.standard_normal(s)).astype(dtype) for s in ((rows, terms), (terms, columns)))
    assert rows * terms * columns >= WORTH
    wanted = x.astype(np.float64) @ y.astype(np.float64)
    slack = terms * float(np.finfo(dtype).eps) if dtype != "int64" else 0.0
    limit = slack * (np.abs(x).astype(np.float64) @ np.abs(y).astype(np.float64)).max()
    before = [library["num_threads"] for library in blas._controller().info()]
    found = [Product(np.matmul, threads) for threads in (2, 3, 7)]
    made = [product(x, y) for product in found]
    assert np.abs(made[0] - wanted).max() <= limit
    assert made[0].dtype == x.dtype
    assert all(other.tobytes() == made[0].tobytes() for other in made)
    for left, right in ((np.asfortranarray(x), y), (x, np.asfortranarray(y)), (x[::-1], y[:, ::-1])):
        assert np.abs(found[0](left, right) - left.astype(np.float64) @ right.astype(np.float64)).max() <= limit
    assert [library["num_threads"] for library in blas._controller().info()] == before


def test_a_graph_has_the_same_bits_on_two_threads_and_more() -> None:
    x, w = gi.input("x", (300, 400)), gi.input("w", (400, 500))
    graph = gi.Graph({"y": gi.tanh(x @ w), "slope": gi.grad(gi.sum(gi.square(x @ w)), [w])[0]})
    rng = np.random.default_rng(1)
    feeds = {"x": rng.standard_normal((300, 400)), "w": rng.standard_normal((400, 500))}
    two, wanted = Executor(graph, threads=2)(feeds), gi.evaluate(graph, feeds)
    for threads in (3, 4):
        assert all(a.tobytes() == two[name].tobytes() for name, a in Executor(graph, threads=threads)(feeds).items())
    for name in wanted:
        np.testing.assert_allclose(two[name], wanted[name], rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize(
    "subscripts", ["abi,abj->ij", "abi,abj->ji", "ai,bi->ba", "ab,bcd->dac", "ab,ab->a", "ab,cd->acbd", "i,i->"]
)
@pytest.mark.parametrize("size", [3, 33])
def test_contractions_have_the_values_of_einsum(subscripts: str, size: int) -> None:
    rng = np.random.default_rng(size)
    names = subscripts.partition("->")[0].split(",")
    arrays = [rng.standard_normal([size + "abcdij".index(letter) for letter in name]) for name in names]
    found = Contraction(lambda *given, subscripts: np.einsum(subscripts, *given), 2)(*arrays, subscripts=subscripts)
    np.testing.assert_allclose(found, np.einsum(subscripts, *arrays), rtol=1e-9, atol=1e-11)
    assert np.asarray(found).flags.c_contiguous


def test_an_error_of_a_part_is_raised() -> None:
    x = np.ones((1024, 300), object)
    x[1000, 5] = None
    with pytest.raises(TypeError):
        Product(np.matmul, 2)(x, np.ones((300, 100), object))
