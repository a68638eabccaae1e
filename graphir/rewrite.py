"""Rules that replace one node by an equal one, and the pass that applies a table of them.

A rule looks at an op on already rewritten inputs and gives a node or None. The pass goes through the graph once in
topological order and applies the table to each node until no rule answers; both sides of it are verified.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from graphir.graph import Graph
from graphir.node import Node, make
from graphir.verify import verify

Rule: TypeAlias = Callable[[Node], Node | None]
"""From a node to an equal node, or None for "does not apply"."""

MOST_STEPS = 100
"""How often one node may be rewritten; more means rules that undo each other."""


def rewrite(graph: Graph, table: Mapping[str, Sequence[Rule]]) -> Graph:
    """The graph with rules applied; the table maps an op's name, or "*", to rules in order of preference."""
    verify(graph)
    everywhere = tuple(table.get("*", ()))
    image: dict[Node, Node] = {}
    for node in graph.nodes:
        inputs = tuple([image[source] for source in node.inputs])
        new = node if inputs == node.inputs else make(node.op, inputs, node.attrs, node.raw_origin)
        image[node] = _settle(new, table, everywhere)
    outputs = {name: image[node] for name, node in graph.outputs.items()}
    return verify(Graph(outputs, inputs=graph.inputs))


def _settle(node: Node, table: Mapping[str, Sequence[Rule]], everywhere: tuple[Rule, ...]) -> Node:
    for _ in range(MOST_STEPS):
        found = next(
            (new for rule in (*table.get(node.op.name, ()), *everywhere) if (new := rule(node)) is not None), node
        )
        if found is node:
            return node
        node = found
    raise RuntimeError(f"rewrite rules do not settle on {node!r}")
