"""The workloads of one machine: every library's form of a model is the same model, and the page says what was measured."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.__main__ as page
from benchmarks import by_hand, single, single_page
from benchmarks.single_peers import Jax, Oracle, Ours
from benchmarks.workloads import WORKLOADS, Reference, Workload

SMALL = {
    "softmax": (40, 6, 3), "network": (30, 8, 5, 3), "chain": (50,), "logistic": (60, 4), "poisson": (50, 3),
    "swish": (20, 7), "convolutional": (3, 16, 2, 3), "transformer": (2, 5, 64), "recurrent": (6, 4, 3), "rosenbrock": (8,),
}  # fmt: skip


def small(family: str, kind: str = "gradient") -> Workload:
    return Workload(family, family, family, "float64", SMALL[family], kind)


CASES = [small(family) for family in SMALL] + [small("network", "hvp"), small("rosenbrock", "hessian")]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("w", CASES, ids=lambda w: f"{w.family}-{w.kind}")
def test_ours_agrees_with_pytorch_and_numpy(w: Workload) -> None:
    arrays = w.arrays()
    wanted = [np.asarray(value) for value in Oracle().prepare(w, arrays)()]
    found = [np.asarray(value) for value in Ours().prepare(w, arrays)()]
    assert np.isclose(wanted[0], w.loss(Reference(), arrays))
    assert single.distance(found, wanted) < 1e-9
    form = by_hand.FORMS.get((w.family, w.kind))
    if form is not None:
        assert single.distance([np.asarray(value) for value in form(arrays)()], wanted) < 1e-9


def test_a_product_with_the_hessian_has_its_vectors() -> None:
    w = replace(WORKLOADS["W8"], sizes=SMALL["network"])
    arrays = w.arrays()
    assert all(arrays[f"v{name}"].shape == arrays[name].shape for name in w.wrt)


def test_a_peer_that_is_wrong_has_no_figure() -> None:
    assert single.distance([np.zeros(2)], [np.zeros(3)]) == float("inf")
    assert single.distance(
        [np.array(1.0), np.array([1.0, 2.2])], [np.array(1.0), np.array([1.0, 2.0])]
    ) == pytest.approx(0.1)


def rows() -> list[single.Row]:
    cells = {
        "gradfleet": single.Cell(samples=[0.002, 0.001, 0.003], first=0.1, memory=5),
        "gradfleet by LLVM": single.Cell(samples=[0.001], first=0.2, memory=6),
        "JAX": single.Cell(samples=[0.004], first=0.5, memory=50),
        "CasADi": single.Cell(why="made for scalars and small graphs"),
    }
    return [single.Row(WORKLOADS["W1"], cells, [10.0])]


def test_the_page_names_the_best_peer_and_who_is_missing() -> None:
    text = single_page.tables(rows())
    assert "| 2 | 1 | 4 | JAX | 2.00 | 4.00 | 10 |" in text
    assert "- CasADi: made for scalars and small graphs (W1)" in text


def test_what_is_measured_in_pieces_comes_together(tmp_path: Path) -> None:
    path, (row,) = tmp_path / "rows.json", rows()
    again = single.Row(row.workload, {"JAX": single.Cell(samples=[0.0005])}, [11.0], "divide")
    single.keep([single.Row(WORKLOADS["W9"], dict(row.cells), [9.0]), row], path)
    single.keep([again], path)
    first, ninth = single.kept(path)
    assert (first.workload, ninth.workload) == (WORKLOADS["W1"], WORKLOADS["W9"])
    assert first.cells == row.cells | again.cells
    assert list(first.cells) == ["gradfleet", "gradfleet by LLVM", "JAX", "CasADi"]
    assert ninth.cells == row.cells
    text = single_page.tables([first, ninth])
    assert "| JAX | 0.25 | 0.50 | 11 |" in text
    assert "```text\ndivide\n```" in text


def test_our_processes_tell_their_profile() -> None:
    maker = Ours()
    w = small("softmax")
    maker.prepare(w, w.arrays())
    assert "ms a run" in maker.profile()
    assert Jax().profile() == ""


def test_the_picture_has_a_dot_for_each_time() -> None:
    root = ElementTree.fromstring(single_page.picture(rows()))
    dots = [e for e in root.iter() if e.tag.endswith("circle") and e.find("*") is not None]
    assert len(dots) == 2
    assert "JAX: 4 ms, ours 2 ms" in "".join(dots[1].itertext())


def test_a_section_is_written_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    sections = {"a": ("## First\n\nWords.", lambda: ("new", {"a.svg": "<svg/>"})), "b": ("## Second", lambda: "never")}
    monkeypatch.setattr(page, "SECTIONS", sections)
    monkeypatch.setattr(page, "machine", lambda: "a machine")
    before = "# Performance\n\nold\n\n## First\n\nold\n\n## Second\n\nkept\n"
    text, pictures = page.written(before, ["a"])
    assert pictures == {"a.svg": "<svg/>"}
    assert text.endswith("## First\n\nWords.\n\n`python -m benchmarks a`:\n\nnew\n\n## Second\n\nkept\n")
    assert "a machine" in text
    assert text.count("old") == 0


@pytest.mark.slow
def test_processes_are_compared_and_timed_in_turn() -> None:
    w = WORKLOADS["rosenbrock"]
    row = single.measured(w, ["gradfleet", "JAX", "NumPy by hand"], rounds=2)
    assert {peer: len(cell.samples) for peer, cell in row.cells.items()} == dict.fromkeys(row.cells, 2), row
    assert all(cell.error < w.tolerance and cell.first > 0 for cell in row.cells.values())
    assert Jax.needs == "jax"
