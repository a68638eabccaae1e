"""Control flow written to ONNX and read from it: onnxruntime gives what the reference gives."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import graphir as gi
from graphir.onnx import exporter
from tests.test_onnx import agree

RNG = np.random.default_rng(2)
X = gi.input("x", (3,))
P = gi.input("p", (), "bool")


def network(checkpoints: int | None = None, reverse: bool = False) -> tuple[gi.Graph, dict[str, Any]]:
    """An RNN with its gradient and a product with its Hessian."""
    xs, h0, u = gi.input("xs", (5, "n", 4)), gi.input("h0", ("n", 4)), gi.input("u", (4, 4))

    def step(carry: Any, row: Any) -> Any:
        h, total = carry
        h = gi.tanh(h @ u + row)
        return (h, total + gi.sum(h * h)), gi.sum(h, axis=1)

    (h, total), ys = gi.scan(step, (h0, gi.constant(0.0)), xs, checkpoints=checkpoints, reverse=reverse)
    loss = total + gi.sum(h**3) + gi.sum(ys * ys)
    dx, dh, du = gi.grad(loss, [xs, h0, u])
    (hv,) = gi.hvp(loss, [u], [gi.constant(np.eye(4))])
    feeds = {"xs": RNG.normal(size=(5, 3, 4)), "h0": RNG.normal(size=(3, 4)), "u": RNG.normal(size=(4, 4)) / 2}
    return gi.Graph({"loss": loss, "dx": dx, "dh": dh, "du": du, "hv": hv}), feeds


@pytest.mark.parametrize(("checkpoints", "reverse"), [(None, False), (None, True), (2, False)])
def test_a_scan_and_its_derivatives(checkpoints: int | None, reverse: bool) -> None:
    graph, feeds = network(checkpoints, reverse)
    onnx.checker.check_model(exporter.to_model(graph), full_check=True)
    again = agree(graph, feeds, 1e-9, 1e-10)
    assert sum(node.op.name == "scan" for node in again.nodes) > 2  # not unrolled


def test_a_scan_without_slices_and_one_inside_another() -> None:
    powers, _ = gi.scan(lambda c, _: (gi.sin(c), None), X, length=4)

    def outer(c: Any, row: Any) -> Any:
        inner, _ = gi.scan(lambda d, v: (gi.sin(d * v) + c, None), c, row)
        return inner, inner

    last, ys = gi.scan(outer, gi.constant(0.3), gi.input("m", (3, 4)))
    (dm,) = gi.grad(last * gi.sum(ys), [gi.input("m", (3, 4))])
    agree(gi.Graph({"powers": powers, "dm": dm}), {"x": RNG.normal(size=3), "m": RNG.normal(size=(3, 4))}, 1e-9)


@pytest.mark.parametrize("chosen", [True, False])
def test_a_condition_and_its_derivative(chosen: bool) -> None:
    y = gi.cond(P, lambda x: (gi.sin(x) * x, gi.sum(x)), lambda x: (x, gi.constant(2.0)), X)
    (dx,) = gi.grad(gi.sum(y[0] * y[1]), [X])
    graph = gi.Graph({"y": y[0], "s": y[1], "dx": dx})
    again = agree(graph, {"x": np.array([0.5, 1.0, 2.0]), "p": np.asarray(chosen)}, 1e-9)
    assert any(node.op.name == "cond" for node in again.nodes)


def test_a_loop_and_what_is_computed_again() -> None:
    doubled = gi.while_loop(lambda c: gi.sum(c) < 100, lambda c: c * 2 + X, X)
    again = agree(gi.Graph({"doubled": doubled}), {"x": np.arange(3.0)})
    assert any(node.op.name == "while_loop" for node in again.nodes)
    wave = gi.checkpoint(lambda a: gi.exp(gi.sin(a)))
    agree(gi.Graph({"dx": gi.grad(gi.sum(wave(X)), [X])[0]}), {"x": np.arange(3.0)}, 1e-9)


def test_a_loop_of_unknown_length_is_read_as_a_loop() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (int64 n, float[3] x) => (float[3] y) {
        going = Constant <value = bool {1}> ()
        y = Loop (n, going, x) <body = step (int64 i, bool c, float[3] a) => (bool d, float[3] b) {
            b = Add (a, x)
            total = ReduceSum <keepdims = 0> (b)
            most = Constant <value_float = 50.0> ()
            d = Less (total, most)
        }>
    }"""
    data = parser.parse_model(text).SerializeToString()
    graph = gi.from_onnx(data)
    from tests.test_onnx import runtime

    for n in (0, 2, 40):
        feeds = {"n": np.asarray(n), "x": np.array([1, 2, 3], "float32")}
        np.testing.assert_allclose(gi.evaluate(graph, feeds)["y"], runtime(data, feeds)["y"])


@pytest.mark.parametrize("length", [0, 4])
def test_a_scan_over_a_named_length_is_read(length: int) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[2] s, float["t",2] x) => (float[2] last, float["t",2] all) {
        last, all = Scan <num_scan_inputs = 1, scan_output_directions = [1], body = step (float[2] a, float[2] v) => (float[2] b, float[2] w) {
            b = Add (a, v)
            w = Mul (b, v)
        }> (s, x)
    }"""
    data = parser.parse_model(text).SerializeToString()
    graph = gi.from_onnx(data)
    s, x = gi.Expr(graph.inputs["s"]), gi.Expr(graph.inputs["x"])
    graph = graph.append({"ds": gi.grad(gi.sum(gi.Expr(graph.outputs["all"]) ** 2), [s])[0], "dx": gi.grad(gi.sum(gi.Expr(graph.outputs["last"])), [x])[0]})  # fmt: skip
    feeds = {"s": RNG.normal(size=2).astype("float32"), "x": RNG.normal(size=(length, 2)).astype("float32")}
    found = gi.evaluate(graph, feeds)
    state, rows = feeds["s"], []
    for row in feeds["x"]:
        state = state + row
        rows.append(state * row)
    np.testing.assert_allclose(found["last"], state, rtol=1e-6)
    np.testing.assert_allclose(found["all"], np.reshape(rows[::-1], (length, 2)), rtol=1e-6)
    np.testing.assert_allclose(found["dx"], np.ones((length, 2)))
    after = feeds["s"] + np.cumsum(feeds["x"], axis=0)
    np.testing.assert_allclose(found["ds"], np.sum(2 * after * feeds["x"] ** 2, axis=0), rtol=1e-5)
