"""custom_vjp: the rule decides, to any order; evaluation and cutting see only the value."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.custom import without_markers

x, w = gi.input("x", ("n", 3)), gi.input("w", (3,))
FEEDS = {"x": np.random.default_rng(0).standard_normal((7, 3)), "w": np.array([0.3, -1.0, 2.0])}


def log1pexp(v: gi.Expr) -> gi.Expr:
    return gi.log1p(gi.exp(v))


def sigmoid_rule(ct: gi.Expr, value: gi.Expr, v: gi.Expr) -> list[gi.Expr]:
    return [ct * (1.0 - 1.0 / (1.0 + gi.exp(v)))]


softplus = gi.custom_vjp(log1pexp, sigmoid_rule)


def run(**outputs: gi.Expr) -> dict[str, Any]:
    return gi.evaluate(gi.Graph(outputs, inputs=[x, w]), FEEDS)


def test_a_stable_rule_agrees_with_the_plain_derivative_to_second_order() -> None:
    results = []
    for f in (softplus, log1pexp):
        loss = gi.sum(f(x @ w) ** 2)
        (first,) = gi.grad(loss, [w])
        (second,) = gi.hvp(loss, [w], [np.ones(3)])
        results.append(run(loss=loss, first=first, second=second))
    for name in results[0]:
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-10)


def test_the_rule_decides() -> None:
    straight = gi.custom_vjp(gi.floor, lambda ct, value, v: (ct * 3.0,), name="test.straight-through")
    (found,) = gi.grad(gi.sum(straight(w)), [w])
    assert run(g=found)["g"].tolist() == [3.0, 3.0, 3.0]
    large = gi.input("large")
    (stable,) = gi.grad(softplus(large), [large])
    assert gi.evaluate(gi.Graph({"g": stable}), {"large": 1000.0})["g"] == 1.0


def test_wrong_rules_are_named() -> None:
    short = gi.custom_vjp(lambda a, b: a * b, lambda ct, value, a, b: (ct,), name="test.short")
    with pytest.raises(gi.ShapeError, match=r"test.short gives 1 cotangents for 2"):
        gi.grad(gi.sum(short(w, w + 1.0)), [w])
    bent = gi.custom_vjp(gi.sin, lambda ct, value, v: (gi.sum(ct),), name="test.bent")
    with pytest.raises(gi.ShapeError, match=r"test.bent gives a cotangent of type float64\[\]"):
        gi.grad(gi.sum(bent(w)), [w])


def test_markers_vanish_where_nothing_is_differentiated() -> None:
    graph = gi.Graph({"out": gi.stop_gradient(softplus(x @ w))})
    plain = without_markers(graph)
    assert plain == gi.Graph({"out": log1pexp(x @ w)})


def test_a_saved_rule_is_found_by_its_name(tmp_path: Path) -> None:
    gi.Graph({"loss": gi.sum(softplus(x @ w))}).save(tmp_path / "g.gir")
    code = "import sys, graphir as gi\ntry:\n  gi.append_gradients(gi.load(sys.argv[1]), wrt=['w'])\nexcept gi.DisconnectedError as e: print(e)"
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "g.gir")], capture_output=True, text=True, check=True
    )
    assert "sigmoid_rule' is not known in this process" in out.stdout
    again = gi.append_gradients(gi.load(tmp_path / "g.gir"), wrt=["w"])
    assert list(again.outputs) == ["loss", "d_loss_d_w"]
