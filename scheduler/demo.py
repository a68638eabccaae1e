"""`gradfleet demo`: train on real digits on an embedded Ray, and show each thing the system does on the way."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import graphir as gi
from graphir.errors import DatasetError, GraphError
from scheduler import digits

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
GOAL = 0.95
"""Held-out accuracy below which the demo reports failure."""


def run(workers: int, steps: int, output: Path | None, data: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train, tell how it goes, write the picture and the trace; what came of it."""
    train, test = data / "digits_train.npz", data / "digits_test.npz"
    for path in (train, test):
        if not path.exists():
            raise DatasetError(f"{path} is missing; run from a checkout, or pass --data with the folder that has it")
    folder = Path(tempfile.mkdtemp(prefix="gradfleet-demo-")) if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    model = digits.training()
    derived = sum(node.origin.kind == "vjp" for node in model.step.nodes)
    tell(f"graph of the loss:       {len(model.forward)} nodes")
    tell(f"after grad and update:   {len(model.step)} nodes, {derived} of them made by derivative rules")
    feeds = {
        "x": gi.dataset(train, column="x"),
        "t": gi.dataset(train, column="t"),
        **digits.start(),
    }
    with gi.connect(workers=workers) as client:
        plan = client.plan(model.step, feeds, workers=workers, chunk={"n": 256})
        tell(plan.to_text())
        job = client.submit(model.step, feeds, carry=model.carry, steps=steps, chunk={"n": 256}, name="digits")
        job.progress()
        out = job.result()
        job.timeline(folder / "trace.json")
    (folder / "step.svg").write_text(model.step.to_svg())
    parameters = {name: out[following] for name, following in model.carry.items()}
    reached = _accuracy(test, parameters)
    tell(f"loss after {steps} steps:    {float(out['loss']):.4f}")
    tell(f"held-out accuracy:       {reached:.4f} (goal {GOAL})")
    tell(f"picture of the graph:    {folder / 'step.svg'}")
    tell(f"trace of the run:        {folder / 'trace.json'}")
    if reached < GOAL:
        raise GraphError(f"the held-out accuracy {reached:.4f} is below {GOAL}; train longer with --steps")
    return {
        "nodes": len(model.step), "derived": derived, "steps": steps, "loss": float(out["loss"]), "accuracy": reached,
        "goal": GOAL, "picture": str(folder / "step.svg"), "trace": str(folder / "trace.json"),
    }  # fmt: skip


def _accuracy(path: Path, parameters: dict[str, np.ndarray[Any, Any]]) -> float:
    with np.load(path) as held_out:
        feeds = {"x": held_out["x"], "t": held_out["t"], **parameters}
    return float(gi.evaluate(digits.accuracy(), feeds)["accuracy"])
