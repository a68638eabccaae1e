"""The command line on ONNX files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

import graphir as gi


def gradfleet(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from scheduler.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


def test_gradients_from_onnx_to_onnx(tmp_path: Path) -> None:
    x, w = gi.input("x", ("rows", 3)), gi.input("w", (3,))
    gi.Graph({"loss": gi.mean((x @ w) ** 2)}).to_onnx(tmp_path / "model.onnx")
    out = gradfleet("grad", "model.onnx", "--wrt", "w", "-o", "grad.onnx", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    rows, weights = np.random.default_rng(0).normal(size=(5, 3)), np.array([1.0, -2.0, 0.5])
    loss, dw = onnxruntime.InferenceSession(tmp_path / "grad.onnx").run(None, {"x": rows, "w": weights})
    np.testing.assert_allclose(loss, np.mean((rows @ weights) ** 2), rtol=1e-12)
    np.testing.assert_allclose(dw, 2 * rows.T @ (rows @ weights) / 5, rtol=1e-12)
    facts = json.loads(gradfleet("show", "grad.onnx", "--json", cwd=tmp_path).stdout)
    assert facts["outputs"] == {"loss": "float64[]", "d_loss_d_w": "float64[3]"}
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "w.npy", weights)
    feeds = ["--feed", "x=x.npy", "--feed", "w=w.npy", "--chunk", "rows=2"]
    done = gradfleet("run", "grad.onnx", *feeds, "--workers", 1, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout)["d_loss_d_w"], dw, rtol=1e-12)


def test_a_bad_model_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("nothing")
    out = gradfleet("show", "bad.onnx", cwd=tmp_path)
    assert out.returncode == 2
    assert "FormatError" in out.stderr
    assert "Traceback" not in out.stderr
