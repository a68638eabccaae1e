"""The Deep Learning book's figure 6.10: symbol-to-symbol derivatives of z = f(f(f(w)))."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import pytest

import graphir as gi
from graphir.node import REGISTRY

_PATH = Path(__file__).parent.parent / "examples" / "figure_6_10.py"
_SPEC = importlib.util.spec_from_file_location("figure_6_10", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
figure = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(figure)

FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "sin": (gi.sin, mpmath.sin),
    "gauss": (lambda x: gi.exp(-x * x), lambda x: mpmath.exp(-x * x)),
    "tanh": (gi.tanh, mpmath.tanh),
    "log1p": (lambda x: gi.log1p(x * x), lambda x: mpmath.log(1 + x * x)),
    "atan": (gi.atan, mpmath.atan),
}


def test_building_touches_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a kernel ran while a graph was built")

    for op in REGISTRY.values():
        monkeypatch.setattr(op, "kernel", refuse)
    graph = gi.append_gradients(figure.chain(), "z")
    assert list(graph.outputs) == ["z", "d_z_d_w"]
    with pytest.raises(AssertionError, match="a kernel ran"):
        gi.evaluate(graph, {"w": 0.5})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_three_derivatives_agree_with_mpmath(name: str) -> None:
    f, exact = FUNCTIONS[name]
    graph = figure.chain(f)
    w = gi.Expr(graph.inputs["w"])
    z = gi.Expr(graph.outputs["z"])
    derivatives = {}
    for order in (1, 2, 3):
        (z,) = gi.grad(z, [w])
        derivatives[str(order)] = z
    extended = graph.append(derivatives)
    with mpmath.workdps(50):
        for point in (-1.3, -0.4, 0.25, 0.9, 1.7):
            found = gi.evaluate(extended, {"w": point})
            for order in (1, 2, 3):
                expected = mpmath.diff(lambda t: exact(exact(exact(t))), mpmath.mpf(point), order)
                error = abs(mpmath.mpf(float(found[str(order)])) - expected)
                assert error <= 1e-12 * max(1, abs(expected)), (name, order, point)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_original_nodes_stay_a_prefix(name: str) -> None:
    graph = figure.chain(FUNCTIONS[name][0])
    extended = gi.append_gradients(graph, "z")
    assert extended.nodes[: len(graph.nodes)] == graph.nodes
    made = [
        node for node in extended.nodes[len(graph.nodes) :] if node.inputs
    ]  # constants belong to whoever made them first
    assert made
    assert all(node.origin.kind == "vjp" for node in made)


def test_example_prints_and_draws(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figure.main(tmp_path / "figure.svg")
    assert "with dz/dw" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "figure.svg").read_text()
