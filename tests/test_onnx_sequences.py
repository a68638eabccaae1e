"""Sequences and optional values inside ONNX models, against onnxruntime."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import parser

import graphir as gi

X = np.arange(24.0).reshape(4, 6).astype(np.float32)


def read(body: str) -> tuple[bytes, gi.Graph]:
    data = parser.parse_model('<ir_version: 10, opset_import: ["" : 19]>\n' + body).SerializeToString()
    return data, gi.from_onnx(data)


def agree(body: str, feeds: dict[str, Any]) -> None:
    data, graph = read(body)
    expected = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)
    for got, want in zip(gi.evaluate(graph, feeds).values(), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_parts_are_split_changed_and_joined() -> None:
    agree(
        """g (float[n,6] x) => (float[n,k] y, int64 count)
        <int64 two = {2}, int64 last = {-1}, int64 first = {0}> {
            parts = SplitToSequence <axis = 1> (x, two)
            tail = SequenceAt (parts, last)
            rest = SequenceErase (parts, first)
            more = SequenceInsert (rest, tail, first)
            count = SequenceLength (more)
            y = ConcatFromSequence <axis = 1> (more)
        }""",
        {"x": X},
    )


def test_a_body_is_applied_to_each_tensor() -> None:
    agree(
        """g (float[4,6] x) => (float[4,3,k] y) {
            parts = SplitToSequence <axis = 0, keepdims = 0> (x)
            sums = SequenceMap (parts, x) <body = each (float[6] part, float[4,6] all) => (float[4,6] moved) {
                moved = Mul (part, all)
            }>
            z = ConcatFromSequence <axis = 2, new_axis = 1> (sums)
            size = Constant <value_ints = [4, 3, -1]> ()
            y = Reshape (z, size)
        }""",
        {"x": X},
    )


def test_derivatives_pass_through_sequences() -> None:
    _, graph = read(
        """g (double[n,6] x) => (double[n] y)
        <int64[2] sizes = {2, 4}, int64 one = {1}, int64[1] axes = {1}> {
            parts = SplitToSequence <axis = 1> (x, sizes)
            part = SequenceAt (parts, one)
            y = ReduceSumSquare <keepdims = 0> (part, axes)
        }"""
    )
    (y,) = graph.outputs.values()
    slope = gi.grad(gi.sum(gi.Expr(y)), [gi.Expr(graph.inputs["x"])])[0]
    found = gi.evaluate(gi.Graph({"slope": slope}), {"x": X.astype(np.float64)})["slope"]
    np.testing.assert_array_equal(found, np.concatenate([0 * X[:, :2], 2 * X[:, 2:]], 1))


def test_optional_values() -> None:
    agree(
        """g (float[n,6] x) => (float[n,6] y, bool there) {
            o = Optional (x)
            y = OptionalGetElement (o)
            there = OptionalHasElement (o)
        }""",
        {"x": X},
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = SequenceConstruct (x, x)", "output 'y' has the type sequence"),
        ("s = SequenceConstruct (x, x)\n y = Add (s, x)", "input 0 is a sequence, not a tensor"),
        ("y = ConcatFromSequence <axis = 0> (x)", "input 0 is not a sequence"),
        ("s = SequenceEmpty ()\n y = ConcatFromSequence <axis = 0> (s)", "an empty sequence"),
        (
            "s = SequenceConstruct (x)\n k = Constant <value_int = 1> ()\n y = SequenceAt (s, k)",
            "position 1 .* between",
        ),
        ("s = SequenceConstruct (x)\n k = Size (x)\n y = SequenceAt (s, k)", "depends on the value of a named size"),
    ],
)
def test_misuse_says_what_is_wrong(body: str, reason: str) -> None:
    with pytest.raises(gi.GraphError, match=reason):
        read(f"g (float[n,6] x) => (float[n,6] y) {{ {body} }}")
