"""The expression face against numpy: functions, promotion, indexing, and errors with the user's line."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi

A = np.array([[0.3, -0.8, 0.5], [0.9, 0.1, -0.2]])
B = np.array([0.7, -0.4, 0.6])
I = np.array([[5, -3, 2], [7, 1, 4]])  # noqa: E741  # the integer counterpart of A
J = np.array([2, 3, 1])


def _check(function: Callable[..., Any], *arrays: Any, tolerance: float = 1e-14) -> None:
    """`function` of inputs, evaluated, equals `function` of the arrays: dtype, shape and values."""
    inputs = [gi.input(f"a{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
    graph = gi.Graph({"out": function(*inputs)}, inputs=inputs)
    found = gi.evaluate(graph, {f"a{k}": a for k, a in enumerate(arrays)})["out"]
    expected = np.asarray(function(*arrays))
    assert found.dtype == expected.dtype == graph.outputs["out"].type.dtype
    assert found.shape == expected.shape == graph.outputs["out"].type.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


UNARY = [
    "exp",
    "expm1",
    "sin",
    "cos",
    "tan",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "arcsinh",
    "arctanh",
    "negative",
    "positive",
    "square",
    "sign",
    "absolute",
    "floor",
    "ceil",
    "trunc",
    "isnan",
    "isinf",
    "isfinite",
    "signbit",
    "rint",
    "reciprocal",
    "logical_not",
    "fabs",
]
BINARY = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "maximum",
    "minimum",
    "floor_divide",
    "remainder",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "equal",
    "not_equal",
    "copysign",
    "nextafter",
    "arctan2",
    "hypot",
    "logaddexp",
    "logical_and",
    "logical_or",
    "logical_xor",
]


@pytest.mark.parametrize("name", UNARY)
def test_unary_functions_equal_numpy(name: str) -> None:
    _check(getattr(np, name), A)


@pytest.mark.parametrize("name", ["log", "log2", "log10", "log1p", "sqrt"])
def test_functions_of_positive_numbers_equal_numpy(name: str) -> None:
    _check(getattr(np, name), np.abs(A))


def test_arccosh_equals_numpy() -> None:
    _check(np.arccosh, 1 + np.abs(A))


@pytest.mark.parametrize("name", BINARY)
def test_binary_functions_equal_numpy(name: str) -> None:
    _check(getattr(np, name), A, B)
    _check(lambda x: getattr(np, name)(x, 0.5), A)
    _check(lambda x: getattr(np, name)(0.5, x), A)


@pytest.mark.parametrize(
    "name",
    [
        "add",
        "subtract",
        "multiply",
        "floor_divide",
        "remainder",
        "divide",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "less",
    ],
)
def test_integer_functions_equal_numpy(name: str) -> None:
    _check(getattr(np, name), I, J)


def test_shifts_powers_and_inversion_equal_numpy() -> None:
    for function in (np.left_shift, np.right_shift, np.power):
        _check(function, I, J)
    _check(np.invert, I)
    _check(lambda x: ~x, A > 0)
    _check(lambda x, y: np.power(np.abs(x), y), A, B)


OPERATORS: tuple[Callable[..., Any], ...] = (
    lambda a, b: a + b * 2 - 3 / (b + 2), lambda a, b: -a // b, lambda a, b: 1.5 - a % b, lambda a, b: abs(a) ** b,
    lambda a, b: 2**a + a**2, lambda a, b: (a < b) | (a >= 0.5) ^ (b != 0.6), lambda a, b: (a == b) & (a <= 1) & (a > b),
    lambda a, b: 7 // (b + 3) + 5 % (b + 3), lambda a, b: a @ b, lambda a, b: a.T, lambda a, b: +a,
    lambda a, b: B @ a.T + b.sum(), lambda a, b: (a + b).reshape(3, 2).mean(0), lambda a, b: a.max(1) - a.min(),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(OPERATORS)))
def test_operators_and_methods_equal_numpy(number: int) -> None:
    _check(OPERATORS[number], A, B)


@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "std", "all", "any"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_equal_numpy(name: str, axis: Any, keepdims: bool) -> None:
    _check(lambda x: getattr(np, name)(x, axis=axis, keepdims=keepdims), A)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool"])
def test_sums_of_small_integers_accumulate_in_64_bits(dtype: str) -> None:
    _check(np.sum, np.full(300, 1).astype(dtype))
    _check(np.prod, I.astype(dtype))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_positions_equal_numpy(axis: Any) -> None:
    _check(lambda x: np.argmax(x, axis=axis), A)
    _check(lambda x: np.argmin(x, axis=axis), A)


MANIPULATION: tuple[Callable[[Any], Any], ...] = (
    lambda a: np.reshape(a, (3, -1)), lambda a: np.transpose(a), lambda a: np.transpose(a, (1, 0)),
    lambda a: np.expand_dims(a, 1), lambda a: np.squeeze(np.expand_dims(a, 0), 0), lambda a: np.flip(a),
    lambda a: np.flip(a, 1), lambda a: np.concatenate([a, a * 2], axis=1), lambda a: np.stack([a, a + 1], axis=-1),
    lambda a: np.moveaxis(a, 0, 1), lambda a: np.broadcast_to(a, (4, 2, 3)), lambda a: np.where(a > 0, a, 0.0),
    lambda a: np.clip(a, -0.1, 0.4), lambda a: np.take(a, np.array([2, 0]), axis=1),
    lambda a: np.take_along_axis(a, np.array([[0], [2]]), axis=1), lambda a: np.einsum("ij,kj->ik", a, a),
    lambda a: np.matmul(a, np.transpose(a)), lambda a: np.zeros_like(a) + np.ones_like(a) + np.full_like(a, 3),
    lambda a: np.concatenate([a, a], axis=None), lambda a: np.add.reduce(a), lambda a: a.astype("float32"),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(MANIPULATION)))
def test_manipulation_equals_numpy(number: int) -> None:
    _check(MANIPULATION[number], A)


KEYS = (
    0, -1, (0, 2), (slice(None), 1), slice(1, None), (slice(None), slice(None, None, 2)), (..., -2), None,
    (None, 0, ..., None), (slice(None), slice(None, None, -1)), (slice(0, 1), slice(1, 3)), ..., (slice(5, 9), 0),
    (slice(-1, None), slice(-2, -1)), (1, None, slice(2)),
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_equals_numpy(key: Any) -> None:
    _check(lambda x: x[key], A)


def test_picking_from_an_axis_of_one_adds_no_slice() -> None:
    column = gi.input("c", (4, 1))
    assert column[:, 0].node.op.name == "reshape"
    assert column[:, 0].node.inputs == (column.node,)
    with pytest.raises(gi.ShapeError, match="out of range"):
        column[:, 1]


DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]


@pytest.mark.parametrize("left", DTYPES)
def test_promotion_table_equals_numpy(left: str) -> None:
    for right in DTYPES:
        found = (gi.input("l", (2,), left) * 1 if left != "bool" else gi.input("l", (2,), left)) == 0
        assert found.dtype == np.dtype(bool)
        a, b = gi.input("l", (2,), left), gi.input("r", (2,), right)
        expected = np.promote_types(left, right)
        assert gi.where(gi.constant(True), a, b).dtype == expected
        if left != "bool" or right != "bool":
            assert (a + b).dtype == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_python_scalars_are_weak(dtype: str) -> None:
    a, array = gi.input("a", (2,), dtype), np.ones(2, dtype)
    assert (a + 1).dtype == (1 + a).dtype == (array + 1).dtype
    # numpy would choose float16 or float32 for small integers beside a float; here kinds change to float64
    floats = array.dtype if array.dtype.kind == "f" else np.dtype("float64")
    assert (a + 1.5).dtype == (1.5 - a).dtype == (a / 2).dtype == floats


def test_python_integers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(gi.DTypeError, match="300"):
        gi.input("a", (2,), "int8") + 300


MISTAKES: tuple[tuple[type[gi.GraphError], Callable[[gi.Expr], Any]], ...] = (
    (gi.ShapeError, lambda x: x + gi.input("y", (4,))), (gi.ShapeError, lambda x: gi.sum(x, axis=7)),
    (gi.ShapeError, lambda x: x @ gi.input("y", (4,))), (gi.ShapeError, lambda x: gi.reshape(x, (5,))),
    (gi.ShapeError, lambda x: x[9]), (gi.DTypeError, lambda x: x + "text"), (gi.DTypeError, lambda x: ~x),
    (gi.DTypeError, bool), (gi.DTypeError, float), (gi.DTypeError, np.asarray),
    (gi.GraphError, lambda x: np.linalg.inv(x)), (gi.ShapeError, lambda x: gi.squeeze(x, 0)),
    (gi.AttributeValueError, lambda x: x["n"]), (gi.GraphError, lambda x: np.add.accumulate(x)),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_name_the_users_file(number: int) -> None:
    error, mistake = MISTAKES[number]
    with pytest.raises(error, match=rf"\n  at (?s:.*){Path(__file__).name}:\d+"):
        mistake(gi.input("x", (2, 3)))


def test_errors_name_the_right_line() -> None:
    x, y = gi.input("x", (2, 3)), gi.input("y", (4,))
    with pytest.raises(gi.ShapeError) as caught:
        x + y
    frame = inspect.currentframe()
    assert frame is not None
    assert f"{__file__}:{frame.f_lineno - 3}" in str(caught.value)
    z = gi.sin(x)
    assert z.node.origin.where == f"{__file__}:{frame.f_lineno - 1}"
    assert f"{__file__}:{frame.f_lineno - 2}" in repr(z)


def test_length_and_iteration() -> None:
    x = gi.input("x", (2, 3))
    assert len(x) == len(list(x)) == 2
    for without in (gi.input("s"), gi.input("b", ("n",))):
        with pytest.raises(gi.ShapeError, match="not a number"):
            len(without)


def test_expressions_are_not_hashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(gi.input("x"))


def test_a_product_that_does_not_fit_names_the_types_as_they_were_written() -> None:
    with pytest.raises(gi.ShapeError, match=r"float64\[2, 3\] and float64\[4\]: the left has 3 columns"):
        gi.input("x", (2, 3)) @ gi.input("y", (4,))
