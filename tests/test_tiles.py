"""Graphs evaluated in tiles: the plan's values, the same bits for any number of threads, borders by shapes alone."""

import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.interpret import evaluate
from graphir.partition.data import partition
from graphir.partition.naming import classes, named
from graphir.partition.pairing import paired
from scheduler.driver.local import run_plan
from scheduler.pipeline import compile
from tests.random_graphs import N, feeds, graphs, same_bits
from tests.test_blocks import layouts, plain
from tests.test_ranks import Ranks
from tests.workloads import WORKLOADS, logistic, network, softmax, values_for
from workers import backends, blas, tiling
from workers.executor import Executor
from workers.footprint import peak_bytes
from workers.tiles import Tiled


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Small graphs are worth tiles, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "WORTH_BYTES", 1)
        patch.setattr(tiling, "TILE_BYTES", 256)
        patch.setattr(tiling, "CALL", 1e-12)
        patch.setattr(tiling, "MEMORY", 1e15)
        yield


def tiled(graph: gi.Graph, rows: int, chunk: int, threads: int = 1, sizes: Any = None) -> tuple[Tiled, Any]:
    """The graph with the class of `rows` in tiles of `chunk`, and its plan."""
    graph = paired(graph)
    sizes = sizes or {}
    (one,) = [one for one in classes(graph, sizes) if one.size == rows]
    renamed = named(graph, one, "tile", sizes)
    assert renamed is not None
    plan = partition(renamed, {**sizes, "tile": rows}, "tile", chunk)
    return Tiled(tiling.Tiling(plan, "tile", one.dim), backends.load("numpy"), threads, sizes, {}), plan


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_tiles_have_the_bits_of_the_plan_and_the_values_of_the_whole(name: str, chunk: int) -> None:
    graph, rows = WORKLOADS[name]()
    values, whole = values_for(graph), evaluate(graph, values_for(graph))
    for threads in (1, 2, 3):
        run, plan = tiled(graph, rows, chunk, threads)
        with np.errstate(all="ignore"):
            expected = run_plan(plan, values)
        for _ in range(4):  # from the third time on as functions
            made = dict(zip(graph.outputs, map(np.asarray, run.run(values)), strict=True))
            assert same_bits(made, expected)
        for output, value in whole.items():
            np.testing.assert_allclose(made[output], value, rtol=1e-10, atol=1e-12)


@settings(max_examples=100)
@given(graphs(), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3))
def test_random_graphs_have_the_bits_of_the_plan(graph: gi.Graph, seed: int, chunk: int, threads: int) -> None:
    values, sizes = feeds(graph, seed), {"n": N}
    try:
        evaluate(graph, values, sizes=sizes)
    except gi.GraphError:
        return
    for one in classes(graph, sizes):
        renamed = named(graph, one, "tile", sizes)
        if renamed is None:
            continue
        plan = partition(renamed, {**sizes, "tile": one.size}, "tile", chunk)
        cut = tiling.Tiling(plan, "tile", one.dim)
        made = Tiled(cut, backends.load("numpy"), threads, sizes, {}).run(values)
        expected = run_plan(plan, values)
        assert same_bits(plain(dict(zip(graph.outputs, map(np.asarray, made), strict=True))), plain(expected))


@settings(max_examples=40)
@given(st.integers(2, 90), st.integers(1, 9), st.sampled_from(["float64", "float32"]), st.integers(1, 3))
def test_any_shape_by_the_executor(rows: int, columns: int, dtype: str, threads: int) -> None:
    graph, _ = logistic(rows, columns, dtype)
    values = values_for(graph)
    made = Executor(graph, threads=threads)(values)
    assert same_bits(made, Executor(graph, threads=1)(values))
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    for name, value in evaluate(graph, values).items():
        np.testing.assert_allclose(made[name], value, rtol=tolerance, atol=tolerance / 100)


def test_the_executor_cuts_these() -> None:
    for make in (logistic, softmax, network):
        graph, rows = make(64)
        found = tiling.tiling(graph, {})
        assert found is not None
        assert found.plan.sizes[found.cut] == rows
        assert len(found.tiles) >= 2


def test_borders_are_a_function_of_graph_and_shapes() -> None:
    graph, _ = softmax(72, 9)
    found = {tuple(found.tiles) for _ in range(3) if (found := tiling.tiling(graph, {})) is not None}
    other, _ = softmax(72, 9)
    again = tiling.tiling(gi.loads(gi.dump(other)) if hasattr(gi, "loads") else other, {})
    assert again is not None
    assert found == {tuple(again.tiles)}


def test_small_evaluations_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "WORTH_BYTES", 1 << 22)
        for make in WORKLOADS.values():
            assert tiling.tiling(make()[0], {}) is None


@pytest.mark.parametrize("layout", layouts())
def test_any_layout_of_a_feed(layout: str) -> None:
    graph, _ = logistic(200, 300)
    values = values_for(graph) | {"x": layouts()[layout]}
    expected = Executor(graph)(values | {"x": np.array(layouts()[layout], np.float64, order="C")})
    assert same_bits(Executor(graph, threads=3)(values), expected)


def test_no_rows_and_one() -> None:
    x, w = gi.input("x", ("n", 3)), gi.input("w", (3, 2))
    loss = gi.sum(gi.tanh(x @ w) ** 2)
    graph = gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0]})
    run = Executor(graph, threads=2)
    for rows in (0, 1, 2, 65, 0):
        values = {"x": np.ones((rows, 3)), "w": np.ones((3, 2))}
        for name, value in evaluate(graph, values).items():
            np.testing.assert_allclose(run(values)[name], value, rtol=1e-12)


def test_random_numbers_and_positions_do_not_notice_the_tiles() -> None:
    x, w = gi.input("x", (60, 4)), gi.input("w", (4, 5))
    noise = gi.random.normal(gi.random.key(3), (60, 5))
    graph = gi.Graph({"y": gi.tanh(x @ w + noise) @ w.T, "s": gi.sum(x @ w * noise, axis=0)})
    values = values_for(graph)
    run, _ = tiled(graph, 60, 7, 2)
    for made, value in zip(run.run(values), evaluate(graph, values).values(), strict=True):
        np.testing.assert_allclose(made, value, rtol=1e-12, atol=1e-13)


def test_errors_name_the_node() -> None:
    x, w, k = gi.input("x", (64, 5)), gi.input("w", (5, 3)), gi.input("k", (64,), "int64")
    loss = gi.sum(gi.take_along_axis(gi.tanh(x @ w), k[:, None], axis=1))
    graph = gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0]})
    assert tiling.tiling(graph, {}) is not None
    values = values_for(graph) | {"k": np.zeros(64, np.int64)}
    values["k"][50] = 9
    for threads in (1, 3):
        with pytest.raises(gi.ShapeError, match=r"index 9[\s\S]*take_along_axis[\s\S]*test_tiles.py"):
            Executor(graph, threads=threads)(values)
    infinite = values | {"k": np.zeros(64, np.int64), "x": np.full((64, 5), np.nan)}
    with pytest.raises(gi.NonFiniteError, match=r"float64\[64, 3\]"):  # then it is evaluated whole
        Executor(graph)(infinite, check_finite=True)


def test_memory_that_cannot_be_had_names_the_node() -> None:
    x, w = gi.input("x", (64, 5)), gi.input("w", (5, 3))
    graph = gi.Graph({"loss": gi.sum(gi.tanh(x @ w) ** 2)})
    kernels = backends.load("numpy")

    def failing(op: Any) -> Any:
        def fail(*arrays: Any, **attributes: Any) -> Any:
            raise MemoryError

        return fail if op.name == "matmul" else kernels(op)

    found = tiling.tiling(graph, {})
    assert found is not None
    with pytest.raises(gi.LimitError, match=r"not enough memory[\s\S]*matmul[\s\S]*test_tiles.py"):
        Tiled(found, failing, 2, {}, {}).run(values_for(graph))
    assert Executor(graph)(values_for(graph))["loss"] > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_that_of_tiles_and_below_what_is_stated(threads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "TILE_BYTES", 1 << 16)
        graph, _ = logistic(300_000, 20, "float32")
        run, values = Executor(graph, threads=threads), values_for(graph)
        run(values)
        tracemalloc.start()
        try:
            run(values)
            _, highest = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        stated, node = run.peak_bytes({})
        assert node.op.name
        assert highest <= stated + 40_000  # objects, not values
        assert stated < peak_bytes(graph, {})[0] / 10


def test_several_threads_at_one_executor() -> None:
    graph, _ = network(64)
    run, values = Executor(graph, threads=2), values_for(graph)
    expected = run(values)
    with ThreadPoolExecutor(4) as pool:
        assert all(same_bits(made, expected) for made in pool.map(lambda _: run(values), range(40)))


def test_threads_of_blas_are_given_back() -> None:
    counts = [info["num_threads"] for info in blas._controller().info()]
    inside, go = threading.Event(), threading.Event()

    def other() -> None:
        with blas.threads(1):
            inside.set()
            go.wait(30)

    thread = threading.Thread(target=other)
    with blas.threads(1):
        thread.start()
        assert inside.wait(30)
    assert {info["num_threads"] for info in blas._controller().info()} == {1}
    go.set()
    thread.join()
    assert [info["num_threads"] for info in blas._controller().info()] == counts


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_job_has_the_same_bits_on_any_number_of_workers(count: int) -> None:
    x, y, w = gi.input("x", ("n", 6)), gi.input("y", ("n",)), gi.input("w", (6,))
    loss = gi.mean(gi.log1p(gi.exp(-y * (x @ w)))) + gi.sum(gi.arange("n") * y) / gi.size("n")
    graph = gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0]})
    plan = compile(graph, {"n": 301}, cut=["n"], chunk={"n": 50})
    (step,) = [step for step in plan.steps if step.kind == "map"]
    assert tiling.tiling(step.program, {"n": 301, "n.local": 50}) is not None
    rng = np.random.default_rng(5)
    values = {"x": rng.normal(size=(301, 6)), "y": rng.normal(size=301), "w": rng.normal(size=6)}
    found = []
    for ranks in (Ranks(plan, 1, {}), Ranks(plan, count, {})):
        try:
            ranks.feed(values, {})
            ranks.run(0, 1)
            found.append(ranks.outputs())
        finally:
            ranks.close()
    assert found[0] == found[1]
    for name, value in evaluate(graph, values).items():
        np.testing.assert_allclose(np.frombuffer(found[0][name]).reshape(value.shape), value, rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
def test_a_profile_tells_of_each_tile(backend: str) -> None:
    graph, _ = softmax(400, 30)
    run, values = Executor(graph, backend, threads=2), values_for(graph)
    expected = run(values)
    found = tiling.tiling(graph, {})
    assert found is not None
    profile = run.profile(values, runs=1)
    if backend == "numpy":
        assert sum(entry.name == "matmul" for entry in profile.entries) == 2 * len(found.tiles)
    else:  # a tile is one function
        assert sum("matmul" in entry.name and entry.nodes > 9 for entry in profile.entries) == len(found.tiles)
    assert same_bits(run(values), expected)
    for name, value in evaluate(graph, values).items():
        np.testing.assert_allclose(expected[name], value, rtol=1e-10, atol=1e-13)
