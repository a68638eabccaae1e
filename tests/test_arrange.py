"""The functions that arrange, accumulate and order, against numpy on values and against JAX on derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import opt_einsum
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import graphir as gi
from graphir.cost import operations
from graphir.node import REGISTRY

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy

RNG = np.random.default_rng(7)
V, A, T = RNG.normal(size=5), RNG.normal(size=(3, 4)), RNG.normal(size=(2, 3, 4))
I = np.array([[3, 0, 2, 3], [1, 1, 0, 2], [2, 3, 3, 0]])  # noqa: E741  # integers of the shape of A
E = np.zeros((0, 4))


def _run(function: Callable[..., Any], *arrays: Any) -> Any:
    """`function` of inputs like the arrays, evaluated on them."""
    inputs = [gi.input(f"a{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
    graph = gi.Graph({"out": function(*inputs)}, inputs=inputs)
    found = gi.evaluate(graph, {f"a{k}": a for k, a in enumerate(arrays)})["out"]
    assert found.dtype == graph.outputs["out"].type.dtype
    assert found.shape == graph.outputs["out"].type.shape
    return found


def _check(function: Callable[..., Any], *arrays: Any) -> None:
    """The same function, by numpy's dispatch, of inputs and of the arrays."""
    found, expected = _run(function, *arrays), np.asarray(function(*arrays))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


MANY = (
    lambda x: np.roll(x, 1), lambda x: np.roll(x, -7), lambda x: np.roll(x, (1, 2)), lambda x: np.roll(x, 3, -1),
    lambda x: np.roll(x, 3, (0, -1)), lambda x: np.roll(x, (1, 5, -2), (0, 1, 0)), lambda x: np.roll(x, 0, 0),
    lambda x: np.tile(x, 3), lambda x: np.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 0)), lambda x: np.tile(x, ()),
    lambda x: np.repeat(x, 3), lambda x: np.repeat(x, 2, axis=-1), lambda x: np.repeat(x, 0, axis=0),
    lambda x: np.repeat(x, [2, 0, 1, 3], axis=-1), lambda x: np.repeat(x, [2], axis=0),
    lambda x: np.diff(x), lambda x: np.diff(x, 2), lambda x: np.diff(x, axis=0), lambda x: np.diff(x, n=5),
    lambda x: np.diff(x, n=0), lambda x: np.diff(x, prepend=0.0), lambda x: np.diff(x, append=x, prepend=x),
    lambda x: np.pad(x, 2), lambda x: np.pad(x, (1, 3)), lambda x: np.pad(x, ((0, 2), (1, 0))),
    lambda x: np.pad(x, 0), lambda x: np.pad(x, ((1,), (2,)), constant_values=2),
    lambda x: np.pad(x, 1, constant_values=((1, 2), (3, 4))), lambda x: np.pad(x, 0, mode="wrap"),
    lambda x: np.tril(x), lambda x: np.tril(x, 1), lambda x: np.triu(x, -1), lambda x: np.triu(x, 9),
    lambda x: np.count_nonzero(x), lambda x: np.count_nonzero(x, axis=0, keepdims=True),
    lambda x: np.count_nonzero(x, axis=(0, -1)), lambda x: np.cumsum(x), lambda x: np.cumsum(x, 0),
    lambda x: np.cumsum(x, axis=-1), lambda x: np.cumprod(x), lambda x: np.cumprod(x, axis=1),
    lambda x: np.cumulative_sum(x, axis=0), lambda x: np.cumulative_sum(x, axis=-1, include_initial=True),
    lambda x: np.cumulative_prod(x, axis=0, include_initial=True), lambda x: np.cumulative_prod(x, axis=-1),
    lambda x: np.sort(x), lambda x: np.sort(x, 0), lambda x: np.sort(x, axis=None),
    lambda x: np.argsort(x, kind="stable"), lambda x: np.conj(x) + np.real(x) + np.imag(x), lambda x: np.argsort(x, axis=0, stable=True),
    lambda x: np.argsort(x, axis=None, stable=True), lambda x: np.empty_like(x) * 0, lambda x: np.isclose(x, 2.0),
    lambda x: np.isclose(x, x + 1e-7), lambda x: np.allclose(x, x), lambda x: np.outer(x, x),
    lambda x: np.tensordot(x, x, axes=0), lambda x: np.tensordot(x, x, 2), lambda x: np.matrix_transpose(x),
    lambda x: np.tensordot(x, x, axes=((1,), (-1,))), lambda x: np.tensordot(x, x, axes=([0, 1], [0, 1])),
    lambda x: np.moveaxis(x, (0, 1), (1, 0)), lambda x: np.moveaxis(x, -1, 0), lambda x: np.expand_dims(x, (0, -1)),
    lambda x: np.vecdot(x, x), lambda x: np.stack(np.meshgrid(x[0], x[:, 1], x[0, 0])),
    lambda x: np.stack(np.meshgrid(x[0], x[:, 1], indexing="ij")), lambda x: np.stack(np.unstack(x, axis=1)),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(MANY)))
@pytest.mark.parametrize("values", [A, I, A.astype("float32"), I.astype("uint8")], ids=["f8", "i8", "f4", "u1"])
def test_functions_of_a_matrix_equal_numpy(number: int, values: Any) -> None:
    found, expected = _run(MANY[number], values), np.asarray(MANY[number](values))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=3e-6 if values.dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("number", range(3))
def test_edges_equal_numpy(number: int) -> None:
    values = (E, np.zeros((3, 0)), np.ones((1, 1)))[number]
    for function in (
        lambda x: np.roll(x, 2), lambda x: np.roll(x, 2, 0), lambda x: np.cumulative_sum(x, axis=0),
        lambda x: np.cumulative_prod(x, axis=1, include_initial=True), lambda x: np.sort(x, 0), np.sort,
        lambda x: np.argsort(x, 0), lambda x: np.diff(x, axis=0), lambda x: np.pad(x, 1), np.tril, np.count_nonzero,
        lambda x: np.tile(x, (2, 2)), lambda x: np.repeat(x, 2), lambda x: np.outer(x, x), np.cumsum,
    ):  # fmt: skip
        _check(function, values)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap"])
def test_pad_modes_equal_numpy(mode: str) -> None:
    _check(lambda x: np.pad(x, ((5, 1), (0, 9)), mode), A)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "float16"])
def test_bool_and_small_numbers_equal_numpy(dtype: str) -> None:
    values = (I % 2).astype(dtype)
    for function in (np.diff, np.sort, np.tril, np.cumsum, np.cumprod, np.count_nonzero, lambda x: np.pad(x, 1)):
        _check(function, values)
    _check(lambda x: np.cumulative_sum(x, axis=0, dtype="float64"), values)
    _check(lambda x: np.argsort(x, axis=0, stable=True), values)


@pytest.mark.parametrize("number", range(6))
def test_named_sizes(number: int) -> None:
    function = (
        lambda x: gi.roll(x, 7, 0), lambda x: gi.tile(x, (2, 1)), lambda x: gi.repeat(x, 3, axis=0),
        lambda x: gi.diff(x, axis=0), lambda x: gi.pad(x, 2, constant_values=1), lambda x: gi.tril(x, -1),
    )[number]  # fmt: skip
    expected = (
        np.roll(A, 7, 0), np.tile(A, (2, 1)), np.repeat(A, 3, axis=0), np.diff(A, axis=0),
        np.pad(A, 2, constant_values=1), np.tril(A, -1),
    )[number]  # fmt: skip
    x = gi.input("x", ("n", 4))
    np.testing.assert_array_equal(gi.evaluate(gi.Graph({"y": function(x)}), {"x": A})["y"], expected)


def test_repetition_by_a_name() -> None:
    x, y = gi.input("x", (2,)), gi.input("y", ("n",))
    graph = gi.Graph({"t": gi.tile(x, "n"), "r": gi.repeat(x, "n"), "o": gi.one_hot([1, 9], "n"), "y": y})
    found = gi.evaluate(graph, {"x": V[:2], "y": V})
    np.testing.assert_array_equal(found["t"], np.tile(V[:2], 5))
    np.testing.assert_array_equal(found["r"], np.repeat(V[:2], 5))
    np.testing.assert_array_equal(found["o"], jax.nn.one_hot(np.array([1, 9]), 5))


@pytest.mark.parametrize("axis", [0, 1, -1, 2])
def test_one_hot_equals_jax(axis: int) -> None:
    x = np.array([[0, 2, -1], [4, 3, 1]])
    found = _run(lambda i: gi.one_hot(i, 4, axis=axis, dtype="float32"), x)
    np.testing.assert_array_equal(found, jax.nn.one_hot(x, 4, axis=axis, dtype="float32"))


# ---- order ----

_FLOATS = st.sampled_from([0.0, -0.0, 1.0, -1.5, np.nan, np.inf, -np.inf, 2.0])
_VECTORS = hnp.arrays(np.float64, st.integers(0, 9), elements=_FLOATS)


@settings(max_examples=60)
@given(_VECTORS, st.booleans())
def test_sorting_equals_jax_and_is_stable(x: Any, descending: bool) -> None:
    values = _run(lambda v: gi.sort(v, descending=descending), x)
    positions = _run(lambda v: gi.argsort(v, descending=descending), x)
    np.testing.assert_array_equal(values, x[positions])
    if descending:
        keys = [(0 if np.isnan(v) else 1, 0.0 if np.isnan(v) else -v, k) for k, v in enumerate(x)]
        np.testing.assert_array_equal(positions, sorted(range(len(x)), key=keys.__getitem__))
    else:
        np.testing.assert_array_equal(positions, np.argsort(x, stable=True))
        np.testing.assert_array_equal(values, np.sort(x))


@settings(max_examples=60)
@given(_VECTORS, st.data())
def test_top_k_is_the_head_of_the_sorted(x: Any, data: Any) -> None:
    k = data.draw(st.integers(0, len(x)))
    for largest in (True, False):
        values = _run(lambda v, top=largest: gi.top_k(v, k, largest=top)[0], x)
        positions = _run(lambda v, top=largest: gi.top_k(v, k, largest=top)[1], x)
        assert positions.dtype == np.int64
        np.testing.assert_array_equal(values, x[positions])
        expected = np.flip(np.sort(x))[:k] if largest else np.sort(x)[:k]
        np.testing.assert_array_equal(values, expected)


def test_top_k_equals_jax() -> None:
    values, positions = jax.lax.top_k(I, 3)
    np.testing.assert_array_equal(_run(lambda x: gi.top_k(x, 3)[0], I), values)
    np.testing.assert_array_equal(_run(lambda x: gi.top_k(x, 3)[1], I), positions)


@settings(max_examples=60)
@given(_VECTORS, hnp.arrays(np.float64, (2, 3), elements=_FLOATS), st.sampled_from(["left", "right"]))
def test_searchsorted_equals_numpy(x: Any, v: Any, side: str) -> None:
    expected = np.searchsorted(np.sort(x), v, side)
    np.testing.assert_array_equal(_run(lambda a, b: np.searchsorted(a, b, side), np.sort(x), v), expected)
    found = _run(lambda a, b: gi.searchsorted(a, b, side=side, sorter=gi.argsort(a)), x, v)
    np.testing.assert_array_equal(found, expected)


def test_examples_of_searchsorted_are_in_order() -> None:
    for example in REGISTRY["searchsorted"].examples:
        assert (np.diff(example.arrays()[0]) >= 0).all()


@pytest.mark.parametrize("equal_nan", [False, True])
def test_isclose_equals_numpy_on_special_values(equal_nan: bool) -> None:
    special = np.array([0.0, np.nan, np.inf, -np.inf, 1.0, 1.0 + 1e-9, 1e9])
    _check(lambda x: np.isclose(x[:, None], x[None, :], equal_nan=equal_nan), special)


# ---- products ----

SUBSCRIPTS = (
    ("ii->i", ((3, 3),)), ("ii->", ((3, 3),)), ("ii", ((3, 3),)), ("iij->ji", ((3, 3, 4),)), ("iji", ((2, 4, 2),)),
    ("iii->i", ((2, 2, 2),)), ("iijj->ij", ((2, 2, 3, 3),)), ("ii,ij->j", ((3, 3), (3, 4))), ("...i->...", ((2, 3, 4),)),
    ("...ij,...jk->...ik", ((5, 2, 3), (3, 4))), ("...ij,...jk", ((5, 1, 2, 3), (6, 3, 4))), ("i...i->...", ((3, 2, 3),)),
    ("...,...", ((2, 1), (1, 3))), ("...->...", ((2, 3),)), ("i...,j...->ij...", ((2, 4), (3, 4))), ("...ii->...i", ((2, 3, 3),)),
    ("i,...->...i", ((2,), ())), ("ab...->...ba", ((2, 3, 4),)), (" i j , j k -> i k ", ((2, 3), (3, 4))), ("i,i,i->", ((3,),) * 3),
    ("ij,jk,kl,l->i", ((2, 3), (3, 4), (4, 5), (5,))), ("bi,ijk,bj,bk->b", ((2, 3), (3, 4, 5), (2, 4), (2, 5))),
    ("ij,ij,kk,k->", ((2, 3), (2, 3), (4, 4), (4,))),
)  # fmt: skip


@pytest.mark.parametrize(("subscripts", "shapes"), SUBSCRIPTS)
def test_einsum_equals_numpy_and_its_gradient_jax(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    arrays = [np.random.default_rng(k).normal(size=shape) for k, shape in enumerate(shapes)]
    expected = np.einsum(subscripts, *arrays)
    found = _run(lambda *xs: np.einsum(subscripts, *xs), *arrays)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
    _check_gradient(lambda lib, *xs: lib.einsum(subscripts, *xs), *arrays)


def test_a_chain_of_products_is_contracted_in_the_cheapest_order() -> None:
    text, shapes = "ij,jk,kl,l->i", ((30, 40), (40, 50), (50, 60), (60,))
    graph = gi.Graph({"out": gi.einsum(text, *[gi.input(f"c{k}", shape) for k, shape in enumerate(shapes)])})
    _, found = opt_einsum.contract_path(text, *shapes, shapes=True, optimize="optimal")
    assert operations(graph) <= found.opt_cost


def test_vecdot_and_tensordot_equal_numpy() -> None:
    for function in (
        lambda x, y: np.vecdot(x, y), lambda x, y: np.tensordot(x, y, axes=((-1, 1), (1, 0))),
        lambda x, y: np.tensordot(x, y, axes=([0], [0])) if y.shape[0] == 2 else np.tensordot(x, y.T, axes=1),
    ):  # fmt: skip
        found, expected = _run(function, T, A), function(T, A)
        np.testing.assert_allclose(found, expected, rtol=1e-13)
    found = _run(lambda x, y: gi.vecdot(x, y, axis=-2), T, A)
    np.testing.assert_allclose(found, np.sum(T * A, axis=-2), rtol=1e-13)


# ---- derivatives ----


def _check_gradient(function: Callable[..., Any], *arrays: Any) -> None:
    """Gradients of a fixed weighting of `function(library, ...)` by us and by JAX."""
    weights = np.cos(np.arange(np.asarray(function(jnp, *arrays)).size)).reshape(np.shape(function(jnp, *arrays)))
    inputs = [gi.input(f"a{k}", a.shape) for k, a in enumerate(arrays)]
    slopes = gi.grad(gi.sum(function(gi, *inputs) * weights), inputs)
    graph = gi.Graph({f"d{k}": slope for k, slope in enumerate(slopes)}, inputs=inputs)
    found = gi.evaluate(graph, {f"a{k}": a for k, a in enumerate(arrays)})
    expected = jax.grad(lambda *xs: jnp.sum(function(jnp, *xs) * weights), tuple(range(len(arrays))))(*arrays)
    for k, slope in enumerate(expected):
        np.testing.assert_allclose(found[f"d{k}"], slope, rtol=1e-11, atol=1e-11)


DIFFERENTIABLE = (
    lambda lib, x: lib.roll(x, 3), lambda lib, x: lib.roll(x, (1, -2), axis=(0, 1)), lambda lib, x: lib.tile(x, (2, 3)),
    lambda lib, x: lib.repeat(x, 2, axis=1), lambda lib, x: lib.repeat(x, np.array([2, 0, 1]), axis=0),
    lambda lib, x: lib.diff(x, n=2, axis=1), lambda lib, x: lib.diff(x, axis=0, prepend=x), lambda lib, x: lib.pad(x, ((1, 0), (2, 1))),
    lambda lib, x: lib.pad(x, 2, constant_values=3.0), lambda lib, x: lib.pad(x, 2, mode="reflect"),
    lambda lib, x: lib.pad(x, 1, mode="edge"), lambda lib, x: lib.tril(x, 1) * lib.triu(x), lambda lib, x: lib.sort(x, axis=0),
    lambda lib, x: lib.sort(x * x, axis=1, descending=True), lambda lib, x: lib.cumulative_sum(x * x, axis=1, include_initial=True),
    lambda lib, x: lib.cumulative_prod(x, axis=1), lambda lib, x: lib.cumulative_prod(x, axis=0, include_initial=True),
    lambda lib, x: lib.outer(x, x), lambda lib, x: lib.vecdot(x, x), lambda lib, x: lib.tensordot(x, x, axes=((1,), (1,))),
    lambda lib, x: lib.stack(lib.meshgrid(x[0], x[1] * x[2])), lambda lib, x: lib.matrix_transpose(x) ** 2,
    lambda lib, x: (jax.lax.top_k(x, 2) if lib is jnp else gi.top_k(x, 2))[0] * 2,
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(DIFFERENTIABLE)))
def test_gradients_equal_jax(number: int) -> None:
    _check_gradient(DIFFERENTIABLE[number], A)


def test_gradients_of_ties_go_by_position() -> None:
    ties = I.astype(float)
    _check_gradient(lambda lib, x: lib.sort(x, axis=1) ** 3, ties)
    order = np.argsort(-ties, axis=1, stable=True)

    def descending(lib: Any, x: Any) -> Any:
        return gi.sort(x, axis=1, descending=True) ** 3 if lib is gi else jnp.take_along_axis(x, order, axis=1) ** 3

    _check_gradient(descending, ties)


_WEIGHTS = np.cos(np.arange(5.0))


def _weighted_products(x: Any) -> Any:
    """The running products from their definition, weighted."""
    return sum(jnp.prod(x[: k + 1]) * _WEIGHTS[k] for k in range(5))


_SLOPE, _CURVATURE = jax.jit(jax.grad(_weighted_products)), jax.jit(jax.hessian(_weighted_products))


@settings(max_examples=100)
@given(hnp.arrays(np.float64, 5, elements=st.sampled_from([0.0, 1.5, -2.0, 0.5, -0.0])))
def test_running_products_with_zeros_have_exact_derivatives_of_second_order(x: Any) -> None:
    v, u = gi.input("v", (5,)), gi.input("u", (5,))
    (slope,) = gi.grad(gi.sum(gi.cumulative_prod(v) * _WEIGHTS), [v])
    (second,) = gi.grad(gi.sum(slope * u), [v])
    graph = gi.Graph({"slope": slope, "second": second}, inputs=[v, u])
    found = gi.evaluate(graph, {"v": x, "u": _WEIGHTS + 2})
    np.testing.assert_allclose(found["slope"], _SLOPE(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found["second"], _CURVATURE(x) @ (_WEIGHTS + 2), rtol=1e-12, atol=1e-12)


def test_cut_evaluation_equals_the_whole() -> None:
    from graphir.partition.data import partition
    from scheduler.driver.local import run_plan

    x, v, m = gi.input("x", ("n",)), gi.input("v", (4,)), gi.input("m", ("n", 5))
    (slope,) = gi.grad(gi.sum(gi.cumulative_prod(m, axis=1)), [m])
    outputs = {
        "found": gi.searchsorted(x, v), "running": gi.cumulative_sum(gi.sum(m, axis=0)), "slope": slope,
        "sorted": gi.sort(m, axis=1, descending=True), "trace": gi.sum(gi.einsum("nii->n", m[:, :, None] * m[:, None, :])),
    }  # fmt: skip
    graph = gi.Graph(outputs)
    feeds = {"x": np.sort(RNG.normal(size=40)), "v": V[:4], "m": RNG.normal(size=(40, 5))}
    plan = partition(graph, {"n": 40}, "n")
    assert not plan.notes  # nothing is gathered
    found, expected = run_plan(plan, feeds), gi.evaluate(graph, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


# ---- dtypes and mistakes ----

DTYPES = ["bool", "int8", "int32", "int64", "uint8", "uint64", "float16", "float32", "float64"]


def test_questions_about_dtypes() -> None:
    for left in DTYPES:
        x = gi.input("x", (2,), left)
        for right in DTYPES:
            assert gi.result_type(x, right) == np.result_type(left, right) == np.result_type(x, np.dtype(right))
            assert gi.can_cast(x, right) == (np.promote_types(left, right) == np.dtype(right))
            assert gi.isdtype(left, getattr(gi, right)) == (left == right)
        for kind in ("bool", "signed integer", "unsigned integer", "integral", "real floating", "numeric"):
            assert gi.isdtype(x.dtype, kind) == np.isdtype(np.dtype(left), kind)
    assert gi.isdtype("int8", ("bool", gi.int8))
    assert gi.result_type("float32", 1.5) == np.float32
    assert gi.result_type("int32", True, 2.5) == np.float64
    assert gi.finfo(gi.input("x", (), "float32")).eps == np.finfo("float32").eps
    assert gi.iinfo("uint8").max == 255
    assert gi.isdtype("float64", "complex floating") is False


def test_creation() -> None:
    assert _run(lambda: gi.asarray([1, 2], dtype="float32")).dtype == np.float32
    assert _run(lambda: gi.empty((2, 0))).shape == (2, 0)
    x = gi.input("x")
    assert gi.asarray(x) is x
    np.testing.assert_array_equal(_run(lambda v: v[gi.newaxis] * gi.pi, V), V[None] * np.pi)


MISTAKES: tuple[tuple[type[gi.GraphError], Callable[[gi.Expr], Any], str], ...] = (
    (gi.ShapeError, lambda x: gi.cumulative_sum(x), "axis="), (gi.ShapeError, lambda x: gi.sort(x, axis=2), "out of range"),
    (gi.ShapeError, lambda x: gi.top_k(x, 9), "slice 0:9"), (gi.ShapeError, lambda x: gi.searchsorted(x, x), "needs a vector"),
    (gi.AttributeValueError, lambda x: gi.searchsorted(x[0], x, side="up"), "'left' or 'right'"),
    (gi.AttributeValueError, lambda x: gi.pad(x, -1), "slice to make"), (gi.AttributeValueError, lambda x: gi.pad(x, 1, "mean"), "mode"),
    (gi.AttributeValueError, lambda x: gi.pad(x, (1, 2, 3)), "pair for each axis"), (gi.ShapeError, lambda x: gi.tril(x[0]), "matrix"),
    (gi.ShapeError, lambda x: gi.repeat(x, x, axis=0), "size of the result"), (gi.ShapeError, lambda x: gi.repeat(x, [1, 2], axis=0), "fit"),
    (gi.AttributeValueError, lambda x: gi.diff(x, -1), "n >= 0"), (gi.AttributeValueError, lambda x: gi.roll(x, (1, 2), (0, 1, 0)), "shift"),
    (gi.DTypeError, lambda x: gi.one_hot(x, 3), "integer positions"), (gi.ShapeError, lambda x: gi.meshgrid(x), "vectors"),
    (gi.AttributeValueError, lambda x: gi.meshgrid(x[0], indexing="yx"), "'xy' or 'ij'"), (gi.ShapeError, lambda x: gi.vecdot(x, x, axis=1), "-2 to -1"),
    (gi.ShapeError, lambda x: gi.tensordot(x, x, axes=3), "3 axes"), (gi.ShapeError, lambda x: gi.tensordot(x, x, axes=((0, 0), (0, 1))), "distinct"),
    (gi.AttributeValueError, lambda x: gi.tensordot(x, x, axes=((0,), (0, 1))), "equally many"), (gi.ShapeError, lambda x: gi.einsum("ii", x), "different sizes"),
    (gi.AttributeValueError, lambda x: gi.einsum("i1", x), "must look like"), (gi.ShapeError, lambda x: gi.einsum("ijk", x), "does not fit"),
    (gi.AttributeValueError, lambda x: gi.einsum("...j->j", x), r"must have \.\.\."), (gi.AttributeValueError, lambda x: gi.einsum("ij,ij", x), "2 operands"),
    (gi.AttributeValueError, lambda x: gi.isdtype("int8", "whole"), "not known"), (gi.DTypeError, lambda x: gi.finfo("int8"), "iinfo"),
    (gi.DTypeError, lambda x: gi.iinfo("float32"), "finfo"), (gi.DTypeError, lambda x: gi.result_type(1, 2.0), "at least one"),
    (gi.ShapeError, lambda x: gi.moveaxis(x, (0, 1), (0,)), "as many places"), (gi.ShapeError, lambda x: gi.expand_dims(x, (0, 0)), "twice"),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_say_what_to_do_and_where(number: int) -> None:
    error, mistake, text = MISTAKES[number]
    with pytest.raises(error, match=rf"{text}(?s:.*)\n  at (?s:.*)test_arrange\.py:\d+"):
        mistake(gi.input("x", (3, 4)))
