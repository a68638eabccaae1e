"""The script of docs/service.md, as a newcomer runs it: serve, submit, watch, kill the server in the middle, result."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphir import tensors
from tests.documents import blocks_of, in_bash
from tests.served import ENVIRONMENT, ROOT

STEPS = 3000


def block(language: str) -> str:
    """The first one of a language."""
    return next(each.code for each in blocks_of(ROOT / "docs" / "service.md") if each.language == language)


def oracle() -> tuple[float, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(1000, 8))
    t, w, loss = x @ np.arange(8.0), np.zeros(8), 0.0
    for _ in range(STEPS):
        error = x @ w - t
        loss, w = float(np.mean(error**2)), w - 0.01 * 2 * x.T @ error / len(t)
    return loss, w


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_script_of_the_documentation(tmp_path: Path, workers: int) -> None:
    subprocess.run([sys.executable, "-c", block("python")], cwd=tmp_path, env=ENVIRONMENT, check=True)
    done = in_bash(
        block("sh") + "\nwait $server\n", tmp_path, GRADFLEET_DIRECTORY=str(tmp_path / "kept"), WORKERS=str(workers)
    )
    assert "succeeded, step 3000 of 3000" in done.stderr
    found, (loss, w) = tensors.read((tmp_path / "out.safetensors").read_bytes()), oracle()
    np.testing.assert_allclose(found["w_next"], w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-6, atol=1e-12)
