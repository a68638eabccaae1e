"""Models of one operator or a few, written as text: our values beside onnxruntime's, our derivatives beside differences."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import parser

import graphir as gi

onnxruntime.set_default_logger_severity(4)
RNG = np.random.default_rng(11)


def model(body: str, opset: int = 19) -> bytes:
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "ai.onnx.ml" : 5]>\n'
    proto = parser.parse_model(header + body)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def expected(data: bytes, feeds: dict[str, Any]) -> list[Any]:
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)


def agree(body: str, feeds: dict[str, Any], opset: int = 19, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """The same numbers as onnxruntime; the batch keeps its name."""
    data = model(body, opset)
    graph = gi.from_onnx(data)
    for got, want in zip(gi.evaluate(graph, feeds).values(), expected(data, feeds), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, rtol, atol)


def slopes_agree(body: str, feeds: dict[str, Any], wrt: list[str], opset: int = 19) -> None:
    """In double precision, the derivative along a direction against central differences."""
    graph = gi.from_onnx(model(body.replace("float[", "double["), opset))
    values = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()}
    (out,) = graph.outputs.values()
    loss = gi.sum(gi.sin(gi.Expr(out)))
    gradients = gi.grad(loss, [gi.Expr(graph.inputs[name]) for name in wrt])
    whole = gi.Graph({"loss": loss, **dict(zip(wrt, gradients, strict=True))}, inputs=list(graph.inputs.values()))
    found = gi.evaluate(whole, values)
    ways = {name: np.random.default_rng(6).normal(size=values[name].shape) for name in wrt}
    step = 1e-6

    def at(t: float) -> float:
        return float(gi.evaluate(whole, {k: v + t * ways[k] if k in ways else v for k, v in values.items()})["loss"])

    slope = sum(float(np.sum(found[name] * ways[name])) for name in wrt)
    np.testing.assert_allclose(slope, (at(step) - at(-step)) / (2 * step), rtol=1e-5, atol=1e-7)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)
