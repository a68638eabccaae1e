"""Convolutions and pooling by every back-end: against PyTorch in float64 and the reference kernels, over shapes of many kinds."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.node import REGISTRY
from graphir.ops import correlate
from graphir.ops.sources import input_
from workers.backends import load
from workers.executor import Executor

torch = pytest.importorskip("torch")
LIBRARIES = {"numpy": "numpy", "llvm": "llvmlite", "jax": "jax"}
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(library) is None, reason="no library"))
    for name, library in LIBRARIES.items()
]
CONV = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((5, 1, 28, 28), (8, 1, 5, 5), {}),
    ((5, 8, 12, 12), (16, 8, 5, 5), {}),
    ((3, 16, 30, 31), (13, 16, 3, 3), {"padding": 1}),
    ((2, 24, 33, 30), (20, 12, 3, 3), {"padding": (2, 1), "stride": 2, "groups": 2}),
    ((2, 3, 64, 40), (32, 3, 7, 7), {"padding": 3, "stride": (2, 1)}),
    ((3, 12, 29, 29), (9, 12, 3, 2), {"dilation": (2, 3), "padding": (1, 2)}),
    ((2, 64, 14, 14), (32, 64, 1, 1), {}),
    ((2, 64, 15, 15), (32, 64, 1, 1), {"stride": 2}),
    ((9, 40, 6, 6), (24, 40, 3, 3), {"padding": 1}),
    ((2, 24, 20, 20), (24, 1, 3, 3), {"padding": 1, "groups": 24}),
    ((3, 16, 500), (24, 16, 9), {"padding": 4, "stride": 2, "dilation": 2}),
    ((2, 6, 12, 13, 14), (8, 6, 3, 3, 3), {"padding": 1}),
    ((2, 6, 9, 12, 11), (8, 3, 2, 3, 4), {"padding": (1, 0, 2), "stride": (2, 1, 2), "groups": 2}),
]


def ours(x: np.ndarray, w: np.ndarray, attrs: dict[str, Any]) -> gi.Graph:
    """The convolution, and the derivatives of its product with a given cotangent."""
    a, b = gi.input("x", x.shape, x.dtype.name), gi.input("w", w.shape, w.dtype.name)
    y = gi.nn.conv(a, b, **attrs)
    ct = gi.input("ct", y.shape, x.dtype.name)
    return gi.Graph(dict(zip(("y", "dx", "dw"), [y, *gi.grad(gi.sum(y * ct), [a, b])], strict=True)))


def theirs(x: np.ndarray, w: np.ndarray, ct: np.ndarray, attrs: dict[str, Any]) -> list[np.ndarray]:
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, w))
    y = CONV[x.ndim - 2](a, b, **attrs)
    y.backward(torch.tensor(ct, dtype=torch.float64))
    return [v.detach().numpy() for v in (y, a.grad, b.grad)]


def near(found: np.ndarray, wanted: np.ndarray, terms: int) -> None:
    """Within the rounding of a sum of so many terms of about 1."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=8 * np.finfo(found.dtype).eps * terms)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", range(len(SHAPES)))
def test_convolutions_agree_with_pytorch(case: int, dtype: str, backend: str) -> None:
    left, right, attrs = SHAPES[case]
    rng = np.random.default_rng(case)
    x, w = (rng.uniform(-1, 1, shape).astype(dtype) for shape in (left, right))
    graph = ours(x, w, attrs)
    ct = rng.uniform(-1, 1, graph.outputs["y"].type.shape).astype(dtype)
    found = Executor(graph, backend)({"x": x, "w": w, "ct": ct})
    wanted = theirs(x, w, ct, attrs)
    terms = max(w[0].size, w.size // w.shape[1], ct[:, 0].size)
    for name, array in zip(("y", "dx", "dw"), wanted, strict=True):
        near(found[name], array, terms)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_kernels_agree_with_pytorch_at_any_geometry(data: st.DataObject) -> None:
    """The compiled kernels too, however little there is to compute."""
    compiled = pytest.importorskip("workers.backends.llvm.correlate") if importlib.util.find_spec("llvmlite") else None
    rank = data.draw(st.integers(1, 3))

    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    groups, batch = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    channels, filters = (groups * data.draw(st.integers(1, 4)) for _ in range(2))
    sizes, kernel, attrs = numbers(4, 12), numbers(1, 3), {}
    attrs = {"stride": numbers(1, 3), "dilation": numbers(1, 2), "padding": numbers(0, 2)}
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.standard_normal((batch, channels, *sizes))
    w = rng.standard_normal((filters, channels // groups, *kernel))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, attrs["dilation"], strict=True)]
    outputs = tuple(
        (n + 2 * p - span) // s + 1
        for n, p, span, s in zip(sizes, attrs["padding"], spans, attrs["stride"], strict=True)
    )
    if min(outputs) < 1:
        return
    ct = rng.standard_normal((batch, filters, *outputs))
    wanted = theirs(x, w, ct, {**attrs, "groups": groups})
    common: Any = {
        "strides": attrs["stride"], "dilations": attrs["dilation"], "before": attrs["padding"], "groups": groups
    }  # fmt: skip
    sets = [[REGISTRY[name].kernel for name in ("conv", "conv_input", "conv_kernel")]]
    if compiled is not None:
        sets.append([compiled.conv, compiled.conv_input, compiled.conv_kernel])
    for conv, conv_input, conv_kernel in sets:
        with pytest.MonkeyPatch.context() as patch:
            if compiled is not None:
                patch.setattr(compiled, "LEAST", 0)
                patch.setattr(compiled, "MOST_WASTE", 10_000)
            near(conv(x, w, outputs=outputs, **common), wanted[0], 400)
            near(conv_input(ct, w, sizes=sizes, **common), wanted[1], 400)
            near(conv_kernel(x, ct, kernel=kernel, **common), wanted[2], 2000)


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_what_it_is_multiplied_with_alone(backend: str, value: float) -> None:
    """Also where products between two rows of windows are computed and thrown away."""
    if importlib.util.find_spec(LIBRARIES[backend]) is None:
        pytest.skip("no library")
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((3, 4, 20, 20)), rng.standard_normal((8, 4, 3, 3))
    ct = rng.standard_normal((3, 8, 18, 18))
    common: Any = {"strides": (1, 1), "dilations": (1, 1), "before": (0, 0), "groups": 1}
    conv, conv_input, conv_kernel = (load(backend)(REGISTRY[name]) for name in ("conv", "conv_input", "conv_kernel"))
    x[0, 1, 0, 19] = value
    for found, wanted in (
        (conv(x, w, outputs=(18, 18), **common), theirs(x, w, ct, {})[0]),
        (conv_kernel(x, ct, kernel=(3, 3), **common), theirs(x, w, ct, {})[2]),
    ):
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    x[0, 1, 0, 19], w[2, 1, 0, 0] = 0, value
    found = conv_input(ct, w, sizes=(20, 20), **common)
    met = np.zeros((3, 4, 20, 20), bool)
    met[:, 1, :18, :18] = True
    np.testing.assert_array_equal(np.isfinite(found), ~met)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((7, 3, 18, 17)), rng.standard_normal((5, 3, 3, 3))
    g = correlate.Windows((3, 3), (1, 1), (1, 1), (1, 1), (18, 17))
    ct = rng.standard_normal((7, 5, 18, 17))

    def made() -> list[np.ndarray]:
        return [
            correlate.correlate(x, w, g, 1),
            correlate.correlate_kernel(x, ct, g, 1),
            correlate.correlate_input(ct, w, g, (18, 17), 1),
        ]

    whole = made()
    for size in (1, 3_000, 20_000, 200_000):  # rows of one image, images, several
        monkeypatch.setattr(correlate, "BLOCK_BYTES", size)
        for found, wanted in zip(made(), whole, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
def test_bits_do_not_depend_on_threads(backend: str) -> None:
    if importlib.util.find_spec(LIBRARIES[backend]) is None:
        pytest.skip("no library")
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((64, 4, 40, 40)), rng.standard_normal((8, 4, 3, 3))
    a, b = gi.input("x", x.shape), gi.input("w", w.shape)
    loss = gi.sum(gi.square(gi.nn.max_pool(gi.nn.relu(gi.nn.conv(a, b, padding=1)), 2)))
    graph = gi.Graph({"loss": loss, "dw": gi.grad(loss, [b])[0], "dx": gi.grad(loss, [a])[0]})
    first, *others = [Executor(graph, backend, threads=threads)({"x": x, "w": w}) for threads in (1, 2, 3)]
    for other in others:
        for name, array in first.items():
            np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_pooling_agrees_with_pytorch(backend: str) -> None:
    rng = np.random.default_rng(8)
    x = rng.permutation(16 * 3 * 48 * 47).reshape(16, 3, 48, 47) / 100.0  # no two alike
    for attrs in ({}, {"stride": 1}, {"padding": 1}, {"stride": 3}, {"dilation": 2}, {"ceil_mode": True, "stride": 4}):
        a, t = gi.input("x", x.shape), torch.tensor(x, requires_grad=True)
        pooled, theirs_ = gi.nn.max_pool(a, 3, **attrs), torch.nn.functional.max_pool2d(t, 3, **attrs)
        (theirs_**2).sum().backward()
        graph = gi.Graph({"y": pooled, "dx": gi.grad(gi.sum(pooled**2), [a])[0]})
        found = Executor(graph, backend)({"x": x})
        np.testing.assert_array_equal(found["y"], theirs_.detach().numpy())
        np.testing.assert_allclose(found["dx"], t.grad.numpy(), rtol=1e-12)


def test_an_input_of_the_wrong_form_is_refused() -> None:
    conv, windows = REGISTRY["conv"], REGISTRY["windows"]

    def value(*shape: Any, dtype: str = "float64") -> Any:
        return input_(name="x", dtype=dtype, shape=shape)

    good = {"strides": (1,), "dilations": (1,), "before": (0,), "outputs": (3,), "groups": 1}
    assert conv(value(2, 3, 5), value(4, 3, 3), **good).type.shape == (2, 4, 3)
    with pytest.raises(gi.ShapeError, match="axis 1 of the kernels must be 3"):
        conv(value(2, 3, 5), value(4, 2, 3), **good)
    with pytest.raises(gi.ShapeError, match="do not divide into 2 groups"):
        conv(value(2, 3, 5), value(4, 3, 3), **{**good, "groups": 2})
    with pytest.raises(gi.DTypeError, match="cast one"):
        conv(value(2, 3, 5), value(4, 3, 3, dtype="float32"), **good)
    with pytest.raises(gi.AttributeValueError, match="1 numbers that make sense"):
        conv(value(2, 3, 5), value(4, 3, 3), **{**good, "strides": (0,)})
    with pytest.raises(gi.ShapeError, match="of known size"):
        conv(value(2, 3, "n"), value(4, 3, 3), **good)
    with pytest.raises(gi.ShapeError, match="do not fit"):
        windows(value(4, 5), kernel=(3,), outputs=(4,), strides=(1,), dilations=(1,))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_pooling_has_the_bits_of_the_reference(dtype: str) -> None:
    """Ties, infinities and what is not a number included."""
    pytest.importorskip("llvmlite")
    rng = np.random.default_rng(9)
    x = np.maximum(rng.standard_normal((9, 4, 25, 27)), 0).astype(dtype)  # many ties at zero
    x.flat[[3, 500, 7000]] = np.nan, np.inf, -np.inf
    names = ("window_max", "window_max_share")
    (plain, share), (fast, fast_share) = (
        [load(backend)(REGISTRY[name]) for name in names] for backend in ("numpy", "llvm")
    )
    for kernel, outputs, strides, dilations in (
        ((2, 2), (12, 13), (2, 2), (1, 1)),
        ((2, 3), (11, 8), (2, 3), (1, 1)),
        ((3, 2), (7, 12), (3, 2), (1, 1)),
        ((3, 3), (20, 20), (1, 1), (2, 2)),
        ((3,), (9,), (3,), (1,)),
        ((2,), (6,), (4,), (3,)),
    ):
        attrs: Any = {"kernel": kernel, "outputs": outputs, "strides": strides, "dilations": dilations}
        wanted = plain(x, **attrs)
        np.testing.assert_array_equal(fast(x, **attrs), wanted)
        ct = rng.standard_normal(wanted.shape).astype(dtype)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(fast_share(ct, x, **attrs), share(ct, x, **attrs))
