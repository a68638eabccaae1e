"""The executor has the bits of the reference evaluation, frees what is dead, and says what fails where."""

import numpy as np
import pytest

import graphir as gi
from graphir.example import Example
from graphir.graph import Graph
from graphir.interpret import evaluate
from graphir.node import REGISTRY, Op
from graphir.ops.sources import input_
from workers.backends import UnknownBackendError
from workers.executor import BOUND_PROGRAMS, Executor

CASES = [
    pytest.param(op, example, id=f"{op.name}-{k}")
    for op in REGISTRY.values()
    if op.name != "input"
    for k, example in enumerate(op.examples)
]
x, w = gi.input("rows", ("n", 4)), gi.input("square", (4, 4))
_hidden = gi.tanh(x @ w) * gi.arange("n", dtype="float64")[:, None]
LOSS = gi.mean(gi.logsumexp(_hidden, axis=1))
GRAPH = gi.Graph({"loss": LOSS, "dw": gi.grad(LOSS, [w])[0], "hidden": _hidden})


def feeds(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {"rows": rng.standard_normal((rows, 4)), "square": rng.standard_normal((4, 4))}


@pytest.mark.parametrize(("op", "example"), CASES)
def test_every_op_has_the_bits_of_the_reference(op: Op, example: Example) -> None:
    inputs = [input_(name=f"i{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs)]
    graph = Graph({"out": op(*inputs, **example.attrs)}, inputs=inputs)
    values = {f"i{k}": array for k, array in enumerate(example.arrays())}
    mine, reference = Executor(graph)(values)["out"], evaluate(graph, values)["out"]
    assert mine.dtype == reference.dtype
    assert mine.tobytes() == reference.tobytes()


def test_one_executor_serves_many_sizes() -> None:
    execute = Executor(GRAPH, threads=1)
    for rows in [*range(1, BOUND_PROGRAMS + 5), 1, 2]:
        found, expected = execute(feeds(rows)), gi.evaluate(GRAPH, feeds(rows))
        for name in GRAPH.outputs:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-13)
    assert len(execute._bound) == BOUND_PROGRAMS


def test_memory_is_estimated_before_anything_runs() -> None:
    needed, node = Executor(GRAPH).peak_bytes({"n": 1000})
    assert needed >= 2 * 1000 * 4 * 8
    assert node in GRAPH.nodes
    with pytest.raises(gi.LimitError, match=r"over the limit of 1000;[\s\S]*test_executor.py"):
        Executor(GRAPH, memory_limit=1000)(feeds(1000))
    Executor(GRAPH, memory_limit=needed)(feeds(1000))


def test_failures_name_the_node() -> None:
    index = gi.input("index", ("m",), "int64")
    graph = gi.Graph({"out": gi.take(gi.constant(np.arange(3.0)), index)})
    with pytest.raises(gi.ShapeError, match=r"index 7 is out of range[\s\S]*take\([\s\S]*test_executor.py"):
        Executor(graph)({"index": np.array([0, 7])})
    powers = gi.Graph({"out": gi.input("base", (), "int64") ** gi.input("power", (), "int64")})
    with pytest.raises(gi.EvaluationError, match="negative"):
        Executor(powers)({"base": 2, "power": -1})
    with pytest.raises(gi.NonFiniteError, match=r"log[\s\S]*test_executor.py"):
        Executor(gi.Graph({"out": gi.log(gi.input("p"))}))({"p": 0.0}, check_finite=True)


def test_unknown_back_ends_are_named() -> None:
    with pytest.raises(UnknownBackendError, match="'fortran'; the back-ends are .*numpy"):
        Executor(GRAPH, backend="fortran")
