"""The demo's training on real digits has the same bits whatever evaluates it."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import graphir as gi
from scheduler import digits
from scheduler.driver.local import run_plan
from scheduler.driver.ray import RayPool
from scheduler.local import EmbeddedService
from scheduler.pipeline import compile

DATA = Path(__file__).resolve().parent.parent / "examples" / "data" / "digits_train.npz"
STEPS, CHUNK = 12, {"n": 256}


def feeds() -> dict[str, Any]:
    return {"x": gi.dataset(DATA, column="x"), "t": gi.dataset(DATA, column="t"), **digits.start()}


def trajectory(workers: int, steps: int = STEPS, kill: bool = False) -> tuple[list[float], dict[str, bytes]]:
    model = digits.training()
    with gi.connect(workers=workers) as client:
        job = client.submit(model.step, feeds(), carry=model.carry, steps=steps, chunk=CHUNK)
        losses, kinds = [], set()
        for event in job.events():
            kinds.add(event["type"])
            if event["type"] == "step_done":
                losses.append(dict(event["scalars"])["loss"])
                if kill and len(losses) == 1:
                    assert isinstance(client.service, EmbeddedService)
                    assert isinstance(client.service.pool, RayPool)
                    os.kill(client.service.pool.pids()[0], signal.SIGKILL)
        assert ("worker_lost" in kinds) == kill
        return losses, {name: value.tobytes() for name, value in job.result(60).items()}


@pytest.fixture(scope="module")
def reference() -> tuple[list[float], dict[str, bytes]]:
    """The local driver, which shares no code with the pools."""
    import numpy as np

    model = digits.training()
    plan = compile(model.step, {"n": 1437}, chunk=CHUNK)
    with np.load(DATA) as data:
        given: dict[str, Any] = {"x": data["x"], "t": data["t"], **digits.start()}
    losses = []
    for _ in range(STEPS):
        out = run_plan(plan, given)
        losses.append(float(out["loss"]))
        given |= {name: out[following] for name, following in model.carry.items()}
    return losses, {name: value.tobytes() for name, value in out.items()}


def test_the_loss_falls(reference: tuple[list[float], dict[str, bytes]]) -> None:
    assert reference[0] == sorted(reference[0], reverse=True)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_same_bits_for_any_pool(workers: int, local_ray: None, reference: tuple[list[float], dict[str, bytes]]) -> None:
    assert trajectory(workers) == reference


def test_same_bits_after_a_worker_is_killed(local_ray: None) -> None:
    assert trajectory(2, 400, kill=True) == trajectory(0, 400)
