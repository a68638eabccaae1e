"""A two-layer network learns handwritten digits by Adam on minibatches, with the parameters kept on two Ray workers.

An epoch goes over the rows in an order of its own, a function of the seed and the epoch: run it again, with other workers or
after a restart, and every bit is the same.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

import graphir as gi

PIXELS, HIDDEN, CLASSES = 64, 64, 10
DATA = Path(__file__).resolve().parent / "data"
SHAPES = {"w1": (PIXELS, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}


def logits(x: gi.Expr, p: dict[str, gi.Expr]) -> gi.Expr:
    """Scores [n, 10] of images [n, 64]."""
    return gi.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def step(rate: float = 3e-3) -> tuple[gi.Graph, gi.optim.Updates]:
    """The loss of a batch, and the parameters after one step of Adam, with what it carries."""
    x, t = gi.input("x", ("n", PIXELS), "float32"), gi.input("t", ("n",), "int64")
    p = {name: gi.input(name, shape, "float32") for name, shape in SHAPES.items()}
    loss = gi.nn.cross_entropy(logits(x, p), t)
    updates = gi.optim.adam(loss, list(p.values()), rate=rate)
    return gi.Graph({"loss": loss, **updates.outputs}), updates


def start() -> dict[str, Any]:
    """Random weights, zero biases."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape) * np.sqrt(2 / shape[0]) for name, shape in SHAPES.items()}
    return {name: (v if v.ndim == 2 else np.zeros(v.shape)).astype("float32") for name, v in values.items()}


def accuracy(parameters: dict[str, Any]) -> float:
    """The share of held-out images that are told right."""
    x, t = gi.input("x", ("n", PIXELS), "float32"), gi.input("t", ("n",), "int64")
    p = {name: gi.input(name, shape, "float32") for name, shape in SHAPES.items()}
    right = gi.mean(gi.astype(gi.argmax(logits(x, p), axis=1) == t, "float64"))
    with np.load(DATA / "digits_test.npz") as held_out:
        feeds = {"x": held_out["x"], "t": held_out["t"], **parameters}
    return float(gi.evaluate(gi.Graph({"accuracy": right}), feeds)["accuracy"])


def main(epochs: int, workers: int = 2) -> float:
    """Show how a batch is cut, train, and print what the held-out images say."""
    (graph, updates), path = step(), DATA / "digits_train.npz"
    feeds = {"x": gi.dataset(path, column="x"), "t": gi.dataset(path, column="t"), **start(), **updates.start}
    with gi.connect(workers=workers) as client:
        print(client.plan(graph, feeds, workers=2, carry=updates.carry, batch={"n": 128}, chunk={"n": 64}).to_text())
        job = client.submit(graph, feeds, carry=updates.carry, batch={"n": 128}, epochs=epochs, chunk={"n": 64})
        out = job.result()
    reached = accuracy({name: out[f"{name}_next"] for name in SHAPES})
    print(f"after {epochs} epochs: loss of the last batch {out['loss']:.4f}, held-out accuracy {reached:.4f}")
    return reached


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
