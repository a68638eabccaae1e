"""examples/minibatch.py: Adam on minibatches of real digits, held to PyTorch's on the same rows; and the command line."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import graphir as gi
from graphir import tensors
from graphir.partition.minibatch import permutation
from scheduler.cli import cli

ROOT = Path(__file__).resolve().parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minibatch_example", ROOT / "examples" / "minibatch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load()


def by_torch(rate: float, batch: int, steps: int, seed: int) -> dict[str, Any]:
    """The same network trained by torch.optim.Adam."""
    with np.load(example.DATA / "digits_train.npz") as data:
        x, t = torch.tensor(data["x"]), torch.tensor(data["t"])
    p = {name: torch.tensor(value, requires_grad=True) for name, value in example.start().items()}
    optimiser = torch.optim.Adam(p.values(), lr=rate)
    for step in range(steps):
        epoch, place = divmod(step, len(x) // batch)
        rows = torch.tensor(permutation(len(x), seed, epoch)[place * batch : (place + 1) * batch])
        optimiser.zero_grad()
        scores = torch.relu(x[rows] @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        torch.nn.functional.cross_entropy(scores, t[rows]).backward()
        optimiser.step()
    return {name: value.detach().numpy() for name, value in p.items()}


def test_it_learns_as_pytorch_does_on_the_same_rows(local_ray: None) -> None:
    (graph, updates), path = example.step(rate=1e-3), example.DATA / "digits_train.npz"
    feeds = {"x": gi.dataset(path, column="x"), "t": gi.dataset(path, column="t"), **example.start(), **updates.start}
    with gi.connect(workers=2) as client:
        job = client.submit(graph, feeds, carry=updates.carry, batch=128, epochs=2, shuffle=3, chunk={"n": 64})
        out = job.result(60)
    expected = by_torch(1e-3, 128, 22, seed=3)
    for name, value in expected.items():
        np.testing.assert_allclose(out[f"{name}_next"], value, rtol=1e-3, atol=2e-5)


def test_the_example_reaches_its_accuracy(local_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(epochs=12) > 0.95
    assert "128 of 1437 rows of 'n'" in capsys.readouterr().out


def test_gradfleet_run_takes_batches(local_ray: None, tmp_path: Path) -> None:
    x, w = gi.input("x", ("n", 3)), gi.input("w", (3,))
    gi.Graph({"w_next": w + gi.sum(x, axis=0), "rows": gi.size("n")}).save(tmp_path / "g.gir")
    rows = np.arange(60.0).reshape(20, 3)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "w.npy", np.zeros(3))
    command = ["run", f"{tmp_path}/g.gir", "--feed", f"x={tmp_path}/x.npy", "--feed", f"w={tmp_path}/w.npy"]
    options = [
        "--carry",
        "w=w_next",
        "--workers",
        "2",
        "--batch",
        "n=5",
        "--epochs",
        "2",
        "-o",
        f"{tmp_path}/out.safetensors",
    ]
    for order in (["--shuffle", "4"], ["--in-order"]):
        done = CliRunner().invoke(cli, [*command, *options, *order], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        out = tensors.open_file(tmp_path / "out.safetensors")
        np.testing.assert_allclose(out["w_next"], 2 * rows.sum(axis=0), rtol=1e-12)
        assert out["rows"] == 5
    told = CliRunner().invoke(cli, ["plan", *command[1:], "--batch", "n=6"], catch_exceptions=False)
    assert "takes 6 of 20 rows of 'n'" in told.output
    assert "2 left out" in told.output
