"""The script of docs/service.md, as a newcomer runs it: serve, submit, watch, kill the server in the middle, result."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphir import tensors
from tests.served import ENVIRONMENT, ROOT

STEPS = 3000


def blocks(kind: str) -> str:
    return "\n".join(re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / "service.md").read_text(), re.DOTALL))


def oracle() -> tuple[float, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(1000, 8))
    t, w, loss = x @ np.arange(8.0), np.zeros(8), 0.0
    for _ in range(STEPS):
        error = x @ w - t
        loss, w = float(np.mean(error**2)), w - 0.01 * 2 * x.T @ error / len(t)
    return loss, w


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_script_of_the_documentation(tmp_path: Path, workers: int) -> None:
    command = tmp_path / "bin" / "gradfleet"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom scheduler.cli import main\nmain()\n")
    command.chmod(0o755)
    subprocess.run([sys.executable, "-c", blocks("py")], cwd=tmp_path, env=ENVIRONMENT, check=True)
    with socket.socket() as held:  # the port stays ours while nobody listens on it
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        serve = f"gradfleet serve --port {port} --workers {workers}"
        script = "set -eu\n" + blocks("sh").replace("gradfleet serve", serve)
        places = {"GRADFLEET_DIRECTORY": str(tmp_path / "kept"), "GRADFLEET_URL": f"http://127.0.0.1:{port}"}
        path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script + "\nwait $server\n"], cwd=tmp_path, env={**ENVIRONMENT, **places, "PATH": path},
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "succeeded, step 3000 of 3000" in done.stderr
    found, (loss, w) = tensors.read((tmp_path / "out.safetensors").read_bytes()), oracle()
    np.testing.assert_allclose(found["w_next"], w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-6, atol=1e-12)
