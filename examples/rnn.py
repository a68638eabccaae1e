"""A recurrent network learns handwritten digits, its gradient cut along the examples and computed by two Ray workers.

It reads each image row by row: eight steps of eight pixels. Reverse mode keeps two of the eight states and computes
the others again (`checkpoints`). The scan over time is cut along "n": its body's axis rules allow that, and the
gradients of the weights, which the reverse scan sums over time, become partial sums.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

import graphir as gi

SIDE, HIDDEN, CLASSES = 8, 32, 10
DATA = Path(__file__).resolve().parent / "data"
SHAPES = {"w": (SIDE, HIDDEN), "u": (HIDDEN, HIDDEN), "b": (HIDDEN,), "v": (HIDDEN, CLASSES)}


def scores(x: gi.Expr, p: dict[str, gi.Expr]) -> gi.Expr:
    """Logits [n, 10] of images [n, 64]."""
    rows = gi.permute_dims(gi.reshape(x, ("n", SIDE, SIDE)), (1, 0, 2))
    first = gi.zeros(("n", HIDDEN))
    last, _ = gi.scan(lambda h, row: (gi.tanh(h @ p["u"] + row @ p["w"] + p["b"]), None), first, rows, checkpoints=2)
    return last @ p["v"]


def step(rate: float = 0.5) -> tuple[gi.Graph, gi.optim.Updates]:
    """Loss and accuracy, and the parameters after one step of gradient descent, with what it carries."""
    x, t = gi.input("x", ("n", SIDE * SIDE)), gi.input("t", ("n",), "int64")
    p = {name: gi.input(name, shape) for name, shape in SHAPES.items()}
    logits = scores(x, p)
    loss = gi.nn.cross_entropy(logits, t)
    accuracy = gi.mean(gi.astype(gi.argmax(logits, axis=1) == t, "float64"))
    updates = gi.optim.sgd(loss, list(p.values()), rate=rate)
    return gi.Graph({"loss": loss, "accuracy": accuracy, **updates.outputs}), updates


def start() -> dict[str, Any]:
    """Random weights, the recurrent ones orthogonal."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape) / np.sqrt(shape[0]) for name, shape in SHAPES.items()}
    return {**values, "u": np.linalg.qr(values["u"])[0], "b": np.zeros(HIDDEN)}


def main(steps: int) -> None:
    """Show the plan, train, and print loss and accuracy."""
    (graph, updates), path = step(), DATA / "digits_train.npz"
    feeds = {"x": gi.dataset(path, column="x"), "t": gi.dataset(path, column="t"), **start(), **updates.start}
    with gi.connect(workers=2) as client:
        print(client.plan(graph, feeds, workers=2).to_text())
        out = client.submit(graph, feeds, carry=updates.carry, steps=steps).result()
    print(f"after {steps} steps: loss {out['loss']:.4f}, accuracy {out['accuracy']:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
