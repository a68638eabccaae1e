"""Work shared among threads: every part once, errors of the first part, nested and at the same time, after a fork."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from workers import crew
from workers.products import Product


@pytest.mark.parametrize(("parts", "threads"), [(0, 2), (1, 3), (2, 2), (7, 3), (100, 2)])
def test_each_part_is_done_once(parts: int, threads: int) -> None:
    done: list[int] = []
    crew.share(parts, threads, done.append)
    assert sorted(done) == list(range(parts))


def test_two_parts_run_at_once() -> None:
    both = threading.Barrier(2)
    crew.share(2, 2, lambda number: both.wait(60) and None)


def test_the_first_part_that_fails_is_told_when_all_have_ended() -> None:
    done: list[int] = []

    def run(number: int) -> None:
        if number in (2, 5):
            raise ValueError(number)
        done.append(number)

    with pytest.raises(ValueError, match="2"):
        crew.share(8, 2, run)
    assert sorted(done) == [0, 1, 3, 4, 6, 7]


def test_callers_at_the_same_time_and_nested() -> None:
    def outer(_: int) -> int:
        done: list[int] = []
        crew.share(4, 2, lambda _: crew.share(5, 2, done.append))
        return len(done)

    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(outer, range(50))) == [20] * 50


def _in_child() -> None:
    done: list[int] = []
    crew.share(9, 3, done.append)
    assert sorted(done) == list(range(9))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork() -> None:
    crew.share(4, 3, lambda number: None)
    child = multiprocessing.get_context("fork").Process(target=_in_child)
    child.start()
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((8, 128, 64), (8, 64, 96)), ((3, 200, 96), (3, 96, 200)), ((2, 4, 96, 96), (2, 4, 96, 96)),
        ((1, 300, 200), (1, 200, 100)), ((500, 2, 100), (500, 100, 50)), ((256, 300), (300, 200)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_shared_products_are_the_products(x: tuple[int, ...], y: tuple[int, ...], turned: bool) -> None:
    r = np.random.default_rng(0)
    a = r.standard_normal((*x[:-2], x[-1], x[-2])).swapaxes(-1, -2) if turned else r.standard_normal(x)
    b = r.standard_normal(y)
    found = [Product(np.matmul, threads)(a, b) for threads in (2, 3)]
    np.testing.assert_allclose(found[0], np.einsum("...ij,...jk->...ik", a, b), rtol=1e-12, atol=1e-11)
    assert found[0].tobytes() == found[1].tobytes()
