"""Invariants of the intermediate representation, checked before and after every pass.

Nodes are in topological order and distinct; inputs and outputs are among them, and every input node is a named input;
every node is interned; its op is the registered one; its attributes are those the op declares; its type is what
inference gives, in canonical dimensions.
"""

from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import NoReturn
from weakref import WeakSet

from graphir import dims
from graphir.errors import GraphError, InvariantError, ShapeError
from graphir.graph import Graph
from graphir.node import REGISTRY, Attrs, Kind, Node, Op, check_attributes, describe, make
from graphir.types import DTYPES, MAX_RANK, TensorType
from graphir.walk import inputs_of


def verify(graph: Graph) -> Graph:
    """The graph itself if it is sound; InvariantError that names the node otherwise."""
    if not _is_sound(graph):
        _find_fault(graph)
    _check_ends(graph)
    return graph


def _is_sound(graph: Graph) -> bool:
    """Whether nodes are in order and each is what its kind says, which is looked into once a kind.

    Only `make` gives a node a kind, and it interns the node.
    """
    try:
        table = graph.columns
    except KeyError:
        return False
    if not table.ordered or not all(map(_is_sound_kind, table.kinds)):
        return False
    nodes, kinds = graph.nodes, [node.kind for node in graph.nodes]
    fields = ("op", "attrs", "type")
    if not all(list(map(attrgetter(f), nodes)) == list(map(attrgetter(f), kinds)) for f in fields):
        return False
    given = [node.type for node in chain.from_iterable(map(inputs_of, nodes))]
    return given == list(chain.from_iterable(map(attrgetter("types"), kinds)))


_SOUND: "WeakSet[Kind]" = WeakSet()
"""Kinds that were looked into."""


def _is_sound_kind(kind: Kind) -> bool:
    if kind in _SOUND:
        return True
    try:
        _check_kind(kind.op, kind.attrs, kind.types, kind.type)
    except GraphError:
        return False
    _SOUND.add(kind)
    return True


def _find_fault(graph: Graph) -> NoReturn:
    """InvariantError for the first node that is not sound."""
    seen: set[Node] = set()
    for node in graph.nodes:
        missing = [source for source in node.inputs if source not in seen]
        if missing:
            raise InvariantError(f"{missing[0]!r} is used before it is made; keep topological order").at(describe(node))
        if node in seen:
            raise InvariantError("the node occurs twice in the graph; list it once").at(describe(node))
        _check_node(node)
        seen.add(node)
    raise InvariantError("a node is of another kind than its op, attributes and types say; make nodes by calling ops")


def _check_ends(graph: Graph) -> None:
    nodes = graph.columns.index
    if not graph.outputs:
        raise InvariantError("the graph has no outputs; give outputs={'name': expression}")
    for kind, named in (("input", graph.inputs), ("output", graph.outputs)):
        for name, node in named.items():
            if node not in nodes:
                raise InvariantError(f"{kind} {name!r} is not among the graph's nodes").at(describe(node))
    for name, node in graph.inputs.items():
        if node.op.name != "input" or node.attr("name") != name:
            raise InvariantError(f"input {name!r} is not an input node of that name").at(describe(node))
    inputs = graph.columns.by_kind([kind.op.name == "input" for kind in graph.columns.kinds], bool)
    for position in inputs.nonzero()[0].tolist():
        node = graph.nodes[position]
        if graph.inputs.get(node.attr("name")) is not node:
            raise InvariantError(f"the input node {node.attr('name')!r} is not a named input").at(describe(node))


def _check_node(node: Node) -> None:
    try:
        _check_kind(node.op, node.attrs, tuple([source.type for source in node.inputs]), node.type)
    except InvariantError as error:
        raise error.at(describe(node)) from None
    except GraphError as error:
        raise InvariantError(f"the node is not valid: {error}").at(describe(node)) from None
    if make(node.op, node.inputs, node.attrs, node.raw_origin) is not node:
        raise InvariantError("the node is not the interned one; make nodes by calling ops").at(describe(node))


def _check_kind(op: Op, attrs: Attrs, types: tuple[TensorType, ...], type_: TensorType) -> None:
    """GraphError unless nodes of this op, these attributes and types are sound."""
    if REGISTRY.get(op.name) is not op:
        raise InvariantError(f"the op {op.name!r} is not the registered one")
    if attrs or op.attrs:
        check_attributes(op, attrs)
        check_dims(op, attrs)
    check_type(type_)
    inferred = op.kinds(types, attrs).type
    if inferred != type_:
        raise InvariantError(f"the node's type is {type_} but its op infers {inferred}")


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
