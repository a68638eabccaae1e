"""The command line, called as users call it: real files, real Ray, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir import tensors
from scheduler.options import dataset_of

ROOT = Path(__file__).resolve().parent.parent


def gradfleet(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from scheduler.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    x, w = gi.input("x", ("rows", 3)), gi.input("w", (3,))
    loss = gi.mean((x @ w) ** 2)
    path = tmp_path / "model.gir"
    gi.Graph({"loss": loss}).save(path)
    return path


def test_grad_appends_and_show_prints(model: Path, tmp_path: Path) -> None:
    out = gradfleet("grad", model, "--wrt", "w", "-o", "grad.gir", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    before, after = gi.load(model), gi.load(tmp_path / "grad.gir")
    assert after.nodes[: len(before.nodes)] == before.nodes
    assert list(after.outputs) == ["loss", "d_loss_d_w"]
    shown = gradfleet("show", "grad.gir", "--svg", "out.svg", cwd=tmp_path)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert len(lines) == 1 + len(after.nodes) + len(after.outputs) + 1  # a blank line ends it
    assert "# vjp of matmul at test_cli.py:" in shown.stdout
    assert (tmp_path / "out.svg").read_text().startswith("<svg")
    facts = json.loads(gradfleet("show", "grad.gir", "--json", cwd=tmp_path).stdout)
    assert facts["digest"] == after.digest


def test_run_evaluates_on_ray(model: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((20, 3))
    weights = np.array([1.0, -2.0, 0.5])
    (tmp_path / "w.safetensors").write_bytes(tensors.write({"w": weights}, {}))
    for number in range(4):
        np.save(tmp_path / f"x-{number}.npy", rows[5 * number : 5 * number + 5])
    feeds = ["--feed", "x=x-*.npy", "--feed", "w=w.safetensors:w", "--chunk", "rows=6"]
    out = gradfleet("run", model, *feeds, "--workers", 1, "-o", "out.safetensors", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    loss = tensors.open_file(tmp_path / "out.safetensors")["loss"]
    np.testing.assert_allclose(loss, np.mean((rows @ weights) ** 2), rtol=1e-13)


@pytest.mark.parametrize(
    ("text", "url", "column"),
    [
        ("a.npy", "a.npy", None),
        ("a.npz:x", "a.npz", "x"),
        ("w.safetensors:enc/w", "w.safetensors", "enc/w"),
        ("a.npz:x,y", "a.npz", "x,y"),
        ("s3://bucket/x.npy", "s3://bucket/x.npy", None),
        ("http://host:80/a.npy", "http://host:80/a.npy", None),
        ("http://host:80/a.npz:x", "http://host:80/a.npz", "x"),
        ("file:///d/*.parquet:a,b", "file:///d/*.parquet", ("a", "b")),
        ("s3://bucket/d.parquet/:a", "s3://bucket/d.parquet/", "a"),
        ("part-*:a,b", "part-*", ("a", "b")),
    ],
)
def test_files_and_columns_of_feeds(text: str, url: str, column: str | tuple[str, ...] | None) -> None:
    assert dataset_of(text) == gi.Dataset(url, column)


def test_a_colon_in_the_name_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz:x"
    path.write_bytes(b"")
    assert dataset_of(str(path)) == gi.Dataset(str(path))


def test_simulate_says_what_an_imagined_cluster_would_do(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4000, 3)))
    np.save(tmp_path / "w.npy", np.ones(3))
    feeds = ["--feed", "x=x.npy", "--feed", "w=w.npy", "--chunk", "rows=40"]
    out = gradfleet("simulate", model, *feeds, "--workers", 1000, "--json", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    facts = json.loads(out.stdout)
    assert (facts["chunks"], facts["workers"], facts["ranks"]) == (100, 1000, 100)
    slow = gradfleet("simulate", model, *feeds, "--workers", 1000, "--latency", 50, "--json", cwd=tmp_path)
    assert json.loads(slow.stdout)["seconds"] > facts["seconds"] + 0.05
    told = gradfleet("plan", model, *feeds, "--workers", 8, "--svg", "plan.svg", cwd=tmp_path).stdout
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")
    assert "on 8 worker(s)" in told
    assert "of values on a worker" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "missing.gir"], "missing.gir"),
        (["show", "text.gir"], "FormatError"),
        (["grad", "model.gir", "--of", "nothing", "-o", "g.gir"], "DisconnectedError"),
        (["run", "model.gir", "--feed", "x"], "NAME=VALUE"),
        (["nonsense"], "No such command"),
    ],
)
def test_bad_usage_exits_with_2(model: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "text.gir").write_text("not a graph")
    out = gradfleet(*arguments, cwd=tmp_path)
    assert out.returncode == 2
    assert said in out.stderr
    assert "Traceback" not in out.stderr


def test_demo_reaches_its_goal(tmp_path: Path) -> None:
    out = gradfleet("demo", "--output", tmp_path / "demo", cwd=ROOT)
    assert out.returncode == 0, out.stderr
    assert "held-out accuracy:" in out.stdout
    assert (tmp_path / "demo" / "step.svg").read_text().startswith("<svg")
    assert json.loads((tmp_path / "demo" / "trace.json").read_text())["traceEvents"]
