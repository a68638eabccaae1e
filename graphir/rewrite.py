"""Rules, and the driver that applies an ordered table of them to a graph.

One pass in topological order: every node is rebuilt on what became of its inputs, then the first rule of the
table that fits replaces it, again and again until none fits. A rule sees inputs that no rule fits any more, and
must return such a node, or one node on top of such nodes; so one pass reaches the fixed point of the table.
Inputs and outputs keep their names and order; what nothing needs any more is dropped, but never an input.
The graph is verified before and after.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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

    ops: the names of the ops that it looks at; empty for all.
    """

    name: str
    ops: frozenset[str]
    apply: Callable[[Node], Node | None]


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """The graph after the rules; the same object if none fits and nothing is unused."""
    image = walk.rebuild(verify(graph).nodes, _driver(rules))
    outputs = {name: image[node] for name, node in graph.outputs.items()}
    nodes = _ordered(graph, image, outputs)
    if nodes == graph.nodes and list(outputs.values()) == list(graph.outputs.values()):
        return graph
    return verify(Graph.from_nodes(nodes, outputs, list(graph.inputs.values())))


def _driver(rules: Sequence[Rule]) -> Callable[[Node, tuple[Node, ...]], Node | None]:
    """The replacement function for `walk.rebuild`; what rules make has the origin of what it replaces."""
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
        new = image[node]
        if new in keep and new not in seen:
            if all(source in seen for source in new.inputs):
                seen.add(new)
                found.append(new)
            else:
                found += walk.ancestors([new], seen)
    return tuple(found)
