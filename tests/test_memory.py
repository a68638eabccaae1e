"""Plans that fit no worker are refused before anything runs, and the error says which chunks would fit."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from scheduler.memory import Room, check_memory, fitting_chunk, needed_bytes
from scheduler.pipeline import compile
from tests.jobs import pool_of
from workers import machine


def wide() -> gi.Graph:
    x, w = gi.input("x", ("n", 100)), gi.input("w", (100, 50))
    return gi.append_gradients(gi.Graph({"loss": gi.mean(gi.tanh(x @ w) ** 2)}), "loss", ["w"])


@pytest.mark.parametrize("limit", [700_000, 1_000_000, 5_000_000])
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
    fitting = fitting_chunk(plan, Room(40_000))
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
    with gi.connect(workers=0, memory=1_000_000) as client:
        with pytest.raises(gi.LimitError, match=r"1000000 bytes a worker; chunk=\{'n': \d+\} would fit"):
            client.submit(wide(), feeds, chunk={"n": 5000})
        result = client.submit(wide(), feeds, chunk={"n": 100}).result()
    np.testing.assert_allclose(result["loss"], np.mean(np.tanh(feeds["x"] @ feeds["w"]) ** 2), rtol=1e-12)


def kept() -> tuple[gi.Graph, dict[str, object]]:
    """A step that makes little of large weights, which are kept before some calls."""
    return gi.Graph({"w2": 0.5 * gi.input("w", (250_000,))}), {"w": np.zeros(250_000)}


def test_what_is_kept_between_iterations_counts() -> None:
    graph, feeds = kept()
    with gi.connect(workers=0, memory=10_000_000) as client:
        assert client.submit(graph, feeds).result()["w2"].shape == (250_000,)
        with pytest.raises(gi.LimitError, match=r"kept between steps and iterations, about 1\d MB are needed at once"):
            client.submit(graph, feeds, carry={"w": "w2"}, steps=2)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2_000_000))
def test_chunks_that_are_named_do_fit(rows: int, columns: int, workers: int, limit: int) -> None:
    x, v = gi.input("x", ("n", 30)), gi.input("v", (30, "h"))
    y = gi.tanh(x @ v)
    graph = gi.Graph({"total": gi.sum(y), "columns": gi.softmax(gi.mean(y, axis=0)), "y": y})
    plan = compile(graph, {"n": 40 * rows, "h": 40 * columns}, chunk={"n": 20 * rows, "h": 20 * columns})
    room = Room(limit, workers)
    fitting = fitting_chunk(plan, room)
    if fitting is None:
        with pytest.raises(gi.LimitError, match="even in chunks of one row"):
            check_memory(plan, room)
        return
    again = compile(graph, plan.sizes, chunk=fitting)
    assert check_memory(again, room) is again
    assert needed_bytes(again, workers, {}) <= limit


@pytest.mark.usefixtures("local_ray")
def test_workers_share_what_their_machine_has() -> None:
    graph, feeds = kept()
    with gi.connect(workers=2) as client:
        client.submit(graph, feeds, carry={"w": "w2"}, steps=2).result()
        pool = pool_of(client)
        assert pool.memory == machine.memory() // 2
        for member in pool.members:
            member.memory = 20_000_000  # 10 for each
        with pytest.raises(gi.LimitError, match="over the limit of 10000000 bytes a worker"):
            client.submit(graph, feeds, carry={"w": "w2"}, steps=2)


def test_more_chunks_than_rows_and_no_rows() -> None:
    plan = compile(wide(), {"n": 3})
    assert plan.chunks == 3
    assert compile(wide(), {"n": 3}, chunk={"n": 1000}).chunks == 1
    with pytest.raises(gi.PlanError, match="size 0"):
        compile(wide(), {"n": 0})
    with pytest.raises(gi.PlanError, match="at least one row"):
        compile(wide(), {"n": 3}, chunk={"n": 0})
