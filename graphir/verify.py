"""Invariants of the intermediate representation, checked before and after every pass.

Nodes are in topological order and distinct; inputs and outputs are among them, and every input node is a named input;
every node is interned; its op is the registered one; its attributes are those the op declares; its type is what
inference gives, in canonical dimensions.
"""

from functools import lru_cache

from graphir import dims
from graphir.errors import GraphError, InvariantError, ShapeError
from graphir.graph import Graph
from graphir.node import REGISTRY, Attrs, Node, Op, check_attributes, describe, make
from graphir.types import DTYPES, MAX_RANK, TensorType


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
    _check_ends(graph, seen)
    return graph


def _check_ends(graph: Graph, nodes: set[Node]) -> None:
    if not graph.outputs:
        raise InvariantError("the graph has no outputs; give outputs={'name': expression}")
    for kind, named in (("input", graph.inputs), ("output", graph.outputs)):
        for name, node in named.items():
            if node not in nodes:
                raise InvariantError(f"{kind} {name!r} is not among the graph's nodes").at(describe(node))
    for name, node in graph.inputs.items():
        if node.op.name != "input" or node.attr("name") != name:
            raise InvariantError(f"input {name!r} is not an input node of that name").at(describe(node))
    for node in graph.nodes:
        if node.op.name == "input" and graph.inputs.get(node.attr("name")) is not node:
            raise InvariantError(f"the input node {node.attr('name')!r} is not a named input").at(describe(node))


def _check_node(node: Node) -> None:
    if REGISTRY.get(node.op.name) is not node.op:
        raise InvariantError(f"the op {node.op.name!r} is not the registered one").at(describe(node))
    try:
        if node.attrs or node.op.attrs:
            check_attributes(node.op, node.attrs)
            check_dims(node.op, node.attrs)
        check_type(node.type)
        inferred = node.op.typed(tuple([source.type for source in node.inputs]), node.attrs)
    except GraphError as error:
        raise InvariantError(f"the node is not valid: {error}").at(describe(node)) from None
    if inferred is not node.type and inferred != node.type:
        raise InvariantError(f"the node's type is {node.type} but its op infers {inferred}").at(describe(node))
    if make(node.op, node.inputs, node.attrs, node.raw_origin) is not node:
        raise InvariantError("the node is not the interned one; make nodes by calling ops").at(describe(node))


@lru_cache(maxsize=4096)
def check_dims(op: Op, attrs: Attrs) -> None:
    """ShapeError unless dimensions among the attributes are canonical; numbers may be negative (a slice's end)."""
    for name, value in attrs:
        kind = op.attrs.get(name)
        parts = (value,) if kind == "dim" else value if kind == "dims" else ()
        for part in parts:
            if isinstance(part, str) and dims.dim(part) != part:
                raise ShapeError(
                    f"attribute {name} of {op.name} has {part!r}, canonically {dims.dim(part)!r}; use that"
                )


@lru_cache(maxsize=4096)
def check_type(type_: TensorType) -> None:
    """ShapeError unless dtype, rank and dimensions are such as `tensor_type` is to be given."""
    canonical = tuple(dims.dim(d) for d in type_.shape)
    if type_.dtype not in DTYPES or type_.rank > MAX_RANK or type_.shape != canonical:
        raise ShapeError(
            f"the type {type_} is not canonical; its shape should be {canonical} with at most {MAX_RANK} axes, "
            "and its dtype one of graphir's"
        )
