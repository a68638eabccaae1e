"""Invariants of the intermediate representation, checked before and after every pass.

Nodes are in topological order and distinct; inputs and outputs are among them; every node is interned; its attributes
are those the op declares; its type is what inference gives.
"""

from graphir.errors import GraphError, InvariantError
from graphir.graph import Graph
from graphir.node import Node, check_attributes, describe, make


def verify(graph: Graph) -> Graph:
    """The graph itself if it is sound; InvariantError that names the node otherwise."""
    seen: set[Node] = set()
    for node in graph.nodes:
        missing = [source for source in node.inputs if source not in seen]
        if missing:
            raise InvariantError(f"{missing[0]!r} is used before it is made; keep topological order").at(describe(node))
        if node in seen:
            raise InvariantError("the node occurs twice in the graph; list it once").at(describe(node))
        _check_node(node)
        seen.add(node)
    for kind, named in (("input", graph.inputs), ("output", graph.outputs)):
        for name, node in named.items():
            if node not in seen:
                raise InvariantError(f"{kind} {name!r} is not among the graph's nodes").at(describe(node))
    for name, node in graph.inputs.items():
        if node.op.name != "input" or node.attr("name") != name:
            raise InvariantError(f"input {name!r} is not an input node of that name").at(describe(node))
    return graph


def _check_node(node: Node) -> None:
    try:
        check_attributes(node.op, node.attrs)
        inferred = node.op.typed(tuple([source.type for source in node.inputs]), node.attrs)
    except GraphError as error:
        raise InvariantError(f"the node is not valid: {error}").at(describe(node)) from None
    if inferred != node.type:
        raise InvariantError(f"the node's type is {node.type} but its op infers {inferred}").at(describe(node))
    if make(node.op, node.inputs, node.attrs, node.raw_origin) is not node:
        raise InvariantError("the node is not the interned one; make nodes by calling ops").at(describe(node))
