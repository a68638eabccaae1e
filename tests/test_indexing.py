"""x[...] with slices and integer arrays, against numpy on values and against JAX on derivatives."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import graphir as gi
from graphir.node import REGISTRY

jax.config.update("jax_enable_x64", True)

SHAPE = (3, 4, 2, 3)
X = np.random.default_rng(3).normal(size=SHAPE)
_INDEX_SHAPES = st.sampled_from([(), (2,), (1,), (3, 2), (3, 1), (0,)])


@st.composite
def keys(draw: Any) -> tuple[Any, ...]:
    """A key that numpy accepts for SHAPE: slices, ints, integer arrays of broadcastable shapes, None and ..."""
    result: list[Any] = []
    for size in SHAPE[: draw(st.integers(0, 4))]:
        kind = draw(st.sampled_from(["int", "slice", "array", "array"]))
        if kind == "int":
            result.append(draw(st.integers(-size, size - 1)))
        elif kind == "slice":
            result.append(draw(st.slices(size)))
        else:
            elements = st.integers(-size, size - 1)
            dtype = draw(st.sampled_from(["int64", "int32", "int8"]))
            shape = draw(_INDEX_SHAPES)
            result.append(np.array(draw(st.lists(elements, min_size=int(np.prod(shape)), max_size=6)))[: int(np.prod(shape))].reshape(shape).astype(dtype))  # fmt: skip
    for _ in range(draw(st.integers(0, 2))):
        result.insert(draw(st.integers(0, len(result))), None)
    return tuple(result)


def _reference(key: Any) -> Any:
    try:
        return X[key]
    except IndexError:  # index arrays that do not broadcast
        return None


def _value(expr: gi.Expr, **feeds: Any) -> Any:
    return gi.evaluate(gi.Graph({"out": expr}), feeds)["out"]


@settings(max_examples=400)
@given(keys())
def test_constant_keys_equal_numpy(key: tuple[Any, ...]) -> None:
    expected = _reference(key)
    x = gi.input("x", SHAPE)
    if expected is None:
        with pytest.raises(gi.ShapeError, match="broadcast"):
            x[key]
        return
    found = x[key]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(_value(found, x=X), expected)


@settings(max_examples=150)
@given(keys())
def test_keys_that_are_expressions_equal_numpy(key: tuple[Any, ...]) -> None:
    expected = _reference(key)
    if expected is None:
        return
    feeds = {f"k{n}": k for n, k in enumerate(key) if isinstance(k, np.ndarray)}
    inputs = {name: gi.input(name, k.shape, k.dtype) for name, k in feeds.items()}
    x = gi.input("x", SHAPE)
    found = x[tuple(inputs.get(f"k{n}", k) for n, k in enumerate(key))]
    graph = gi.Graph({"out": found}, inputs=[x, *inputs.values()])
    np.testing.assert_array_equal(gi.evaluate(graph, {"x": X, **feeds})["out"], expected)


@settings(max_examples=60)
@given(hnp.basic_indices(SHAPE, max_dims=6, allow_newaxis=True, allow_ellipsis=True))
def test_basic_keys_equal_numpy(key: Any) -> None:
    np.testing.assert_array_equal(_value(gi.input("x", SHAPE)[key], x=X), X[key])


ROWS, COLUMNS = np.array([[0], [2]]), np.array([1, -1, 1])
KEYS = (
    ROWS, (slice(None), COLUMNS), (ROWS, COLUMNS), (ROWS, slice(1, None), 0, ROWS), (..., COLUMNS, [0, 0, -1]), [2, 0, 2],
    (slice(None), [1], None, [0, 1]), (0, slice(None), COLUMNS % 2), (slice(None, None, -2), slice(3, 0, -1), ROWS % 2), [],
    (np.int64(1), np.array(2)), (ROWS, None, COLUMNS), (COLUMNS, ..., COLUMNS), (None, ROWS, COLUMNS, ...),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(KEYS)))
def test_gradients_equal_jax(number: int) -> None:
    key = KEYS[number]
    jax_key = np.asarray(key, np.int64) if isinstance(key, list) else key
    jax_key = tuple(np.asarray(k) if isinstance(k, list) else k for k in jax_key) if isinstance(key, tuple) else jax_key
    x = gi.input("x", SHAPE)
    np.testing.assert_array_equal(_value(x[key], x=X), X[key])
    (slope,) = gi.grad(gi.sum(x[key] ** 3), [x])
    (second,) = gi.grad(gi.sum(slope**2), [x])
    found = gi.evaluate(gi.Graph({"slope": slope, "second": second}), {"x": X})
    expected = jax.grad(lambda v: (v[jax_key] ** 3).sum())
    np.testing.assert_allclose(found["slope"], expected(X), rtol=1e-12)
    np.testing.assert_allclose(found["second"], jax.grad(lambda v: (expected(v) ** 2).sum())(X), rtol=1e-12)


def test_named_sizes() -> None:
    x, i = gi.input("x", ("n", 4)), gi.input("i", ("m",), "int32")
    rows = gi.evaluate(
        gi.Graph({"y": x[i], "z": x[-2:, i - 2], "w": x[i, i - 2]}), {"x": X[:, :, 0, 0], "i": [2, -1, 0]}
    )
    np.testing.assert_array_equal(rows["y"], X[[2, -1, 0], :, 0, 0])
    np.testing.assert_array_equal(rows["z"], X[-2:, :, 0, 0][:, [0, -3, -2]])
    np.testing.assert_array_equal(rows["w"], X[[2, -1, 0], [0, -3, -2], 0, 0])


def test_picking_is_cut_along_the_positions() -> None:
    """What is picked by each row's own positions is cut by rows, so that a loss of it maps over chunks."""
    from graphir.partition.data import partition

    x, t, k = gi.input("x", (7, 4)), gi.input("t", ("n",), "int64"), gi.input("k", ("n",), "int64")
    (slope,) = gi.grad(gi.sum(x[t, k] ** 2), [x])
    plan = partition(gi.Graph({"slope": slope}), {"n": 32}, "n")
    assert [step.kind for step in plan.steps][:2] == ["map", "combine"]
    assert not [note for note in plan.notes if "gathered" in note]


MISTAKES: tuple[tuple[type[gi.GraphError], Any, str], ...] = (
    (gi.DTypeError, X > 0, r"gi\.where\(mask"), (gi.DTypeError, lambda x: x > 0, r"gi\.where\(mask"),
    (gi.DTypeError, True, r"gi\.where\(mask"), (gi.DTypeError, (slice(None), [True, False, True, True]), r"gi\.where\(mask"),
    (gi.DTypeError, np.array(True), r"gi\.where\(mask"), (gi.DTypeError, [0.5], "indices are integers"),
    (gi.DTypeError, ["a"], "not an array of numbers"), (gi.DTypeError, [[1], [2, 3]], "not an array"),
    (gi.AttributeValueError, 1.5, "arrays of integers"), (gi.AttributeValueError, "n", "arrays of integers"),
    (gi.AttributeValueError, (..., ...), r"at most one \.\.\."), (gi.ShapeError, (0,) * 5, "too many indices"),
    (gi.ShapeError, [3], "index 3 is out of range for axis 0"), (gi.ShapeError, (slice(None), [0, -5]), "index -5 is out of range"),
    (gi.ShapeError, ([0, 1], -1, 2), "index 2 is out of range"), (gi.ShapeError, ([0, 1], [0, 1, 2]), "broadcast"),
    (gi.AttributeValueError, slice(None, None, 0), "step cannot be 0"),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_say_what_to_do_and_where(number: int) -> None:
    error, key, text = MISTAKES[number]
    x = gi.input("x", SHAPE)
    made = key(x) if callable(key) else key
    with pytest.raises(error, match=rf"{text}(?s:.*)\n  at (?s:.*)test_indexing\.py:\d+"):
        x[made]


def test_positions_out_of_range_at_evaluation() -> None:
    x, i, j = gi.input("x", SHAPE), gi.input("i", (2,), "int64"), gi.input("j", (2,), "int64")
    graph = gi.Graph({"one": x[i], "two": x[i, j]})
    with pytest.raises(gi.ShapeError, match="index 3 is out of range for an axis of size 3"):
        gi.evaluate(graph, {"x": X, "i": [0, 3], "j": [0, 0]})
    with pytest.raises(gi.ShapeError, match="index -5 is out of range for an axis of size 4"):
        gi.evaluate(graph, {"x": X, "i": [0, 2], "j": [0, -5]})


def test_a_slice_backwards_of_a_named_size() -> None:
    x = gi.input("x", ("n",))
    np.testing.assert_array_equal(_value(x[::-2], x=np.arange(6.0)), np.arange(6.0)[::-2])
    with pytest.raises(gi.AttributeValueError, match=r"slice first, then \[::-1\]"):
        x[3::-1]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_long_slices_are_added_in_the_order_of_their_positions(axis: int) -> None:
    """To the bit as np.add.at, which adds one position after the other, duplicates too."""
    rng = np.random.default_rng(axis)
    indices = rng.integers(-4, 4, (3, 5))
    shape = [9, 10, 11]
    shape[axis : axis + 1] = indices.shape
    updates = rng.standard_normal(shape)
    expected = np.zeros([4 if k == axis else n for k, n in enumerate((9, 10, 11))])
    np.add.at(expected, (*(slice(None),) * axis, indices), updates)
    found = REGISTRY["scatter_add"].kernel(updates, indices, axis=axis, size=4)
    np.testing.assert_array_equal(found, expected)
