"""ONNX out and in: every op against onnxruntime, models with gradients, and models that others made."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphir as gi
from graphir.example import Example
from graphir.node import REGISTRY, Node, Op
from graphir.onnx import exporter
from graphir.onnx.writer import RULES

onnxruntime.set_default_logger_severity(4)
WRITTEN = [
    pytest.param(op, example, id=f"{op.name}-{k}")
    for op in REGISTRY.values()
    if op.name in RULES and op.name != "det"
    for k, example in enumerate(op.examples)
]


def runtime(data: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime answers, after the checker's full check."""
    onnx.checker.check_model(data, full_check=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    used = {i.name for i in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {k: v for k, v in feeds.items() if k in used}), strict=True))


def agree(graph: gi.Graph, feeds: dict[str, Any], rtol: float = 1e-5, atol: float = 1e-6) -> gi.Graph:
    """Reference, onnxruntime and the graph read back give the same; the graph read back is returned."""
    arrays = {name: np.asarray(value, graph.inputs[name].type.dtype) for name, value in feeds.items()}
    expected = gi.evaluate(graph, arrays)
    data = exporter.to_bytes(graph)
    found = runtime(data, arrays)
    again = gi.from_onnx(data)
    assert list(again.inputs) == list(graph.inputs)
    assert [n.type for n in again.inputs.values()] == [n.type for n in graph.inputs.values()]
    assert list(again.outputs) == list(graph.outputs) == list(found)
    back = gi.evaluate(again, arrays)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        np.testing.assert_allclose(found[name], value, rtol, atol, err_msg=f"onnxruntime: {name}")
        np.testing.assert_allclose(back[name], value, rtol, atol, err_msg=f"read back: {name}")
    return again


# ---- every op ----


def leaves(example: Example) -> tuple[Node, ...]:
    return tuple(gi.input(f"arg{k}", s.shape, s.dtype).node for k, s in enumerate(example.inputs))


@pytest.mark.parametrize(("op", "example"), WRITTEN)
def test_every_written_op_means_the_same_to_onnxruntime(op: Op, example: Example) -> None:
    inputs = leaves(example)
    graph = gi.Graph({"out": op(*inputs, **example.attrs)}, inputs=inputs or None)
    if op.name == "input":
        graph = gi.Graph({"out": op(**example.attrs)})
        agree(graph, {"x": np.arange(3.0)})
        return
    agree(graph, {f"arg{k}": array for k, array in enumerate(example.arrays())}, 1e-6)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int64", "uint8", "uint16", "uint32", "float16", "float64"])
@pytest.mark.parametrize(
    "op",
    [op for op in REGISTRY.values() if op.arity in (1, 2) and not op.attrs and op.name in RULES and op.name != "det"],
    ids=lambda o: o.name,
)
def test_every_dtype_of_elementwise_ops(op: Op, dtype: str) -> None:
    values = [np.array([[1, 2], [3, 1]], dtype), np.array([[1, 1], [2, 1]], dtype)][: op.arity]
    inputs = [gi.input(f"e{k}", (2, 2), dtype) for k in range(len(values))]
    try:
        node = op(*[i.node for i in inputs])
    except gi.DTypeError:
        return
    graph = gi.Graph({"out": node}, inputs=inputs)
    agree(graph, {f"e{k}": v for k, v in enumerate(values)}, 2e-3 if dtype == "float16" else 1e-7)


def test_a_determinant_is_written_in_float32() -> None:
    x = gi.input("x", ("n", 3, 3), "float32")
    agree(gi.Graph({"det": gi.linalg.det(x)}), {"x": np.random.default_rng(0).normal(size=(2, 3, 3))})
    with pytest.raises(gi.DTypeError, match="cast the matrix"):
        exporter.to_bytes(gi.Graph({"det": gi.linalg.det(gi.astype(x, "float64"))}))


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 1e-8, -3e-9, 0.3, -0.7, 2.5, -40.0, 1e5, -1e300, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize(
    "name",
    ["log1p", "expm1", "sinh", "cosh", "asinh", "acosh", "atanh", "atan", "asin", "acos", "tan", "trunc", "signbit",
     "isfinite", "sign", "erf"],
)  # fmt: skip
def test_composed_functions_keep_float64_accuracy(name: str) -> None:
    points = SPECIAL[np.abs(SPECIAL) < 1e4] if name == "tan" else SPECIAL
    graph = gi.Graph({"out": REGISTRY[name](gi.input("x", ("n",)).node)})
    agree(graph, {"x": points}, 1e-13, 0.0)


@pytest.mark.parametrize("name", ["atan2", "hypot", "logaddexp", "copysign", "remainder", "floor_divide", "maximum"])
def test_composed_functions_of_two_values(name: str) -> None:
    x, y = np.meshgrid(SPECIAL, SPECIAL)
    keep = np.isfinite(x) & np.isfinite(y) & (y != 0) & (np.abs(x) < 1e6) & (np.abs(y) < 1e6)
    if name in ("atan2", "hypot", "logaddexp", "copysign", "maximum"):
        keep = np.ones_like(keep) if name != "copysign" else ~np.isnan(y)
    graph = gi.Graph({"out": getattr(gi, name)(gi.input("x", ("n",)), gi.input("y", ("n",)))})
    agree(graph, {"x": x[keep], "y": y[keep]}, 1e-13, 0.0)


# ---- whole models with gradients ----


def softmax_regression() -> gi.Graph:
    x, t, w = gi.input("x", ("n", 64), "float32"), gi.input("t", ("n",), "int64"), gi.input("w", (64, 10), "float32")
    logits = x @ w
    loss = gi.mean(gi.logsumexp(logits, axis=1) - gi.take_along_axis(logits, t[:, None], axis=1)[:, 0])
    (dw,) = gi.grad(loss, [w])
    return gi.Graph({"loss": loss, "dw": dw})


def test_softmax_regression_with_its_gradient() -> None:
    rng = np.random.default_rng(0)
    graph = softmax_regression()
    feeds = {"x": rng.normal(size=(7, 64)), "t": rng.integers(0, 10, 7), "w": rng.normal(size=(64, 10)) / 8}
    again = agree(graph, feeds)
    assert again.inputs["x"].type.shape == ("n", 64)
    assert again.sizes == ("n",)


@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
def test_a_perceptron_with_gradients_of_all_parameters(activation: str) -> None:
    functions = {
        "tanh": gi.tanh,
        "relu": lambda v: gi.maximum(v, 0.0),
        "softplus": lambda v: gi.logaddexp(v, 0.0),
    }
    x, y = gi.input("x", ("n", 5), "float32"), gi.input("y", ("n", 2), "float32")
    shapes = {"w1": (5, 8), "b1": (8,), "w2": (8, 2), "b2": (2,)}
    p = {name: gi.input(name, shape, "float32") for name, shape in shapes.items()}
    hidden = functions[activation](x @ p["w1"] + p["b1"])
    loss = gi.mean((hidden @ p["w2"] + p["b2"] - y) ** 2)
    graph = gi.append_gradients(gi.Graph({"loss": loss}), "loss", list(p))
    rng = np.random.default_rng(1)
    feeds = {n: rng.normal(size=node.type.bind({"n": 6})) for n, node in graph.inputs.items()}
    again = agree(graph, feeds)
    # what was read back can be differentiated again, to the same numbers
    selected = again.select(["loss"])
    second = gi.append_gradients(selected, "loss", ["w1"])
    arrays = {n: np.asarray(v, "float32") for n, v in feeds.items()}
    np.testing.assert_allclose(
        gi.evaluate(second, arrays)["d_loss_d_w1"], gi.evaluate(graph, arrays)["d_loss_d_w1"], rtol=1e-4, atol=1e-6
    )


def test_symbolic_sizes_survive() -> None:
    x, y = gi.input("x", ("n", "m")), gi.input("y", ("2*n + 1", "m"))
    joined = gi.concat([x, y], 0)
    values = {
        "joined": joined,
        "flat": gi.reshape(joined, (-1,)),
        "outer": gi.sum(x, 1)[:, None] * gi.sum(y, 1)[None, :],
        "count": gi.arange("n") + gi.size("m"),
        "second": gi.grad(gi.sum(gi.grad(gi.sum(x[1:] ** 3), [x])[0] ** 2), [x])[0],
        "flipped": x[::-1, ::2],
    }
    graph = gi.Graph(values)
    rng = np.random.default_rng(2)
    again = agree(graph, {"x": rng.normal(size=(3, 4)), "y": rng.normal(size=(7, 4))})
    assert {n: v.type.shape for n, v in again.outputs.items()} == {n: v.type.shape for n, v in graph.outputs.items()}


def test_a_size_that_only_a_polynomial_gives() -> None:
    x = gi.input("x", ("3*n + 2",))
    agree(gi.Graph({"n": gi.size("n"), "twice": x * 2}), {"x": np.zeros(11)})
    with pytest.raises(gi.ShapeError, match="not the size of any input"):
        exporter.to_bytes(gi.Graph({"n": gi.size("m")}))


def test_outputs_that_are_inputs_constants_or_each_other() -> None:
    x = gi.input("x", (2,))
    graph = gi.Graph({"same": x, "x": x, "one": gi.constant([1.0]), "s": gi.sin(x), "again": gi.sin(x)})
    agree(graph, {"x": np.ones(2)})
    with pytest.raises(gi.FormatError, match="names an input and another output"):
        exporter.to_bytes(gi.Graph({"x": gi.sin(x)}))


def test_origins_tell_the_derivatives_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    softmax_regression().to_onnx(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert any(node.doc_string.startswith("vjp of matmul at test_onnx.py") for node in onnx.load(path).graph.node)
    assert "# model.onnx:" in gi.from_onnx(path).to_text()


def test_an_op_without_a_standard_operator_is_named() -> None:
    graph = gi.Graph({"out": gi.nextafter(gi.input("x"), 1.0)})
    with pytest.raises(gi.UnknownOpError, match="nextafter") as caught:
        exporter.to_bytes(graph)
    assert "test_onnx.py" in str(caught.value)


# ---- models that others made ----

F32 = TensorProto.FLOAT


def value(name: str, shape: Any, kind: int = F32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto], inputs: Any, outputs: Any, initializers: Any = (), **more: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **more)


def shape_computation() -> onnx.ModelProto:
    """x reshaped to (Shape(x)[0], heads, Shape(x)[1] / heads), as exporters write it."""
    ints = {"zero": 0, "one": 1, "heads": 4}
    constants = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in ints.items()]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Gather", ["shape", "one"], ["width"]),
        helper.make_node("Div", ["width", "heads"], ["each"]),
        helper.make_node("Unsqueeze", ["batch", "first"], ["b"]),
        helper.make_node("Unsqueeze", ["heads", "first"], ["h"]),
        helper.make_node("Unsqueeze", ["each", "first"], ["e"]),
        helper.make_node("Concat", ["b", "h", "e"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["out"]),
    ]
    constants.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    return model(nodes, [value("x", ["batch size", 8])], [value("out", None)], constants)


def test_shape_computations_become_dimensions() -> None:
    graph = gi.from_onnx(shape_computation().SerializeToString())
    assert graph.outputs["out"].type.shape == ("batch_size", 4, 2)
    assert [n.op.name for n in graph.nodes] == ["input", "reshape"]


def test_functions_are_inlined_with_their_attributes() -> None:
    body = [
        helper.make_node("Constant", [], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["b"]),
        helper.make_node("Mul", ["b", "b"], ["c"]),
    ]
    reference = body[0].attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "value_float", "scale", onnx.AttributeProto.FLOAT
    function = helper.make_function("own", "Scaled", ["a"], ["c"], body, [helper.make_opsetid("", 21)], ["scale"])
    nodes = [helper.make_node("Scaled", ["x"], ["y"], domain="own", scale=3.0)]
    built = model(nodes, [value("x", [2])], [value("y", [2])], functions=[function])
    built.opset_import.append(helper.make_opsetid("own", 1))
    feeds = {"x": np.array([1.0, 2.0], "float32")}
    expected = onnxruntime.InferenceSession(built.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_array_equal(gi.evaluate(gi.from_onnx(built.SerializeToString()), feeds)["y"], expected)


def test_bind_fixes_an_input_that_decides_a_shape() -> None:
    built = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="fold")],
        [value("x", [6]), value("shape", [2], TensorProto.INT64)],
        [value("y", None)],
    ).SerializeToString()
    with pytest.raises(gi.BindError, match="depends on the value of 'shape'") as caught:
        gi.from_onnx(built)
    assert caught.value.inputs == ("shape",)
    assert "Reshape node 'fold' of model" in str(caught.value) or "model:fold" in str(caught.value)
    graph = gi.from_onnx(built, bind={"shape": np.array([2, 3])})
    assert list(graph.inputs) == ["x"]
    assert graph.outputs["y"].type.shape == (2, 3)
    with pytest.raises(gi.FormatError, match="bind names 'z'"):
        gi.from_onnx(built, bind={"z": 1})


def test_initialisers_are_constants_and_inputs_may_be_unused() -> None:
    weights = numpy_helper.from_array(np.array([2.0, 3.0], "float32"), "w")
    nodes = [helper.make_node("Neg", ["w"], ["m"]), helper.make_node("Mul", ["x", "m"], ["y"])]
    built = model(nodes, [value("x", [2]), value("w", [2]), value("idle", [None])], [value("y", [2])], [weights])
    graph = gi.from_onnx(built.SerializeToString())
    assert list(graph.inputs) == ["x", "idle"]
    assert [n.op.name for n in graph.nodes].count("constant") == 1  # -w is worked out
    assert graph.inputs["idle"].type.shape == ("idle_0",)
