"""Rules, and the driver that applies an ordered table of them to a graph.

One pass in topological order: every node is rebuilt on what became of its inputs, then the first rule of the
table that fits replaces it, again and again until none fits. A rule sees inputs that no rule fits any more, and
must return such a node, or one node on top of such nodes; so one pass reaches the fixed point of the table.
Inputs and outputs keep their names and order; what nothing needs any more is dropped, but never an input.
The graph is verified before and after.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphir import walk
from graphir.errors import InvariantError
from graphir.graph import Graph
from graphir.node import Node, describe, make, reset_origin, set_origin
from graphir.verify import verify

MAX_REPEATS = 100
"""Most replacements of one node; more mean that rules undo one another."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A replacement that keeps the value: `apply(node)` is the new node, or None where the rule does not fit.

    ops: the names of the ops that it looks at; empty for all. below: names of ops of which an input has to be one for the rule
    to fit a node with inputs; empty for any. So most nodes of a large graph need not be looked at.
    """

    name: str
    ops: frozenset[str]
    apply: Callable[[Node], Node | None]
    below: frozenset[str] = frozenset()


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """The graph after the rules; the same object if none fits and nothing is unused."""
    image = _images(verify(graph), rules)
    if not image and _all_needed(graph):
        return graph
    outputs = {name: image.get(node, node) for name, node in graph.outputs.items()}
    nodes = _ordered(graph, image, outputs)
    if nodes == graph.nodes and list(outputs.values()) == list(graph.outputs.values()):
        return graph
    return verify(Graph.from_nodes(nodes, outputs, list(graph.inputs.values())))


def _images(graph: Graph, rules: Sequence[Rule]) -> dict[Node, Node]:
    """What becomes of the nodes that do not stay what they are."""
    replace, image = _driver(rules), dict[Node, Node]()
    looked_at = _looked_at(graph.columns, rules)
    for position in looked_at.nonzero()[0].tolist():
        node = graph.nodes[position]
        new = replace(node, node.inputs)
        if new is not None and new is not node:
            break
    else:
        return image
    for node, look in zip(graph.nodes[position:], looked_at[position:].tolist(), strict=True):
        inputs = tuple([image.get(i, i) for i in node.inputs])
        same = inputs == node.inputs
        if same and not look:
            continue
        new = replace(node, inputs)
        if new is None:
            new = node if same else make(node.op, inputs, node.attrs, node.raw_origin)
        if new is not node:
            image[node] = new
    return image


def _looked_at(table: walk.Columns, rules: Sequence[Rule]) -> NDArray[np.bool_]:
    """Whether a rule may fit a node whose inputs stay what they are."""
    found: NDArray[np.bool_] = table.counts == 0
    names = [kind.op.name for kind in table.kinds]
    for below in {rule.below for rule in rules}:
        ops = [rule.ops for rule in rules if rule.below == below]
        fitting = table.by_kind([any(not some or name in some for some in ops) for name in names], bool)
        found |= fitting & (table.any_source(table.by_kind([n in below for n in names], bool)) if below else True)
    return found


def _all_needed(graph: Graph) -> bool:
    """Whether each node that nobody reads is an output or an input."""
    ends = [graph.nodes[position] for position in (graph.columns.last < 0).nonzero()[0].tolist()]
    kept = {*graph.outputs.values(), *graph.inputs.values()}
    return kept.issuperset(ends)


def _driver(rules: Sequence[Rule]) -> Callable[[Node, tuple[Node, ...]], Node | None]:
    """The replacement function, None for "the same op on the new inputs"; what rules make has the origin of what it replaces."""
    tables: dict[str, list[Rule]] = {}

    def replace(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        name = node.op.name
        if name == "input":
            return node
        table = tables.get(name)
        if table is None:
            table = tables[name] = [rule for rule in rules if not rule.ops or name in rule.ops]
        if not table:
            return None
        token = set_origin(node.raw_origin)
        try:
            return _fixed(node if inputs == node.inputs else make(node.op, inputs, node.attrs), table, rules)
        finally:
            reset_origin(token)

    return replace


def _fixed(node: Node, table: Sequence[Rule], rules: Sequence[Rule]) -> Node:
    for _ in range(MAX_REPEATS):
        for rule in table:
            new = rule.apply(node)
            if new is not None and new is not node:
                break
        else:
            return node
        if new.type != node.type:
            raise InvariantError(f"rule {rule.name!r} made {new.type} of {node.type}").at(describe(node))
        if new.op is not node.op:
            table = [rule for rule in rules if not rule.ops or new.op.name in rule.ops]
        node = new
    raise InvariantError(f"rules undo one another; the last was {rule.name!r}").at(describe(node))


def _ordered(graph: Graph, image: Mapping[Node, Node], outputs: Mapping[str, Node]) -> tuple[Node, ...]:
    """What is still needed, in the order of what it came from."""
    inputs = graph.inputs.values()
    keep = set(walk.ancestors([*outputs.values(), *inputs]))
    seen: set[Node] = set()
    found: list[Node] = []
    for node in graph.nodes:
        new = image.get(node, node)
        if new in keep and new not in seen:
            if all(source in seen for source in new.inputs):
                seen.add(new)
                found.append(new)
            else:
                found += walk.ancestors([new], seen)
    return tuple(found)
