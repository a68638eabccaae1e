"""Neural network functions: values and gradients against PyTorch in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.partition.data import partition
from scheduler.driver.local import run_plan

nn = gi.nn
RNG = np.random.default_rng(12)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


def check(ours: Callable[..., gi.Expr], theirs: Callable[..., Any], *arrays: Any, tolerance: float = 1e-10) -> None:
    """Value, and the gradient of a weighted sum with respect to every float argument."""
    inputs = [gi.input(f"a{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    value, expected = ours(*inputs), theirs(*tensors)
    weights = np.random.default_rng(1).normal(size=tuple(expected.shape))
    wrt = [x for x in inputs if x.dtype.kind == "f"]
    slopes = gi.grad(gi.sum(value * weights), wrt)
    graph = gi.Graph({"value": value, **{f"g{k}": g for k, g in enumerate(slopes)}}, inputs=inputs)
    found = gi.evaluate(graph, {f"a{k}": a for k, a in enumerate(arrays)})
    wanted = torch.autograd.grad((expected * torch.tensor(weights)).sum(), [t for t in tensors if t.requires_grad])
    assert found["value"].shape == tuple(expected.shape)
    for own, other in zip(found.values(), [expected.detach(), *wanted], strict=True):
        np.testing.assert_allclose(own, other.numpy(), rtol=tolerance, atol=tolerance)


# ---- activations ----

ACTIVATIONS: dict[str, tuple[Callable[[gi.Expr], gi.Expr], Callable[..., Any]]] = {
    "relu": (nn.relu, F.relu), "relu6": (nn.relu6, F.relu6), "leaky_relu": (nn.leaky_relu, F.leaky_relu),
    "elu": (lambda x: nn.elu(x, 0.7), lambda x: F.elu(x, 0.7)), "celu": (lambda x: nn.celu(x, 0.7), lambda x: F.celu(x, 0.7)),
    "selu": (nn.selu, F.selu), "gelu": (nn.gelu, F.gelu), "silu": (nn.silu, F.silu), "mish": (nn.mish, F.mish),
    "gelu tanh": (lambda x: nn.gelu(x, approximate=True), lambda x: F.gelu(x, approximate="tanh")),
    "softplus": (nn.softplus, lambda x: F.softplus(x, threshold=1e9)), "softsign": (nn.softsign, F.softsign),
    "sigmoid": (nn.sigmoid, torch.sigmoid), "log_sigmoid": (nn.log_sigmoid, F.logsigmoid), "tanh": (nn.tanh, torch.tanh),
    "hard_sigmoid": (nn.hard_sigmoid, F.hardsigmoid), "hard_swish": (nn.hard_swish, F.hardswish),
    "hard_tanh": (nn.hard_tanh, F.hardtanh), "tanh_shrink": (nn.tanh_shrink, F.tanhshrink), "glu": (nn.glu, F.glu),
    "softmax": (lambda x: nn.softmax(x, axis=0), lambda x: F.softmax(x, 0)),
    "log_softmax": (lambda x: nn.log_softmax(x, axis=1), lambda x: F.log_softmax(x, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    ours, theirs = ACTIVATIONS[name]
    tolerance = 1e-6 if name in ("selu", "celu", "hard_sigmoid") else 1e-10  # whose constants PyTorch rounds to float32
    check(ours, theirs, 3 * normal(4, 6), tolerance=tolerance)
    if name not in ("selu", "celu", "hard_sigmoid", "tanh_shrink"):  # PyTorch's tanh_shrink cancels
        check(ours, theirs, np.array([[-700.0, -40.0, 40.0, 700.0]]))


def test_prelu_has_a_slope_for_each_channel() -> None:
    check(nn.prelu, F.prelu, normal(2, 3, 4), np.array([0.1, -0.5, 2.0]))


# ---- convolution and pooling ----


@settings(max_examples=40)
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    rank, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    numbers = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    sizes, kernel, stride, dilation, padding = numbers(3, 6), numbers(1, 3), numbers(1, 3), numbers(1, 2), numbers(0, 2)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(n + 2 * p >= s for n, p, s in zip(sizes, padding, spans, strict=True)))
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    theirs = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    arrays = normal(2, 2 * groups, *sizes), normal(3 * groups, 2, *kernel), normal(3 * groups)
    check(lambda x, w, b: nn.conv(x, w, b, **options), lambda x, w, b: theirs(x, w, b, **options), *arrays)


@settings(max_examples=40)
@given(st.data())
def test_transposed_convolution(data: st.DataObject) -> None:
    rank, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    numbers = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    sizes, kernel, stride, dilation = numbers(2, 4), numbers(1, 3), numbers(1, 3), numbers(1, 2)
    padding = tuple(data.draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilation, strict=True))
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    outs = [
        (n - 1) * s - 2 * p + (k - 1) * d + 1 + e
        for n, s, p, k, d, e in zip(sizes, stride, padding, kernel, dilation, extra, strict=True)
    ]
    assume(min(outs) >= 1)
    options: dict[str, Any] = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation, "groups": groups}  # fmt: skip
    theirs = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    arrays = normal(2, 2 * groups, *sizes), normal(2 * groups, 3, *kernel), normal(3 * groups)
    check(lambda x, w, b: nn.conv_transpose(x, w, b, **options), lambda x, w, b: theirs(x, w, b, **options), *arrays)


def test_same_and_valid_padding() -> None:
    x, w = normal(1, 2, 7, 6), normal(3, 2, 3, 2)
    check(lambda x, w: gi.conv(x, w, padding="same"), lambda x, w: F.conv2d(x, w, padding="same"), x, w)
    check(lambda x, w: gi.conv(x, w, padding="valid"), lambda x, w: F.conv2d(x, w), x, w)
    check(lambda x, w: gi.conv(x, w, padding=[(2, 0), (1, 3)]), lambda x, w: F.conv2d(F.pad(x, (1, 3, 2, 0)), w), x, w)


@settings(max_examples=40)
@given(st.data())
def test_pooling(data: st.DataObject) -> None:
    rank, ceil = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    numbers = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    sizes, kernel, stride = numbers(3, 6), numbers(1, 3), numbers(1, 3)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    counted = data.draw(st.booleans())
    x = normal(2, 3, *sizes)
    options: dict[str, Any] = {"stride": stride, "padding": padding, "ceil_mode": ceil}
    largest = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    check(lambda x: nn.max_pool(x, kernel, **options), lambda x: largest(x, kernel, **options), x)
    mean = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    options["count_include_pad"] = counted
    check(lambda x: nn.avg_pool(x, kernel, **options), lambda x: mean(x, kernel, **options), x)


@pytest.mark.parametrize("output", [1, 2, 3, 5])
def test_adaptive_and_lp_pooling(output: int) -> None:
    x = normal(2, 3, 5, 7)
    check(lambda x: nn.adaptive_avg_pool(x, output), lambda x: F.adaptive_avg_pool2d(x, output), x)
    check(lambda x: nn.adaptive_max_pool(x, output), lambda x: F.adaptive_max_pool2d(x, output), x)
    check(lambda x: nn.lp_pool(x, 3, 2), lambda x: F.lp_pool2d(x, 3.0, 2), np.abs(x))


# ---- normalisation ----


def test_normalisations() -> None:
    x, w, b = normal(3, 4, 5), normal(4), normal(4)
    check(lambda x, w, b: nn.group_norm(x, 2, w, b), lambda x, w, b: F.group_norm(x, 2, w, b), x, w, b)
    check(nn.instance_norm, lambda x, w, b: F.instance_norm(x, weight=w, bias=b), x, w, b)
    w2, b2 = normal(4, 5), normal(4, 5)
    check(lambda x, w, b: nn.layer_norm(x, 2, w, b), lambda x, w, b: F.layer_norm(x, (4, 5), w, b), x, w2, b2)
    check(lambda x, w: nn.rms_norm(x, 1, w), lambda x, w: F.rms_norm(x, (5,), w, 1e-6), x, normal(5))


@pytest.mark.parametrize("training", [False, True])
def test_batch_normalisation_and_its_running_statistics(training: bool) -> None:
    x, mean, var, w, b = normal(6, 4, 5), normal(4), np.exp(normal(4)), normal(4), normal(4)

    def theirs(x: Any, w: Any, b: Any) -> Any:
        return F.batch_norm(x, torch.tensor(mean), torch.tensor(var), w, b, training=training)

    check(lambda x, w, b: nn.batch_norm(x, mean, var, w, b, training=training).out, theirs, x, w, b)
    moved = nn.batch_norm(gi.constant(x), mean, var, training=training)
    kept = torch.tensor(mean), torch.tensor(var)
    F.batch_norm(torch.tensor(x), *kept, training=training)
    found = gi.evaluate(gi.Graph({"mean": moved.mean, "var": moved.var}), {})
    np.testing.assert_allclose(found["mean"], kept[0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(found["var"], kept[1].numpy(), rtol=1e-12)


# ---- attention, embedding, dropout ----


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal: bool) -> None:
    q, k, v = normal(2, 4, 5, 6), normal(2, 4, 5, 6), normal(2, 4, 5, 3)
    attention = nn.scaled_dot_product_attention
    check(
        lambda *a: attention(*a, causal=causal),
        lambda *a: F.scaled_dot_product_attention(*a, is_causal=causal),
        q,
        k,
        v,
    )
    allowed = RNG.random((5, 5)) < 0.7
    allowed[:, 0] = True
    for mask in (allowed, normal(4, 5, 5)):
        theirs = lambda *a, mask=mask: F.scaled_dot_product_attention(*a, torch.tensor(mask))  # noqa: E731
        check(lambda *a, mask=mask: attention(*a, mask), theirs, q, k, v)
    grouped = lambda *a: F.scaled_dot_product_attention(*a, enable_gqa=True)  # noqa: E731
    check(attention, grouped, q, k[:, :2].copy(), v[:, :2].copy())


def test_linear_and_embedding() -> None:
    check(nn.linear, F.linear, normal(2, 3, 4), normal(5, 4), normal(5))
    check(nn.embedding, F.embedding, np.array([[0, 2], [2, 4]]), normal(5, 3))


def test_dropout_keeps_its_share_and_its_mean_and_is_the_same_when_cut() -> None:
    x = gi.input("x", ("n", 50))
    graph = gi.Graph({"out": nn.dropout(x, gi.random.key(3), 0.2), "same": nn.dropout(x, None, 0.2, training=False)})
    feeds = {"x": np.ones((400, 50))}
    found = gi.evaluate(graph, feeds)
    assert set(np.unique(found["out"])) == {0.0, 1 / 0.8}
    assert abs((found["out"] == 0).mean() - 0.2) < 0.01
    assert np.array_equal(found["same"], feeds["x"])
    assert np.array_equal(run_plan(partition(graph, {"n": 400}, "n", 7), feeds)["out"], found["out"])


# ---- losses ----

CLASSES = np.array([1, 0, 2, 1])
SHARES = np.exp(normal(4, 3)) / np.exp(normal(4, 3)).sum(1, keepdims=True)
WEIGHT = np.array([0.5, 2.0, 1.0])
TW = torch.tensor(WEIGHT)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(reduction: str, smoothing: float) -> None:
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    x = normal(4, 3)
    for more, theirs in (({}, {}), ({"weight": WEIGHT}, {"weight": TW}), ({"ignore_index": 1}, {"ignore_index": 1})):
        check(
            lambda x, t, more=more: nn.cross_entropy(x, t, **options, **more),
            lambda x, t, theirs=theirs: F.cross_entropy(x, t, **options, **theirs),
            x, CLASSES,
        )  # fmt: skip
    shares = torch.tensor(SHARES)
    check(lambda x: nn.cross_entropy(x, SHARES, **options), lambda x: F.cross_entropy(x, shares, **options), x)
    spread = normal(4, 3, 2), RNG.integers(0, 3, (4, 2))
    check(lambda x, t: nn.cross_entropy(x, t, **options), lambda x, t: F.cross_entropy(x, t, **options), *spread)
    check(
        lambda x, t: nn.nll_loss(x, t, reduction=reduction),
        lambda x, t: F.nll_loss(x, t, reduction=reduction),
        x,
        CLASSES,
    )


LOSSES: dict[str, tuple[Callable[..., gi.Expr], Callable[..., Any], tuple[Any, ...]]] = {
    "mse": (nn.mse_loss, F.mse_loss, (normal(4, 3), normal(4, 3))), "l1": (nn.l1_loss, F.l1_loss, (normal(4, 3), normal(4, 3))),
    "huber": (lambda *a, **k: nn.huber_loss(*a, delta=0.7, **k), lambda *a, **k: F.huber_loss(*a, delta=0.7, **k), (normal(4, 3), normal(4, 3))),
    "binary": (nn.binary_cross_entropy, F.binary_cross_entropy_with_logits, (30 * normal(4, 3), RNG.random((4, 3)))),
    "kl": (nn.kl_div, F.kl_div, (normal(4, 3), np.abs(normal(4, 3)))),
}  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, reduction: str) -> None:
    ours, theirs, arrays = LOSSES[name]
    check(lambda *a: ours(*a, reduction=reduction), lambda *a: theirs(*a, reduction=reduction), *arrays)


def test_cosine_and_hinge() -> None:
    check(nn.cosine_similarity, F.cosine_similarity, normal(4, 3), normal(4, 3))
    hinge = lambda x: torch.clamp(1 - x * torch.tensor([[1.0, -1.0, 1.0]] * 5), min=0).mean()  # noqa: E731
    check(lambda x: nn.hinge_loss(x, np.array([[1.0, -1.0, 1.0]] * 5)), hinge, normal(5, 3))
    given_zero = gi.evaluate(gi.Graph({"kl": nn.kl_div(gi.constant([0.0, -1.0]), gi.constant([0.0, 1.0]))}), {})
    np.testing.assert_allclose(given_zero["kl"], F.kl_div(torch.tensor([0.0, -1.0]), torch.tensor([0.0, 1.0])).item())


# ---- cuts and errors ----


def test_networks_are_cut_along_the_batch() -> None:
    x = gi.input("x", ("n", 2, 6, 6))
    w1, w2, w3 = gi.input("w1", (3, 2, 3, 3)), gi.input("w2", (4, 27)), gi.input("w3", (3,))
    h = nn.max_pool(nn.relu(nn.conv(x, w1, padding="same")), 2)
    h = nn.batch_norm(h, np.zeros(3), np.ones(3), w3, training=True).out
    h = nn.linear(gi.reshape(h, ("n", 27)), w2)
    a = gi.reshape(nn.layer_norm(h), ("n", 1, 4, 1))
    h = gi.reshape(nn.scaled_dot_product_attention(a, a, a, causal=True), ("n", 4))
    loss = nn.cross_entropy(h, gi.input("t", ("n",), "int64"))
    names = ["w1", "w2", "w3"]
    graph = gi.Graph({"loss": loss, **dict(zip(names, gi.grad(loss, [w1, w2, w3]), strict=True))})
    feeds = {
        "x": normal(7, 2, 6, 6),
        "t": RNG.integers(0, 4, 7),
        "w1": normal(3, 2, 3, 3),
        "w2": normal(4, 27),
        "w3": normal(3),
    }
    plan = partition(graph, {"n": 7}, "n", 3)
    assert plan.notes == ()
    whole, found = gi.evaluate(graph, feeds), run_plan(plan, feeds)
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-11)


def test_what_is_wrong_is_said() -> None:
    x, w = gi.input("x", ("n", 3, 8, 8)), gi.input("w", (4, 3, 3, 3))
    cases: list[tuple[type[Exception], Callable[[], Any], str]] = [
        (gi.ShapeError, lambda: nn.conv(x, gi.input("v", (4, 2, 3, 3))), "groups"),
        (gi.ShapeError, lambda: nn.conv(x[0], w), "as many axes"),
        (gi.ShapeError, lambda: nn.conv(gi.input("y", ("n", 3, "h", 8)), w), "known size"),
        (gi.ShapeError, lambda: nn.max_pool(x, 9), "do not fit"),
        (gi.AttributeValueError, lambda: nn.conv(x, w, stride=(1, 2, 3)), "2 numbers"),
        (gi.AttributeValueError, lambda: nn.conv(x, w, padding="full"), "'same'"),
        (gi.AttributeValueError, lambda: nn.conv(x, w, padding=-1), "at least 0"),
        (gi.ShapeError, lambda: nn.group_norm(x, 2), "2 groups"),
        (gi.ShapeError, lambda: nn.glu(x, 1), "even size"),
        (gi.ShapeError, lambda: nn.cross_entropy(x, gi.input("t", ("n", 8), "int64")), "do not fit"),
        (gi.AttributeValueError, lambda: nn.mse_loss(x, 0.0, reduction="max"), "reduction"),
        (gi.AttributeValueError, lambda: nn.dropout(x, gi.random.key(0), 1.5), "probability"),
        (gi.DTypeError, lambda: nn.embedding(x, w), "integer positions"),
        (gi.ShapeError, lambda: nn.scaled_dot_product_attention(x, x[..., :4], x), "one width"),
    ]  # fmt: skip
    for error, call, text in cases:
        with pytest.raises(error, match=text):
            call()
