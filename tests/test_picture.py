"""Pictures of plans: every node and step is there, derivatives are told apart, large plans are folded, text is escaped."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import graphir as gi
from graphir.partition import palette, picture
from graphir.partition.plan import Plan
from graphir.units import in_bytes
from scheduler.pipeline import compile
from tests.test_dag import small_parts, wide, with_gradient
from tests.test_partition import GRAPHS, N

SVG = "{http://www.w3.org/2000/svg}"


def parsed(plan: Plan) -> ET.Element:
    return ET.fromstring(plan.to_svg())


def boxes(root: ET.Element) -> list[set[str]]:
    """The classes of each node's box; the legend's are not in a group with a title."""
    groups = [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None]
    return [set(g.find(f"{SVG}rect").get("class", "").split()) for g in groups]  # type: ignore[union-attr]


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_is_a_box_and_every_step_a_panel(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(picture, "LARGEST", 1000)
    monkeypatch.setattr(picture, "MOST_OPEN", 100)
    plan = compile(GRAPHS[name], {"n": N}, cut=["n"], chunk={"n": 2})
    root = parsed(plan)
    shown = [step for step in plan.steps if step.kind != "combine"]
    assert len(boxes(root)) == sum(len(step.program) for step in shown)
    derived = sum(node.origin.kind == "vjp" for step in shown for node in step.program.nodes)
    assert sum("vjp" in kinds for kinds in boxes(root)) == derived
    panels = [r for r in root.iter(f"{SVG}rect") if "panel" in r.get("class", "")]
    assert len(panels) == len(plan.steps)
    assert [r.get("class", "").split()[1] for r in panels if "part" not in r.get("class", "")] == [
        step.kind for step in plan.steps
    ]


def test_no_two_panels_overlap_and_all_lie_inside() -> None:
    plan = compile(GRAPHS["both"], {"n": N}, chunk={"n": 2})
    root = parsed(plan)
    rectangles = [
        tuple(float(r.get(key, "nan")) for key in ("x", "y", "width", "height"))
        for r in root.iter(f"{SVG}rect")
        if "panel" in r.get("class", "")
    ]
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for k, (x, y, w, h) in enumerate(rectangles):
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        for a, b, c, d in rectangles[:k]:
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y


def test_a_large_plan_is_folded_and_says_how_much_goes_where() -> None:
    x, w = gi.input("x", ("n", 16)), gi.input("w", (16, 16))
    value = x
    for k in range(120):
        value = gi.tanh(value @ w + 0.1 * k)
    graph = gi.append_gradients(gi.Graph({"loss": gi.mean(value**2)}), "loss", ["w"])
    plan = compile(graph, {"n": 100_000})
    root = parsed(plan)
    large = max(plan.steps, key=lambda step: len(step.program))
    assert len(large.program) > picture.LARGEST
    assert len(boxes(root)) <= picture.LARGEST
    said = texts(root)
    assert any(line.startswith(f"{len(large.program)} node(s), ") for line in said)
    assert any("matmul" in line and "tanh" in line for line in said)
    assert in_bytes(16 * 16 * 16 * 8) in said  # the summands of dw from all chunks
    assert len(plan.to_svg()) < 100_000


def test_parts_have_colours_and_many_of_them_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, 3e-5)
    plan = compile(with_gradient(wide(6, 4, 60)), {})
    root = parsed(plan)
    colours = {r.get("class", "").split()[1] for r in root.iter(f"{SVG}rect") if "panel" in r.get("class", "")}
    assert len(colours) == min(picture.PARTS, len(plan.steps))
    assert (not boxes(root)) == (len(plan.steps) > picture.MOST_OPEN)


def test_what_is_not_cut_is_told_without_folders() -> None:
    x = gi.input("x", ("n", 8))
    plan = compile(gi.Graph({"gram": x @ x.T, "sorted": gi.sort(gi.sum(x, axis=1))}), {"n": 100})
    document = plan.to_svg()
    said = " ".join(texts(ET.fromstring(document)))
    assert "gathered: sort needs the whole of the axis" in said
    assert "test_picture.py:" in said
    assert str(Path(__file__).parent) not in document
    assert document == plan.to_svg()


def test_it_is_accessible_and_names_are_escaped() -> None:
    x = gi.input('<x & "y">', ("n",))
    root = parsed(compile(gi.Graph({"a<b": gi.sum(x)}), {"n": 50}))
    title, about = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert about is not None
    assert root.get("role") == "img"
    assert root.get("aria-labelledby", "").split() == [title.get("id"), about.get("id")]
    assert "'n' = 50" in (title.text or "")
    assert "map" in (about.text or "")
    assert '<x & "y">' in texts(root)
    assert any("a<b" in line for line in texts(root))


def luminance(colour: str) -> float:
    """As WCAG 2.2 defines it."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("colours", "text", "small", "back", "derived"),
    [
        (palette.LIGHT, "#1b1f24", "#4b5563", "#ffffff", "#c2571a"),
        (palette.DARK, "#e6e9ee", "#b6bec9", "#11161d", "#f59e66"),
    ],
)
def test_everything_can_be_told_by_contrast(
    colours: dict[str, tuple[str, str]], text: str, small: str, back: str, derived: str
) -> None:
    for fill, border in colours.values():
        assert contrast(fill, text) >= 4.5
        assert contrast(fill, small) >= 4.5
        assert contrast(fill, border) >= 3
        assert contrast(fill, derived) >= 3
        assert contrast(back, border) >= 3
    assert all(colour in palette.STYLE for colour in (text, small, back, derived))
