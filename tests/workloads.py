"""Small models as people write them, with plain numbers as sizes: value and gradients, and the size of their rows' axis."""

from collections.abc import Callable
from typing import Any

import numpy as np

import graphir as gi


def _with_gradients(loss: Any, weights: list[Any]) -> gi.Graph:
    gradients = gi.grad(loss, weights)
    return gi.Graph({"loss": loss, **{f"d{k}": gradient for k, gradient in enumerate(gradients)}})


def _cross_entropy(logits: Any, labels: Any, rows: int) -> Any:
    top = np.max(logits, axis=1, keepdims=True)
    total = np.log(np.sum(np.exp(logits - top), axis=1)) + top[:, 0]
    return np.mean(total - logits[np.arange(rows), labels])


def logistic(rows: int = 40, columns: int = 5, dtype: str = "float64") -> tuple[gi.Graph, int]:
    x, y, w = gi.input("x", (rows, columns), dtype), gi.input("y", (rows,), dtype), gi.input("w", (columns,), dtype)
    return _with_gradients(np.mean(np.log1p(np.exp(-y * (x @ w)))), [w]), rows


def softmax(rows: int = 40, columns: int = 7, classes: int = 4, dtype: str = "float64") -> tuple[gi.Graph, int]:
    x, w = gi.input("x", (rows, columns), dtype), gi.input("w", (columns, classes), dtype)
    return _with_gradients(_cross_entropy(x @ w, gi.input("k", (rows,), "int64"), rows), [w]), rows


def network(rows: int = 40, width: int = 6, dtype: str = "float64") -> tuple[gi.Graph, int]:
    x = gi.input("x", (rows, 7), dtype)
    shapes = ((7, width), (width,), (width, width), (width,), (width, 4), (4,))
    weights = [gi.input(f"w{k}", shape, dtype) for k, shape in enumerate(shapes)]
    hidden = np.maximum(x @ weights[0] + weights[1], 0)
    hidden = np.maximum(hidden @ weights[2] + weights[3], 0)
    logits = hidden @ weights[4] + weights[5]
    return _with_gradients(_cross_entropy(logits, gi.input("k", (rows,), "int64"), rows), weights), rows


def second_order(rows: int = 40) -> tuple[gi.Graph, int]:
    """A Hessian-vector product."""
    x, w, u = gi.input("x", (rows, 7)), gi.input("w", (7, 3)), gi.input("u", (3, 2))
    loss = gi.mean(gi.tanh(gi.tanh(x @ w) @ u) ** 2)
    products = gi.hvp(loss, [w, u], [gi.input("vw", (7, 3)), gi.input("vu", (3, 2))])
    return gi.Graph({"loss": loss, "hw": products[0], "hu": products[1]}), rows


def attention(batch: int = 9, length: int = 5, width: int = 8, heads: int = 2) -> tuple[gi.Graph, int]:
    x, weights = gi.input("x", (batch, length, width)), gi.input("w", (width, 3 * width))
    scale, out = gi.input("scale", (width,)), gi.input("out", (width, width))
    centred = (x - np.mean(x, axis=-1, keepdims=True)) * scale
    parts = np.reshape(centred @ weights, (batch, length, 3, heads, width // heads))
    q, k, v = (np.transpose(parts[:, :, i], (0, 2, 1, 3)) for i in range(3))
    scores = gi.nn.softmax(np.matmul(q, np.transpose(k, (0, 1, 3, 2))), axis=-1)
    joined = np.reshape(np.transpose(np.matmul(scores, v), (0, 2, 1, 3)), (batch, length, width))
    return _with_gradients(np.mean((x + joined @ out) ** 2), [weights, scale, out]), batch


def recurrent(rows: int = 12, steps: int = 5, width: int = 3) -> tuple[gi.Graph, int]:
    """A scan over time."""
    x, w = gi.input("x", (steps, rows, width)), gi.input("w", (width, width))
    start = gi.zeros((rows, width))
    last, _ = gi.scan(lambda state, now: (gi.tanh(state @ w + now), None), start, x)
    return _with_gradients(gi.mean(last**2), [w]), rows


def batch_norm(rows: int = 30, width: int = 4) -> tuple[gi.Graph, int]:
    """Several stages: each needs sums over all rows of the one before."""
    x, w = gi.input("x", (rows, 6)), gi.input("w", (6, width))
    hidden = x @ w
    normal = (hidden - gi.mean(hidden, axis=0)) / gi.sqrt(gi.var(hidden, axis=0) + 1e-3)
    return _with_gradients(gi.mean(gi.tanh(normal) ** 2) + gi.sum(gi.softmax(normal[:, 0]) ** 2), [w]), rows


WORKLOADS: dict[str, Callable[[], tuple[gi.Graph, int]]] = {
    "logistic regression": logistic,
    "softmax regression": softmax,
    "network": network,
    "Hessian-vector product": second_order,
    "attention": attention,
    "recurrent network": recurrent,
    "batch normalisation": batch_norm,
}


def values_for(graph: gi.Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds: labels below 4, otherwise normal numbers."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, node in graph.inputs.items():
        shape, kind = node.type.bind({}), node.type.dtype.kind
        found[name] = rng.integers(0, 4, shape) if kind == "i" else rng.normal(size=shape).astype(node.type.dtype.name)
    return found
