"""The text of a plan holds what a bug report needs: versions, digest, sizes, inputs, each step, and what is not cut and why."""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir.partition.plan import Plan
from scheduler.outlook import with_outlook
from scheduler.pipeline import compile
from tests.test_dag import small_parts, wide, with_gradient

HERE = Path(__file__).name


def logistic() -> Plan:
    x, y, w = gi.input("x", ("n", 50), "float32"), gi.input("y", ("n",), "float32"), gi.input("w", (50,), "float32")
    z = x @ w
    loss = gi.mean(gi.logaddexp(z, gi.zeros_like(z)) - z * y)
    return compile(gi.append_gradients(gi.Graph({"loss": loss}), "loss", ["w"]), {"n": 1_000_000})


def batch_norm() -> Plan:
    x, g = gi.input("x", ("n", 32)), gi.input("g", (32,))
    y = gi.tanh((x - gi.mean(x, axis=0)) / (gi.std(x, axis=0) + 1e-5) * g)
    return compile(gi.append_gradients(gi.Graph({"loss": gi.mean(y**2)}), "loss", ["g"]), {"n": 100_000})


def gram() -> Plan:
    x = gi.input("x", ("n", 8))
    return compile(gi.Graph({"gram": x @ x.T, "sorted": gi.sort(gi.sum(x, axis=1))}), {"n": 1000})


def parts() -> Plan:
    return compile(with_gradient(wide(6, 4, 60)), {})


def nothing() -> Plan:
    a = gi.input("a", (3,))
    return compile(gi.Graph({"s": gi.sum(gi.sin(a))}), {})


CASES: dict[Callable[[], Plan], tuple[str, ...]] = {
    logistic: (
        "cut along 'n' = 1000000 into 16 chunk(s)",
        "input 'x': float32[n, 50], 200 MB, in slices of axis 0 along 'n'",
    ),
    batch_norm: ("3 map stage(s)", "a new stage because it needs float64[", "considered: "),
    gram: (
        "gathered: sort needs the whole of the axis: sort(float64[n]",
        f"{HERE}:",
        "gathered: an operand of matmul is needed whole",
    ),
    parts: ("not cut: no dimension is named", "is divided into", "input 'x': float64[60, 60], 28.8 kB, whole"),
    nothing: ("not cut: no dimension is named", "single 0: 3 nodes -> float64[], 8 bytes"),
}


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_five_plans_say_all_that_a_report_needs(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Plan]) -> None:
    small_parts(monkeypatch, 3e-5)
    plan = make()
    text = with_outlook(plan, 2, {}).to_text()
    sizes = ", ".join(f"{name} = {size}" for name, size in plan.sizes.items()) or "none"
    always = (
        f"numpy {np.__version__}, Python {platform.python_version()}",
        f"graph {plan.graph.digest}, sizes: {sizes}",
        f"{len(plan.graph)} nodes in {len(plan.steps)} steps",
        "an iteration, by assumed rates",
        "of values on a worker",
    )
    for part in (*always, *CASES[make]):
        assert part in text
    steps = [line for line in text.splitlines() if line.split()[0] in ("map", "combine", "single")]
    assert len(steps) == min(len(plan.steps), 100)


def test_what_is_forbidden_is_not_called_missing() -> None:
    x = gi.input("x", ("n", 8))
    assert "not cut: cutting 'n' is forbidden" in compile(gi.Graph({"s": gi.sum(x)}), {"n": 10}, cut=[]).to_text()
