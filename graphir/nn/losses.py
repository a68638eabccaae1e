"""Losses. `reduction` is "mean" (over all elements or examples), "sum" or "none"."""

from typing import Any

import numpy as np

from graphir import arrange, array, elementwise, manipulate
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import Expr, as_expr, match_dtypes
from graphir.nn.activation import log_softmax, softplus
from graphir.origin import located


def _reduced(loss: Expr, reduction: str) -> Expr:
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise AttributeValueError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    return array.mean(loss) if reduction == "mean" else array.sum(loss)


@located
def cross_entropy(
    logits: Any,
    target: Any,
    *,
    axis: int = 1,
    weight: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Expr:
    """-log softmax(logits) at the target class; the target is integer classes, or probabilities like the logits.

    axis: of the classes. weight: of each class; the mean is then weighted, as in torch.nn.functional.cross_entropy.
    ignore_index: a class whose examples count nothing.
    """
    scores = as_expr(logits)
    return nll_loss(
        log_softmax(scores, axis=axis), target, axis=axis, weight=weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, reduction=reduction,
    )  # fmt: skip


@located
def nll_loss(
    log_probabilities: Any,
    target: Any,
    *,
    axis: int = 1,
    weight: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Expr:
    """-log_probabilities at the target class; as `cross_entropy` otherwise."""
    scores, wanted = as_expr(log_probabilities), as_expr(target)
    at = array.normal_axis(axis, scores.ndim)
    classes = scores.shape[at]
    if wanted.dtype.kind in "iu":
        if wanted.shape != (*scores.shape[:at], *scores.shape[at + 1 :]):
            raise ShapeError(f"classes {wanted.node.type} do not fit {scores.node.type} without axis {at}")
        kept = None if ignore_index is None else wanted != ignore_index
        wanted = arrange.one_hot(wanted, classes, axis=at, dtype=scores.dtype)
        if kept is not None:
            wanted = wanted * manipulate.expand_dims(kept, at).astype(scores.dtype)
        masses = array.sum(wanted, at, keepdims=True)
    else:
        if wanted.shape != scores.shape:
            raise ShapeError(f"probabilities {wanted.node.type} do not fit {scores.node.type}")
        masses = array.ones_like(array.sum(scores, at, keepdims=True))
    if label_smoothing:
        count = array.size(classes) if isinstance(classes, str) else classes
        wanted = wanted * (1 - label_smoothing) + masses * (label_smoothing / count)
    hard = as_expr(target).dtype.kind in "iu"
    if weight is not None:
        wanted = wanted * _along(weight, at, scores.ndim)
    loss = -array.sum(wanted * scores, at)
    if reduction != "mean":
        return _reduced(loss, reduction)
    if not hard:
        return array.mean(loss)
    counted = masses if weight is None else _class_weights(target, weight, ignore_index, at, scores)
    return array.sum(loss) / array.sum(counted)


def _along(weight: Any, axis: int, rank: int) -> Expr:
    vector = as_expr(weight)
    return manipulate.reshape(vector, [vector.shape[0] if a == axis else 1 for a in range(rank)])


def _class_weights(target: Any, weight: Any, ignore_index: int | None, at: int, scores: Expr) -> Expr:
    wanted = as_expr(target)
    each = arrange.one_hot(wanted, scores.shape[at], axis=at, dtype=scores.dtype) * _along(weight, at, scores.ndim)
    total = array.sum(each, at)
    return total if ignore_index is None else total * (wanted != ignore_index).astype(scores.dtype)


@located
def binary_cross_entropy(logits: Any, target: Any, *, reduction: str = "mean") -> Expr:
    """-t log sigmoid(x) - (1 - t) log sigmoid(-x), for logits x and targets t between 0 and 1."""
    x, t = match_dtypes(as_expr(logits), as_expr(target))
    return _reduced(softplus(x) - x * t, reduction)


@located
def mse_loss(x: Any, target: Any, *, reduction: str = "mean") -> Expr:
    """(x - target)^2"""
    return _reduced(elementwise.square(as_expr(x) - target), reduction)


@located
def l1_loss(x: Any, target: Any, *, reduction: str = "mean") -> Expr:
    """|x - target|"""
    return _reduced(elementwise.abs(as_expr(x) - target), reduction)


@located
def huber_loss(x: Any, target: Any, *, delta: float = 1.0, reduction: str = "mean") -> Expr:
    """d^2 / 2 for |d| up to delta, then delta (|d| - delta / 2), d = x - target (Huber 1964)."""
    distance = elementwise.abs(as_expr(x) - target)
    near = array.clip(distance, None, delta)
    return _reduced(near * (distance - 0.5 * near), reduction)


@located
def hinge_loss(x: Any, target: Any, *, reduction: str = "mean") -> Expr:
    """max(0, 1 - target x) for targets -1 and 1."""
    return _reduced(array.clip(1 - as_expr(x) * target, 0, None), reduction)


@located
def kl_div(log_q: Any, p: Any, *, reduction: str = "mean") -> Expr:
    """p (log p - log q), 0 where p is 0; the first argument is log q."""
    q, given = match_dtypes(as_expr(log_q), as_expr(p))
    safe = array.where(given > 0, given, array.ones_like(given))
    return _reduced(array.where(given > 0, given * (elementwise.log(safe) - q), array.zeros_like(given)), reduction)


@located
def cosine_similarity(x: Any, y: Any, *, axis: int = 1, eps: float = 1e-8) -> Expr:
    """x . y / (|x| |y|) along an axis; lengths count as eps at least."""
    a, b = match_dtypes(as_expr(x), as_expr(y))
    low = float(np.square(eps))
    lengths = [elementwise.sqrt(array.clip(array.sum(elementwise.square(v), axis), low, None)) for v in (a, b)]
    return array.sum(a * b, axis) / (lengths[0] * lengths[1])
