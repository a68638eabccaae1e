"""Tiles as one compiled function each: the values of the reference, the same bits for any threads, NumPy's errors."""

from collections.abc import Iterator
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
from tests.random_graphs import N, feeds, graphs
from tests.workloads import WORKLOADS, values_for
from workers import backends, tiling
from workers.backends.llvm import stream
from workers.backends.llvm.stream import BLOCK_BYTES
from workers.executor import Executor
from workers.tiles import Tiled
from workers.whole import Streamed


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Small graphs are worth tiles, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "WORTH_BYTES", 1)
        yield


def tiled(graph: gi.Graph, one: Any, chunk: int, sizes: Any, threads: int = 1) -> Tiled | None:
    """The graph with a class of axes in tiles, by compiled code where there is some."""
    renamed = named(graph, one, "tile", sizes)
    if renamed is None:
        return None
    try:
        plan = partition(renamed, {**sizes, "tile": one.size}, "tile", chunk)
    except gi.GraphError:
        return None
    cut = tiling.Tiling(plan, "tile", one.dim)
    return Tiled(cut, backends.load("llvm"), threads, sizes, {}, backends.compiler("llvm", "loop"), stream)


def streams(run: Tiled) -> int:
    return sum(isinstance(bound, Streamed) for step, _ in run._steps for bound in getattr(step, "_bounds", ()))


def agree(found: Any, wanted: Any, rtol: float = 1e-10) -> None:
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-12 if np.asarray(wanted).dtype.itemsize == 8 else 1e-6)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_workloads_have_the_values_of_the_reference(name: str, chunk: int) -> None:
    graph, rows = WORKLOADS[name]()
    graph = paired(graph)
    (one,) = [one for one in classes(graph, {}) if one.size == rows]
    values = values_for(graph)
    run = tiled(graph, one, chunk, {})
    assert run is not None
    for found, (output, wanted) in zip(run.run(values), evaluate(graph, values).items(), strict=True):
        agree(found, wanted)
        assert np.asarray(found).dtype == wanted.dtype, output


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(0, 3), st.integers(1, 3))
def test_random_graphs_agree_with_the_reference(graph: gi.Graph, seed: int, chunk: int) -> None:
    graph, values, sizes = paired(graph), feeds(graph, seed), {"n": N}
    try:
        wanted = evaluate(graph, values, sizes=sizes)
    except gi.GraphError:
        return
    for one in classes(graph, sizes):
        run = tiled(graph, one, chunk, sizes)
        if run is not None:
            for found, expected in zip(run.run(values), wanted.values(), strict=True):
                agree(found, expected, 1e-7)


ROWS = 3001
MODELS = ["softmax", "logistic", "poisson", "weighted", "scaled", "rows", "turned", "squared", "plain"]


def model(name: str, dtype: str) -> gi.Graph:
    """Value and gradients of models with one narrow product, or a few."""
    x, y = gi.input("x", (ROWS, 37), dtype), gi.input("y", (ROWS,), dtype)
    w, v = gi.input("w", (37,), dtype), gi.input("v", (37, 5), dtype)
    labels = gi.input("labels", (ROWS,), "int64")
    z = x @ w
    outputs: dict[str, Any] = {}
    if name == "softmax":
        loss, wrt = gi.nn.cross_entropy(x @ v, labels), [v]
    elif name == "logistic":
        loss, wrt = gi.mean(gi.log1p(gi.exp(-y * z))), [w]
    elif name == "poisson":
        loss, wrt = gi.mean(gi.exp(z) - y * z), [w]
    elif name == "weighted":
        loss, wrt = gi.sum(gi.where(y > 0, gi.square(z - y), gi.abs(z - y))) / gi.sum(gi.exp(y)), [w, y]
    elif name == "scaled":  # what depends on no rows is computed once
        loss, wrt = gi.sum(gi.tanh(x @ gi.exp(v) * gi.sum(gi.square(w)))), [v, w]
    elif name == "rows":
        loss, wrt = gi.sum(gi.max(x @ v, axis=1)), [v]
        outputs = {"each": gi.softmax(x @ v, axis=1), "sign": z > y}
    elif name == "turned":
        loss, wrt = gi.sum(gi.square((x @ v).T @ x)), [v]
    elif name == "squared":
        loss, wrt = gi.mean(gi.square(gi.sin(x @ v) @ gi.permute_dims(v, (1, 0)) - x)), [v]
    else:
        loss, wrt = gi.mean(gi.square(x + w)), [w]
    slopes = gi.grad(loss, wrt)
    return gi.Graph({"loss": loss, **outputs, **{f"slope{k}": slope for k, slope in enumerate(slopes)}})


def values(graph: gi.Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    found = {}
    for name, node in graph.inputs.items():
        shape = node.type.bind({})
        made = rng.integers(-5, 5, shape) if name == "labels" else 0.3 * rng.standard_normal(shape)
        found[name] = made.astype(node.type.dtype.name)
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_models_agree_with_the_reference_for_any_threads(name: str, dtype: str) -> None:
    graph = paired(model(name, dtype))
    given_, one = values(graph), next(one for one in classes(graph, {}) if one.size == ROWS)
    wanted = evaluate(graph, given_)
    runs = [tiled(graph, one, 700, {}, threads) for threads in (1, 2, 3)]
    found = [run.run(given_) for run in runs if run is not None]
    assert len(found) == 3
    if name not in ("rows", "squared", "turned"):  # which may need sums of rows before rows
        assert streams(runs[0]) > 0 if runs[0] is not None else False
    for made, (output, value) in zip(found[0], wanted.items(), strict=True):
        np.testing.assert_allclose(
            made,
            value,
            rtol=1e-9 if dtype == "float64" else 2e-3,
            atol=1e-11 if dtype == "float64" else 2e-5,
            err_msg=output,
        )
    for other in found[1:]:
        assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(found[0], other, strict=True))


def softmax(rows: int, classes_: int = 4) -> gi.Graph:
    x, v, labels = gi.input("x", (rows, 90)), gi.input("v", (90, classes_)), gi.input("labels", (rows,), "int32")
    loss = gi.nn.cross_entropy(x @ v, labels)
    return gi.Graph({"loss": loss, "slope": gi.grad(loss, [v])[0]})


def test_tiles_are_shorter_and_longer_than_blocks() -> None:
    for rows in (2, 15, 16, 17, BLOCK_BYTES // 720, 4000):
        graph = paired(softmax(rows))
        rng = np.random.default_rng(rows)
        given_ = {
            "x": rng.standard_normal((rows, 90)),
            "v": rng.standard_normal((90, 4)),
            "labels": rng.integers(0, 4, rows, np.int32),
        }
        one = next(one for one in classes(graph, {}) if one.size == rows)
        run = tiled(graph, one, max(1, rows // 2), {})
        assert run is not None
        assert streams(run) > 0
        for found, wanted in zip(run.run(given_), evaluate(graph, given_).values(), strict=True):
            agree(found, wanted)


@pytest.mark.parametrize("bad", [4, -5, 2**31 - 1, -(2**31)])
def test_a_label_that_is_out_of_range_is_numpys_error(bad: int) -> None:
    graph = softmax(20_000)
    rng = np.random.default_rng(1)
    labels = rng.integers(-4, 4, 20_000, np.int32)
    given_ = {"x": rng.standard_normal((20_000, 90)), "v": rng.standard_normal((90, 4)), "labels": labels}
    execute = Executor(graph, "llvm", threads=2)
    for output, wanted in evaluate(graph, given_).items():
        agree(execute(given_)[output], wanted)
    labels[17_001] = bad
    with pytest.raises(gi.GraphError) as raised:
        execute(given_)
    with pytest.raises(type(raised.value)):
        evaluate(graph, given_)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300])
def test_what_is_not_finite_comes_out_as_the_reference_has_it(value: float) -> None:
    graph = softmax(20_000)
    rng = np.random.default_rng(1)
    given_ = {
        "x": rng.standard_normal((20_000, 90)),
        "v": rng.random((90, 4)),
        "labels": rng.integers(0, 4, 20_000, np.int32),
    }
    given_["x"][777] = value
    with np.errstate(all="ignore"):
        found, wanted = Executor(graph, "llvm")(given_), evaluate(graph, given_)
    for output in wanted:
        np.testing.assert_allclose(found[output], wanted[output], rtol=1e-9)
