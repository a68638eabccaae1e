"""Sizes and headers are read by many threads at once, for which CPython 3.11 needs a lock."""

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from graphir import dims
from graphir.dataset import Dataset
from workers.data import open_source


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns at every chance, and garbage is collected all the time."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(1)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


def test_threads_may_read_sizes_and_headers_at_once(tmp_path: Path, hurried: None) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 2)))

    def read(thread: int) -> None:
        for turn in range(40):
            assert dims.evaluate(dims.dim(f"{turn}*a + {thread}*c"), {"a": 10, "c": 1}) == 10 * turn + thread
            assert open_source(Dataset(str(tmp_path / "a.npy"))).shape == (3, 2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
