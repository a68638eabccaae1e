"""Losses. `reduction` is "mean" (over all elements or examples), "sum" or "none"."""

from typing import Any

import numpy as np

from graphir import array, elementwise, manipulate
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import Expr, as_expr, match_dtypes
from graphir.nn.activation import log_softmax, relu, softplus
from graphir.origin import located


def _reduced(loss: Expr, reduction: str) -> Expr:
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise AttributeValueError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    return array.mean(loss) if reduction == "mean" else array.sum(loss)


def _pair(x: Any, target: Any) -> tuple[Expr, Expr]:
    """Both in one dtype and shape: a shape that broadcasts is more often a mistake than meant."""
    value, wanted = match_dtypes(as_expr(x), target)
    if wanted.ndim and wanted.shape != value.shape:
        raise ShapeError(
            f"target {wanted.node.type} must be a number or have the shape of {value.node.type}; reshape or broadcast it"
        )
    return value, wanted


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
    ignore_index: a class whose examples count nothing. Other classes are positions: negative ones count from the end,
    and the evaluation refuses those out of range. ShapeError, DTypeError, AttributeValueError.
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
    if not 0 <= label_smoothing <= 1:
        raise AttributeValueError(f"label_smoothing is between 0 and 1, not {label_smoothing}")
    scale = None if weight is None else _class_weights(weight, scores, at)
    if wanted.dtype.kind == "f":
        return _reduced(_against_shares(scores, wanted, at, scale, label_smoothing), reduction)
    if wanted.dtype.kind not in "iu":
        raise DTypeError(f"the target is integer classes or probabilities, not {wanted.node.type}; cast it")
    if wanted.shape != (*scores.shape[:at], *scores.shape[at + 1 :]):
        raise ShapeError(f"classes {wanted.node.type} do not fit {scores.node.type} without axis {at}")
    loss, counted = _against_classes(scores, wanted, at, scale, label_smoothing, ignore_index)
    if reduction != "mean" or (scale is None and ignore_index is None):
        return _reduced(loss, reduction)
    return array.sum(loss) / array.sum(counted)


def _class_weights(weight: Any, scores: Expr, at: int) -> Expr:
    """The weights along the classes' axis."""
    vector = as_expr(weight)
    if vector.shape != (scores.shape[at],):
        raise ShapeError(
            f"weight {vector.node.type} must have one number for each class, axis {at} of {scores.node.type}"
        )
    return manipulate.reshape(vector, [vector.shape[0] if a == at else 1 for a in range(scores.ndim)])


def _spread(scores: Expr, at: int, scale: Expr | None) -> Expr:
    """The loss against the same probability for every class."""
    classes = scores.shape[at]
    count = array.size(classes).astype(scores.dtype) if isinstance(classes, str) else classes
    return -array.sum(scores if scale is None else scores * scale, at) / count


def _against_shares(scores: Expr, shares: Expr, at: int, scale: Expr | None, smoothing: float) -> Expr:
    if shares.shape != scores.shape:
        raise ShapeError(f"probabilities {shares.node.type} do not fit {scores.node.type}; they need the same shape")
    weighted = shares if scale is None else shares * scale
    loss = -array.sum(weighted * scores, at)
    return loss * (1 - smoothing) + _spread(scores, at, scale) * smoothing if smoothing else loss


def _against_classes(
    scores: Expr, classes: Expr, at: int, scale: Expr | None, smoothing: float, ignored: int | None
) -> tuple[Expr, Expr]:
    """The loss of each example, and how much each counts in the mean."""
    kept = None if ignored is None else classes != ignored
    if kept is not None:
        classes = array.where(kept, classes, array.zeros_like(classes))
    places = manipulate.expand_dims(classes, at)
    loss = -manipulate.squeeze(array.take_along_axis(scores, places, at), at)
    counted = array.ones_like(loss)
    if scale is not None:
        counted = manipulate.squeeze(array.take_along_axis(scale, places, at), at)
        loss = loss * counted
    if smoothing:
        loss = loss * (1 - smoothing) + _spread(scores, at, scale) * smoothing
    if kept is None:
        return loss, counted
    nothing = array.zeros_like(loss)
    return array.where(kept, loss, nothing), array.where(kept, counted, nothing)


@located
def binary_cross_entropy(logits: Any, target: Any, *, reduction: str = "mean") -> Expr:
    """-t log sigmoid(x) - (1 - t) log sigmoid(-x), for logits x and targets t between 0 and 1."""
    x, t = _pair(logits, target)
    return _reduced(softplus(x) - x * t, reduction)


@located
def mse_loss(x: Any, target: Any, *, reduction: str = "mean") -> Expr:
    """(x - target)^2"""
    value, wanted = _pair(x, target)
    return _reduced(elementwise.square(value - wanted), reduction)


@located
def l1_loss(x: Any, target: Any, *, reduction: str = "mean") -> Expr:
    """|x - target|"""
    value, wanted = _pair(x, target)
    return _reduced(elementwise.abs(value - wanted), reduction)


@located
def huber_loss(x: Any, target: Any, *, delta: float = 1.0, reduction: str = "mean") -> Expr:
    """d^2 / 2 for |d| up to delta, then delta (|d| - delta / 2), d = x - target (Huber 1964)."""
    if not delta > 0:
        raise AttributeValueError(f"delta is a positive number, not {delta}; the loss for 0 is l1_loss")
    value, wanted = _pair(x, target)
    distance = elementwise.abs(value - wanted)
    near = array.clip(distance, None, delta)
    return _reduced(near * (distance - 0.5 * near), reduction)


@located
def smooth_l1_loss(x: Any, target: Any, *, beta: float = 1.0, reduction: str = "mean") -> Expr:
    """d^2 / (2 beta) for |d| up to beta, then |d| - beta / 2: huber_loss divided by beta, l1_loss where beta is 0."""
    if beta == 0:
        return l1_loss(x, target, reduction=reduction)
    return huber_loss(x, target, delta=beta, reduction=reduction) / beta


@located
def hinge_loss(x: Any, target: Any, *, reduction: str = "mean") -> Expr:
    """max(0, 1 - target x) for targets -1 and 1."""
    value, wanted = _pair(x, target)
    return _reduced(relu(1 - value * wanted), reduction)


@located
def kl_div(log_q: Any, p: Any, *, reduction: str = "mean") -> Expr:
    """p (log p - log q), 0 where p is 0; the first argument is log q."""
    q, given = _pair(log_q, p)
    safe = array.where(given > 0, given, array.ones_like(given))
    return _reduced(array.where(given > 0, given * (elementwise.log(safe) - q), array.zeros_like(given)), reduction)


@located
def cosine_similarity(x: Any, y: Any, *, axis: int = 1, eps: float = 1e-8) -> Expr:
    """x . y / (|x| |y|) along an axis; lengths count as eps at least."""
    a, b = match_dtypes(as_expr(x), as_expr(y))
    low = float(np.square(eps))
    lengths = [elementwise.sqrt(array.clip(array.sum(elementwise.square(v), axis), low, None)) for v in (a, b)]
    return array.sum(a * b, axis) / (lengths[0] * lengths[1])
