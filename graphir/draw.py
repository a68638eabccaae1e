"""Pictures of graphs: SVG by a layered layout, and Graphviz's dot. Derivative nodes are told apart.

Layers are longest paths from the leaves (Sugiyama, Tagawa, Toda 1981); within a layer nodes are ordered by the mean
position of their neighbours, swept down and up a few times. Nothing but the standard library is needed.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from graphir import walk
from graphir.errors import LimitError
from graphir.graph import FACES, Graph
from graphir.node import Node, describe
from graphir.sheet import scoped

LARGEST = 400
"""Most nodes in one picture; more cannot be read."""

HEIGHT = 34
"""Of a node's box."""
_SWEEPS, _DX, _DY = 6, 18, 74
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0,0L8,4L0,8z" fill="#7a828e"/></marker>'
)
"""The head of an edge."""
STYLE = scoped(
    "gf-graph",
    ".edge{fill:none;stroke:#7a828e;stroke-width:1.1}.box{stroke-width:1.4}.user{fill:#dbe9f9;stroke:#2f6db3}"
    ".leaf{fill:#e9e9ec;stroke:#6b7280}.vjp{fill:#fde6d3;stroke:#c2571a;stroke-dasharray:5 3}.pass{fill:#e5f3e3;stroke:#3f8f3a}"
    "text{font:12px sans-serif;text-anchor:middle;fill:#1b1f24}.type{font-size:9.5px;fill:#4b5563}.out{font-weight:bold}"
    ".left{text-anchor:start}",
    ".edge{stroke:#9aa4b2}.caption{fill:#e5e7eb}",
)
"""The style sheet."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the boxes of a graph's nodes are: their centres and widths, and the size of the whole."""

    centres: dict[Node, tuple[float, float]]
    widths: dict[Node, float]
    width: float
    height: float


def layout(graph: Graph, labels: Mapping[Node, tuple[str, str]] | None = None, least: float = 0.0) -> Layout:
    """Boxes in layers, each wide enough for its two lines of text: by default label and type."""
    layers = _order(graph, _layers(graph))
    texts = {node: (label(node), str(node.type)) for node in graph.nodes} | dict(labels or {})
    widths = {node: 16 + 6.6 * max(len(upper), len(lower) * 0.8) for node, (upper, lower) in texts.items()}
    spans = [sum(widths[n] + _DX for n in layer) for layer in layers]
    total = max([*spans, least])
    centres: dict[Node, tuple[float, float]] = {}
    for row, (layer, span) in enumerate(zip(layers, spans, strict=True)):
        left = (total - span) / 2
        for node in layer:
            centres[node] = (left + (widths[node] + _DX) / 2, 30 + row * _DY)
            left += widths[node] + _DX
    return Layout(centres, widths, total, 30 + len(layers) * _DY)


def to_svg(graph: Graph) -> str:
    """The picture as a self-contained SVG document; LimitError over 400 nodes."""
    _check_size(graph)
    placed = layout(graph, least=430.0)
    names = _output_names(graph)
    centre, total, height = placed.centres, placed.width, placed.height + 34
    body = [edge(centre[source], centre[node]) for node in graph.nodes for source in dict.fromkeys(node.inputs)]
    body += [_box(node, centre[node], placed.widths[node], names.get(node, [])) for node in graph.nodes]
    body.append(_legend(height - 22))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gf-graph" viewBox="0 0 {total:.0f} {height:.0f}" width="{total:.0f}" '
        f'height="{height:.0f}" role="img"><title>{escape(repr(graph))}</title><style>{STYLE}</style>'
        f"<defs>{TIP}</defs>{''.join(body)}</svg>\n"
    )


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's language."""
    number = {node: k for k, node in enumerate(graph.nodes)}
    names = _output_names(graph)
    lines = ["digraph graph_ {", "  node [shape=box, fontname=sans];"]
    for node, k in number.items():
        parts = [label(node), str(node.type), *(f"= {name}" for name in names.get(node, []))]
        text = "\\n".join(map(_quote, parts))
        style = ', style="dashed,filled", fillcolor="#fde6d3"' if node.origin.kind == "vjp" else ""
        lines.append(f'  n{k} [label="{text}"{style}];')
    lines += [f"  n{number[source]} -> n{k};" for node, k in number.items() for source in node.inputs]
    return "\n".join([*lines, "}"]) + "\n"


def _check_size(graph: Graph) -> None:
    if len(graph.nodes) > LARGEST:
        raise LimitError(
            f"the graph has {len(graph.nodes)} nodes; a picture shows at most {LARGEST}: "
            "select some outputs with graph.select([...]), or use to_dot() or to_text()"
        )


def label(node: Node) -> str:
    """What a node is called in its box."""
    if node.op.name == "input":
        return str(node.attr("name"))
    if node.op.name == "constant" and node.attr("value").array.size == 1:
        return f"{node.attr('value').array.item():g}"
    return node.op.name


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _output_names(graph: Graph) -> dict[Node, list[str]]:
    names: dict[Node, list[str]] = {}
    for name, node in graph.outputs.items():
        names.setdefault(node, []).append(name)
    return names


def _layers(graph: Graph) -> list[list[Node]]:
    """Nodes by longest path; leaves are pulled down to just above their first user."""
    depth: dict[Node, int] = {}
    for node in graph.nodes:
        depth[node] = 1 + max((depth[source] for source in node.inputs), default=-1)
    users = walk.consumers(graph.nodes)
    for node in graph.nodes:
        if not node.inputs and node in users:
            depth[node] = min(depth[user] for user in users[node]) - 1
    layers: list[list[Node]] = [[] for _ in range(1 + max(depth.values()))]
    for node in graph.nodes:
        layers[depth[node]].append(node)
    return layers


def _order(graph: Graph, layers: list[list[Node]]) -> list[list[Node]]:
    users = walk.consumers(graph.nodes)
    for sweep in range(_SWEEPS):
        place = {node: (k + 0.5) / len(layer) for layer in layers for k, node in enumerate(layer)}
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            mean = {n: _mean((n.inputs if sweep % 2 == 0 else users.get(n, ())), place, place[n]) for n in layer}
            layer.sort(key=mean.__getitem__)
            place |= {node: (k + 0.5) / len(layer) for k, node in enumerate(layer)}
    return layers


def _mean(neighbours: Iterable[Node], place: dict[Node, float], own: float) -> float:
    found = [place[node] for node in neighbours]
    return sum(found) / len(found) if found else own


def edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A curve from below one box to above another, given by their centres."""
    (x0, y0), (x1, y1) = start, end
    y0, y1 = y0 + HEIGHT / 2, y1 - HEIGHT / 2 - 1
    bend = (y1 - y0) / 2
    return (
        f'<path class="edge" marker-end="url(#tip)" '
        f'd="M{x0:.1f},{y0:.1f}C{x0:.1f},{y0 + bend:.1f} {x1:.1f},{y1 - bend:.1f} {x1:.1f},{y1:.1f}"/>'
    )


def _box(node: Node, centre: tuple[float, float], width: float, names: list[str]) -> str:
    x, y = centre
    kind = "leaf" if not node.inputs and node.origin.kind == "user" else node.origin.kind
    outputs = "".join(
        f'<text class="out caption" x="{x:.1f}" y="{y + 30 + 13 * k:.1f}">{escape(name)}</text>'
        for k, name in enumerate(names)
    )
    return (
        f'<g><title>{escape(tooltip(node))}</title><rect class="box {kind}" x="{x - width / 2:.1f}" '
        f'y="{y - HEIGHT / 2:.1f}" width="{width:.1f}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{x:.1f}" y="{y - 2:.1f}">{escape(label(node))}</text>'
        f'<text class="type" x="{x:.1f}" y="{y + 11:.1f}">{escape(str(node.type))}</text>{outputs}</g>'
    )


def tooltip(node: Node) -> str:
    """What the node is and who made it; folders are left out, since pictures travel."""
    where = node.origin.where
    return describe(node).replace(where, os.path.basename(where)) if where else describe(node)


def _legend(y: float) -> str:
    kinds = (("leaf", "leaf"), ("user", "written by the user"), ("vjp", "appended by grad"))
    parts = []
    for k, (kind, text) in enumerate(kinds):
        x = 14 + 30 * k + 72 * min(k, 1) + 130 * max(k - 1, 0)
        parts.append(f'<rect class="box {kind}" x="{x}" y="{y}" width="22" height="13" rx="3"/>')
        parts.append(f'<text class="caption left" x="{x + 28}" y="{y + 11}">{text}</text>')
    return f"<g>{''.join(parts)}</g>"


FACES["dot"] = to_dot
FACES["svg"] = to_svg
