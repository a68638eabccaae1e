"""Plans that fit no worker are refused before anything runs, and the error says which chunks would fit."""

import re

import numpy as np
import pytest

import graphir as gi
from scheduler.check import fitting_chunk
from scheduler.pipeline import compile


def wide() -> gi.Graph:
    x, w = gi.input("x", ("n", 100)), gi.input("w", (100, 50))
    return gi.append_gradients(gi.Graph({"loss": gi.mean(gi.tanh(x @ w) ** 2)}), "loss", ["w"])


@pytest.mark.parametrize("limit", [200_000, 1_000_000, 5_000_000])
def test_the_largest_chunk_that_fits_is_named(limit: int) -> None:
    sizes = {"n": 100_000}
    with pytest.raises(gi.LimitError, match=r"chunk=\{'n': \d+\} would fit[\s\S]*test_memory.py") as refused:
        compile(wide(), sizes, chunk={"n": 100_000}, memory_limit=limit)
    named = re.search(r"'n': (\d+)", str(refused.value))
    assert named is not None
    rows = int(named[1])
    assert compile(wide(), sizes, chunk={"n": rows}, memory_limit=limit).rows == {"n": rows}
    with pytest.raises(gi.LimitError):
        compile(wide(), sizes, chunk={"n": rows + 1}, memory_limit=limit)


def test_of_two_dimensions_both_may_have_to_be_smaller() -> None:
    x, v = gi.input("x", ("n", 8)), gi.input("v", (8, "h"))
    graph = gi.Graph({"total": gi.sum(gi.tanh(x @ v))})
    sizes = {"n": 4000, "h": 4000}
    plan = compile(graph, sizes, chunk={"n": 2000, "h": 2000})
    fitting = fitting_chunk(plan, 40_000)
    assert fitting is not None
    assert compile(graph, sizes, chunk=fitting, memory_limit=40_000).rows == fitting


def test_what_no_chunk_helps_is_named() -> None:
    x, m = gi.input("x", ("n", 10)), gi.input("m", (1000, 1000))
    graph = gi.Graph({"a": gi.sum(x), "square": gi.sum(gi.exp(m) @ m)})
    with pytest.raises(gi.LimitError, match=r"even in chunks of one row[\s\S]*(matmul|exp)\([\s\S]*test_memory.py"):
        compile(graph, {"n": 1000}, memory_limit=1_000_000)
    with pytest.raises(gi.LimitError, match=r"name a dimension that can be cut[\s\S]*test_memory.py"):
        compile(gi.Graph({"square": gi.sum(gi.exp(m) @ m)}), {}, memory_limit=1_000_000)


def test_a_service_refuses_when_the_job_is_submitted() -> None:
    feeds = {"x": np.ones((5000, 100)), "w": np.ones((100, 50))}
    with gi.connect(workers=0, memory=500_000) as client:
        with pytest.raises(gi.LimitError, match=r"500000 bytes a worker; chunk=\{'n': \d+\} would fit"):
            client.submit(wide(), feeds, chunk={"n": 5000})
        result = client.submit(wide(), feeds, chunk={"n": 100}).result()
    np.testing.assert_allclose(result["loss"], np.mean(np.tanh(feeds["x"] @ feeds["w"]) ** 2), rtol=1e-12)


def test_more_chunks_than_rows_and_no_rows() -> None:
    plan = compile(wide(), {"n": 3})
    assert plan.chunks == 3
    assert compile(wide(), {"n": 3}, chunk={"n": 1000}).chunks == 1
    with pytest.raises(gi.PlanError, match="size 0"):
        compile(wide(), {"n": 0})
    with pytest.raises(gi.PlanError, match="at least one row"):
        compile(wide(), {"n": 3}, chunk={"n": 0})
