"""Every op, every example: inference, derivatives to the second order, and every legal cut, from the registry alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graphir import (
    control,  # noqa: F401  # declares its ops
    dims,
)
from graphir.axes import AxisRule
from graphir.example import Example
from graphir.graph import Graph
from graphir.interpret import bound_attributes, evaluate
from graphir.node import REGISTRY, Node, Op, make
from graphir.ops.arithmetic import multiply
from graphir.ops.layout import reduce_sum
from graphir.ops.sources import input_, literal
from graphir.partition.data import JOIN
from graphir.reverse import backward, carries

CASES = [
    pytest.param(op, example, id=f"{op.name}-{k}")
    for op in REGISTRY.values()
    if op.name != "input"
    for k, example in enumerate(op.examples)
]
STEP = 1e-5


def leaves(example: Example) -> tuple[Node, ...]:
    return tuple(input_(name=f"arg{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs))


def apply(op: Op, example: Example) -> Node:
    return op(*leaves(example), **example.attrs)


def feeds(example: Example) -> dict[str, np.ndarray]:
    return {f"arg{k}": array for k, array in enumerate(example.arrays())}


@pytest.mark.parametrize("op", list(REGISTRY.values()), ids=lambda op: op.name)
def test_declarations_are_complete(op: Op) -> None:
    assert len(op.doc) > 1
    assert op.examples
    assert op.vjp
    assert callable(op.axes) or len(op.axes) > 10
    if isinstance(op.vjp, tuple):
        assert op.arity == len(op.vjp)


@pytest.mark.parametrize(("op", "example"), CASES)
def test_kernel_agrees_with_inference(op: Op, example: Example) -> None:
    node = apply(op, example)
    value = evaluate(Graph({"out": node}, inputs=leaves(example)), feeds(example))["out"]
    assert value.dtype == node.type.dtype
    assert value.shape == node.type.shape


def scalar_of(node: Node, seed: int) -> Node:
    """A fixed random weighting of a value, so that every element matters."""
    weights = np.random.default_rng(seed).uniform(0.5, 1.5, node.type.shape)
    weighted = multiply(node, literal(weights, node.type.dtype))
    return reduce_sum(weighted, axes=tuple(range(node.type.rank))) if node.type.shape else weighted


def derivative_cases() -> Iterator[Any]:
    for op in REGISTRY.values():
        for k, example in enumerate(op.examples):
            if op.name == "input" or isinstance(op.vjp, str):
                continue
            for position, sample in enumerate(example.inputs):
                if sample.dtype == "float64" and carries(apply(op, example), position):
                    yield pytest.param(op, example, position, id=f"{op.name}-{k}-{position}")


def numeric(graph: Graph, values: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Central differences of a scalar output."""
    point = values[name]
    result = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        sides = []
        for step in (STEP, -STEP):
            moved = point.copy()
            moved[index] += step
            sides.append(float(evaluate(graph, {**values, name: moved})["out"]))
        result[index] = (sides[0] - sides[1]) / (2 * STEP)
    return result


@pytest.mark.parametrize(("op", "example", "position"), list(derivative_cases()))
def test_derivatives_agree_with_central_differences(op: Op, example: Example, position: int) -> None:
    inputs, values = leaves(example), feeds(example)
    if apply(op, example).type.dtype != np.float64:
        return  # a cast to float32: differences of float32 say nothing at this step
    target, name = inputs[position], f"arg{position}"
    value = scalar_of(apply(op, example), 1)
    for order in (1, 2):
        graph = Graph({"out": value}, inputs=inputs)
        (cotangent,) = backward([value], [literal(1.0)], [target])
        expected = numeric(graph, values, name)
        if cotangent is None:
            np.testing.assert_allclose(expected, 0.0, atol=1e-8)
            return
        assert cotangent.type is target.type
        found = evaluate(Graph({"out": cotangent}, inputs=inputs), values)["out"]
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6, err_msg=f"order {order}")
        value = scalar_of(cotangent, 2)


# ---- cuts ----


def cut_cases() -> Iterator[Any]:
    for op in REGISTRY.values():
        for k, example in enumerate(op.examples):
            if op.name == "input":
                continue
            node = apply(op, example)
            rule = op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
            for factor in () if rule is None else rule.factors:
                if rule is not None and rule.can_cut(factor):
                    yield pytest.param(node, rule, factor, example, id=f"{op.name}-{k}-{factor}")


def axis_sizes(node: Node, rule: AxisRule, factor: str) -> list[int]:
    found = [n.type.shape[rule.inputs[k].index(factor)] for k, n in enumerate(node.inputs) if factor in rule.inputs[k]]
    if factor in rule.output:
        found.append(node.type.shape[rule.output.index(factor)])
    return [int(size) for size in found]


def piece(
    node: Node, rule: AxisRule, factor: str, arrays: tuple[np.ndarray, ...], start: int, stop: int, of: int
) -> Any:
    """The kernel on the slice start:stop of `of` units of the factor."""
    sliced = []
    for k, array in enumerate(arrays):
        axis = rule.axis_in(factor, k)
        if axis is not None:
            unit = array.shape[axis] // of
            array = array[(slice(None),) * axis + (slice(start * unit, stop * unit),)]
        sliced.append(array)
    inputs = tuple(input_(name=f"p{k}", dtype=a.dtype.name, shape=a.shape) for k, a in enumerate(sliced))
    attrs = dict(node.attrs)
    axis = rule.axis_out(factor)
    if axis is not None and "shape" in attrs:
        unit = int(attrs["shape"][axis]) // of
        attrs["shape"] = tuple((stop - start) * unit if k == axis else d for k, d in enumerate(attrs["shape"]))
    local = make(
        node.op, inputs, tuple(sorted(attrs.items())) if node.op.local is None else node.op.local(node, inputs)
    )
    bound = bound_attributes(local, {})
    if node.op.offset:
        units = [int(d) // of for d in node.type.shape]
        bound["offset"] = tuple(start * unit if k == axis else 0 for k, unit in enumerate(units))
    return np.asarray(node.op.kernel(*sliced, **bound))


@pytest.mark.parametrize(("node", "rule", "factor", "example"), list(cut_cases()))
def test_every_legal_cut_combined_equals_the_whole(node: Node, rule: AxisRule, factor: str, example: Example) -> None:
    arrays = example.arrays()
    whole = np.asarray(node.op.kernel(*arrays, **bound_attributes(node, {})))
    of = min(axis_sizes(node, rule, factor))
    for point in range(1, of):
        parts = [piece(node, rule, factor, arrays, a, b, of) for a, b in ((0, point), (point, of))]
        axis = rule.axis_out(factor)
        joined = np.concatenate(parts, axis) if axis is not None else JOIN[str(rule.combine)].kernel(*parts)
        assert joined.shape == whole.shape
        np.testing.assert_allclose(joined, whole, rtol=1e-6 if whole.dtype == np.float32 else 1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "int8", "int64", "uint16", "bool", "float32"])
@pytest.mark.parametrize(
    "op",
    [
        op
        for op in REGISTRY.values()
        if op.arity in (1, 2) and not op.attrs and not any(s.diagonal for e in op.examples for s in e.inputs)
    ],
    ids=lambda op: op.name,
)
def test_elementwise_ops_give_the_type_they_infer_or_refuse(op: Op, dtype: str) -> None:
    from graphir.errors import GraphError

    values = [np.array([[1, 2], [3, 1]], dtype), np.array([[1, 1], [2, 1]], dtype)][: op.arity]
    inputs = [input_(name=f"e{k}", dtype=dtype, shape=(2, 2)) for k in range(len(values))]
    try:
        node = op(*inputs)
    except GraphError as error:
        assert "dtype" in str(error)
        return
    out = evaluate(Graph({"out": node}, inputs=inputs), {f"e{k}": v for k, v in enumerate(values)})["out"]
    assert out.dtype == node.type.dtype
    np.testing.assert_array_equal(out, np.asarray(op.kernel(*values), node.type.dtype))


def test_dims_of_the_examples_are_numbers() -> None:
    assert all(isinstance(d, int) for op in REGISTRY.values() for e in op.examples for s in e.inputs for d in s.shape)
    assert dims.evaluate("2*n + 1", {"n": 3}) == 7
