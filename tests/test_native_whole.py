"""Small graphs as one compiled function: every op's examples, programs with their derivatives, random graphs, feeds in any form."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.errors import GraphError
from graphir.example import Example
from graphir.graph import Graph
from graphir.node import REGISTRY, Op
from graphir.ops.sources import input_
from tests import random_graphs
from workers.executor import Executor

EXAMPLES = [
    pytest.param(op, example, id=f"{op.name}-{k}")
    for op in REGISTRY.values()
    if op.name != "input"
    for k, example in enumerate(op.examples)
]


@pytest.mark.parametrize(("op", "example"), EXAMPLES)
def test_every_op_agrees_with_the_reference(op: Op, example: Example) -> None:
    inputs = [input_(name=f"i{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs)]
    graph = Graph({"out": op(*inputs, **example.attrs)}, inputs=inputs)
    values = {f"i{k}": array for k, array in enumerate(example.arrays())}
    found, wanted = Executor(graph, "llvm")(values)["out"], gi.evaluate(graph, values)["out"]
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=1e-6 if wanted.dtype.itemsize < 8 else 1e-14, atol=1e-15)
    else:
        np.testing.assert_array_equal(found, wanted)


SMALL = ["rosenbrock", "differences", "windows", "matrices", "extremes", "integers", "flips", "joined", "strided"]


def small(name: str) -> gi.Expr:
    x = gi.input("x", (12,))
    table = gi.reshape(x, (3, 4))
    if name == "rosenbrock":
        return gi.sum(100 * gi.square(x[1:] - gi.square(x[:-1])) + gi.square(1 - x[:-1]))
    if name == "differences":
        for _ in range(5):
            x = gi.sin(x[1:]) * x[:-1]
        return gi.sum(x)
    if name == "windows":
        return gi.sum(gi.exp(table[1:, ::2] * table[:-1, 1::2]))
    if name == "matrices":
        return gi.sum(gi.tanh(table @ gi.permute_dims(gi.exp(table), (1, 0))) @ table)
    if name == "extremes":
        return gi.sum(gi.max(table, axis=0) * gi.min(table, axis=1)[:, None] * gi.logsumexp(table, axis=1)[:, None])
    if name == "integers":
        return gi.sum(gi.astype(gi.arange(12) > 5, "float64") * x * gi.astype(gi.arange(12) * 3, "float64"))
    if name == "flips":
        return gi.sum(gi.flip(table, axis=1) * table * gi.constant(np.arange(12.0).reshape(3, 4)))
    if name == "joined":
        return gi.sum(gi.square(gi.concat([gi.exp(table), table[:2], table * 3], axis=0)) ** 2)
    return gi.sum(gi.log1p(gi.square(x[::3])) + x[1::3] * x[2::3])


@pytest.mark.parametrize("name", SMALL)
def test_small_graphs_with_gradient_and_hessian_agree_with_the_reference(name: str) -> None:
    value = small(name)
    (x,) = gi.Graph({"value": value}).inputs.values()
    slope = gi.grad(value, [gi.Expr(x)])[0]
    graph = gi.Graph({"value": value, "slope": slope, "hessian": gi.hessian(value, [gi.Expr(x)])[0][0]})
    execute = Executor(graph, "llvm")
    for seed in range(3):
        feeds = {"x": np.random.default_rng(seed).uniform(0.2, 1.5, 12)}
        wanted = gi.evaluate(graph, feeds)
        for key, found in execute(feeds).items():
            np.testing.assert_allclose(found, wanted[key], rtol=1e-12, atol=1e-12, err_msg=key)
    assert execute._latest is not None or name == "extremes"  # logsumexp is left to numpy


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(random_graphs.graphs(most=14))
def test_random_graphs_agree_with_the_reference(graph: Graph) -> None:
    feeds, sizes = random_graphs.feeds(graph, 1), {"n": random_graphs.N} if graph.sizes else None
    try:
        wanted = gi.evaluate(graph, feeds, sizes=sizes)
    except GraphError:
        return
    for name, found in Executor(graph, "llvm")(feeds, sizes=sizes).items():
        assert (found.dtype, found.shape) == (wanted[name].dtype, wanted[name].shape)
        near = {"float16": 1e-3, "float32": 1e-4, "float64": 1e-10}.get(found.dtype.name, 0)
        np.testing.assert_allclose(found, wanted[name], rtol=near, atol=near)


def test_graphs_whose_code_would_be_long_are_left_to_numpy() -> None:
    """Each level reads the one before at two positions, so that computing it where it is read doubles the code."""
    x = gi.input("x", (40,))
    z = x
    for _ in range(20):
        z = z[1:] - z[:-1] * gi.exp(z[1:]) * 0.01
    value = gi.sum(z)
    graph = gi.Graph({"value": value, "slope": gi.grad(value, [x])[0]})
    feeds = {"x": np.linspace(-0.1, 0.1, 40)}
    wanted, found = gi.evaluate(graph, feeds), Executor(graph, "llvm")(feeds)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12)


def test_small_graphs_take_feeds_in_any_form() -> None:
    x, y = gi.input("x", ("n", 3)), gi.input("y", (), "float32")
    graph = gi.Graph({"value": gi.exp(x) * gi.astype(y, "float64"), "rows": gi.sum(x, axis=1)})
    execute, rng = Executor(graph, "llvm"), np.random.default_rng(0)
    for rows in (4, 5, 4, 0, 1):
        whole = rng.standard_normal((rows, 3))
        odd = np.empty(whole.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(whole.shape)
        odd[:] = whole
        plain = execute({"x": whole, "y": np.float32(2)})
        np.testing.assert_allclose(plain["value"], np.exp(whole) * 2, rtol=1e-15)
        forms = [
            whole.astype(">f8"),
            np.asfortranarray(whole),
            odd,
            whole[::-1][::-1],
            np.array(whole, subok=True).view(np.memmap),
        ]
        for form in forms:
            found = execute({"x": form, "y": 2.0})
            assert all(found[name].tobytes() == plain[name].tobytes() for name in plain)
    for wrong in (
        {"x": whole},
        {"x": whole, "y": 1.0, "z": 1.0},
        {"x": np.ones((2, 4)), "y": 1.0},
        {"x": "no", "y": 1.0},
    ):
        with pytest.raises(GraphError):
            execute(wrong)


def test_small_graphs_leave_huge_sines_to_numpy_and_look_for_what_is_not_finite() -> None:
    x = gi.input("x", (3,))
    execute = Executor(gi.Graph({"value": gi.sin(x), "root": gi.log(x)}), "llvm")
    values = np.array([1.0, 1e22, 2.0])
    assert execute({"x": np.ones(3)})["value"].shape == (3,)
    assert execute({"x": values})["value"].tobytes() == np.sin(values).tobytes()
    with pytest.raises(gi.NonFiniteError, match="log"):
        execute({"x": -values}, check_finite=True)


def test_a_graph_of_nodes_only() -> None:
    """The op erf has no name among the user's functions."""
    x = input_(name="x", dtype="float64", shape=("n",))
    node = REGISTRY["erf"](REGISTRY["negative"](x))
    values = np.linspace(-7, 7, 40_001)
    found = Executor(Graph({"value": node}), "llvm")({"x": values})["value"]
    np.testing.assert_allclose(found, REGISTRY["erf"].kernel(-values), rtol=2e-15)


def shifted(x: gi.Expr, kinds: list[int]) -> gi.Expr:
    """Differences and products of a vector's parts, some of them one after the other."""
    for kind in kinds:
        n = int(x.shape[0])
        if n < 6:
            break
        x = [
            lambda v: v[1:] * v[:-1],
            lambda v: gi.square(v[1:] - gi.square(v[:-1])) + v[:-1],
            lambda v: v[2:] - 2 * v[1:-1] + v[:-2],
            lambda v, n=n: v[: n // 2] * v[n - n // 2 :],
            lambda v, n=n: v[::2][: n // 2] * v[1::2][: n // 2],
            lambda v: gi.concat([v[3:], v[:2]], axis=0) * gi.concat([v[:1], v[2:]], axis=0),
        ][kind](x)
    return gi.sum(gi.square(x))


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(4, 80), st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_gradients_of_shifted_parts_agree_with_the_reference(n: int, kinds: list[int]) -> None:
    x = gi.input("x", (n,))
    value = shifted(x, kinds)
    slope = gi.grad(value, [x])[0]
    graph = gi.Graph({"value": value, "slope": slope, "second": gi.grad(gi.sum(gi.square(slope)), [x])[0]})
    values = np.random.default_rng(n).random(n)
    found, wanted = Executor(graph, "llvm")({"x": values}), gi.evaluate(graph, {"x": values})
    for name, expected in wanted.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-9, err_msg=name)
