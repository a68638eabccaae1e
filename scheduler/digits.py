"""The demo's model: a two-layer network on the UCI handwritten digits, one step of gradient descent as a graph."""

from dataclasses import dataclass
from typing import Any

import numpy as np

import graphir as gi

PIXELS, HIDDEN, CLASSES = 64, 32, 10
SHAPES: dict[str, tuple[int, ...]] = {
    "w1": (PIXELS, HIDDEN),
    "b1": (HIDDEN,),
    "w2": (HIDDEN, CLASSES),
    "b2": (CLASSES,),
}
RATE = 0.5


@dataclass(frozen=True, slots=True)
class Training:
    """The graph of the loss alone, and the graph of one descent step with outputs "loss" and "{p}_next"."""

    forward: gi.Graph
    step: gi.Graph

    @property
    def carry(self) -> dict[str, str]:
        """Which output becomes which input of the next step."""
        return {name: f"{name}_next" for name in SHAPES}


def training() -> Training:
    """x: float32[n, 64] in [0, 1]; t: int64[n]; the parameters are float32."""
    x, t, weights = _inputs()
    logits = _logits(x, weights)
    picked = gi.take_along_axis(logits, t[:, None], axis=1)[:, 0]
    loss = gi.mean(gi.logsumexp(logits, axis=1) - picked)
    forward = gi.Graph({"loss": loss})
    gradients = gi.grad(loss, list(weights.values()))
    moved = {f"{name}_next": w - RATE * d for (name, w), d in zip(weights.items(), gradients, strict=True)}
    return Training(forward, forward.append(moved))


def accuracy() -> gi.Graph:
    """The fraction of rows whose most likely class is t, as output "accuracy"."""
    x, t, weights = _inputs()
    right = gi.argmax(_logits(x, weights), axis=1) == t
    return gi.Graph({"accuracy": gi.mean(gi.astype(right, "float64"))})


def start(seed: int = 0) -> dict[str, Any]:
    """Initial parameters: normal weights scaled by the square root of the fan-in, zero biases."""
    rng = np.random.default_rng(seed)
    return {
        "w1": (rng.standard_normal((PIXELS, HIDDEN)) / np.sqrt(PIXELS)).astype("float32"),
        "b1": np.zeros(HIDDEN, "float32"),
        "w2": (rng.standard_normal((HIDDEN, CLASSES)) / np.sqrt(HIDDEN)).astype("float32"),
        "b2": np.zeros(CLASSES, "float32"),
    }


def _inputs() -> tuple[gi.Expr, gi.Expr, dict[str, gi.Expr]]:
    x, t = gi.input("x", ("n", PIXELS), "float32"), gi.input("t", ("n",), "int64")
    return x, t, {name: gi.input(name, shape, "float32") for name, shape in SHAPES.items()}


def _logits(x: gi.Expr, weights: dict[str, gi.Expr]) -> gi.Expr:
    hidden = gi.tanh(x @ weights["w1"] + weights["b1"])
    return hidden @ weights["w2"] + weights["b2"]
