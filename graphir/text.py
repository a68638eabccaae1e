"""The stable text of a graph: one line a node, numbered in order, the same in every process."""

import os
from collections.abc import Iterable
from typing import Any

from graphir.body import Body
from graphir.graph import FACES, Graph
from graphir.node import Node

MARK = "d"
"""Put before the number of a node that a derivative rule made."""


def numbers(graph: Graph) -> dict[Node, str]:
    """The label of every node: %3, or %d3 where a derivative rule made it."""
    return {node: f"%{MARK if node.origin.kind == 'vjp' else ''}{k}" for k, node in enumerate(graph.nodes)}


def to_text(graph: Graph, *, origins: bool = True) -> str:
    """Inputs, nodes and outputs; with `origins`, each node's source line behind a #."""
    lines = _lines(graph, origins)
    for body in _bodies(graph.nodes):
        inner = Graph({str(k): node for k, node in enumerate(body.outputs)}, inputs=body.inputs)
        lines += [f"{body!r}:", *(f"  {line}" for line in _lines(inner, origins))]
    return "\n".join(lines) + "\n"


def _bodies(nodes: Iterable[Node]) -> list[Body]:
    """Every body inside the nodes' attributes and inside those bodies, once each."""
    found: dict[Body, None] = {}
    waiting = list(nodes)
    while waiting:
        new = [value for node in waiting for _, value in node.attrs if isinstance(value, Body) and value not in found]
        found.update(dict.fromkeys(new))
        waiting = [node for body in dict.fromkeys(new) for node in body.nodes]
    return list(found)


def _lines(graph: Graph, origins: bool) -> list[str]:
    names = numbers(graph)
    given = ", ".join(f"{name}: {node.type}" for name, node in graph.inputs.items())
    lines = [f"graph({given})"]
    for node in graph.nodes:
        line = f"  {names[node]}: {node.type} = {_call(node, names)}"
        lines.append(f"{line}  # {_origin(node)}" if origins else line)
    lines += [f"  return {name} = {names[node]}" for name, node in graph.outputs.items()]
    return lines


def _call(node: Node, names: dict[Node, str]) -> str:
    parts = [names[source] for source in node.inputs]
    parts += [f"{name}={_value(value)}" for name, value in node.attrs if name != "dtype" or node.op.name == "cast"]
    return f"{node.op.name}({', '.join(parts)})"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(str, value))}{',' if len(value) == 1 else ''})"
    return str(value)


def _origin(node: Node) -> str:
    origin = node.origin
    place = os.path.basename(origin.where)
    if origin.kind == "user":
        return place
    what = f"vjp of {origin.of}" if origin.kind == "vjp" else origin.of
    return f"{what} at {place}" if place else what


FACES["text"] = to_text
