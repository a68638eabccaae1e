"""Text and pictures: stable, complete, and with derivative nodes told apart."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import graphir as gi

GOLDEN = Path(__file__).parent / "golden"
x, w = gi.input("rows", ("n", 4)), gi.input("weights", (4,))
_loss = gi.mean(gi.tanh(x @ w) ** 2)
BEFORE = gi.Graph({"loss": _loss})
AFTER = gi.append_gradients(BEFORE, wrt=["weights"])


def _in_a_new_process(code: str) -> str:
    """Interning shares nodes with all graphs that are alive, so a stable text is asked of a process of its own."""
    command = [sys.executable, "-c", f"import test_text_draw as t; import graphir as gi; {code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout


def test_text_is_the_golden_one() -> None:
    assert _in_a_new_process("print(t.AFTER.to_text(origins=False), end='')") == (GOLDEN / "loss.txt").read_text()


def test_a_golden_file_of_format_1_still_loads() -> None:
    loaded = gi.load(GOLDEN / "loss_v1.gir")
    assert loaded.digest == AFTER.digest
    code = "print(gi.load(t.GOLDEN / 'loss_v1.gir').to_text(origins=False), end='')"
    assert _in_a_new_process(code) == (GOLDEN / "loss.txt").read_text()


def test_text_names_lines_and_rules() -> None:
    lines = AFTER.to_text().splitlines()
    assert any("tanh" in line and "# test_text_draw.py:" in line for line in lines)
    derived = [line for line in lines if line.startswith("  %d")]
    assert len(derived) == sum(node.origin.kind == "vjp" for node in AFTER.nodes) > 0
    assert all("# vjp of " in line for line in derived)


def test_svg_has_every_node_and_tells_derivatives_apart() -> None:
    root = ET.fromstring(AFTER.to_svg())
    boxes = [e.get("class", "") for e in root.iter("{http://www.w3.org/2000/svg}rect")][:-3]
    assert len(boxes) == len(AFTER.nodes)
    assert sum("vjp" in kind for kind in boxes) == sum(node.origin.kind == "vjp" for node in AFTER.nodes)
    edges = [e for e in root.iter("{http://www.w3.org/2000/svg}path") if e.get("class") == "edge"]
    assert len(edges) == sum(len(set(node.inputs)) for node in AFTER.nodes)
    assert AFTER.to_svg() == AFTER.to_svg()
    assert str(Path(__file__).parent) not in AFTER.to_svg()


def test_dot_has_every_node_and_edge() -> None:
    dot = AFTER.to_dot()
    assert dot.count("[label=") == len(AFTER.nodes)
    assert dot.count(" -> ") == sum(len(node.inputs) for node in AFTER.nodes)


def test_a_picture_that_nobody_could_read_is_refused() -> None:
    value = gi.input("v")
    for _ in range(500):
        value = gi.sin(value)
    graph = gi.Graph({"out": value})
    with pytest.raises(gi.LimitError, match="to_text"):
        graph.to_svg()
    assert graph._repr_svg_() is None
