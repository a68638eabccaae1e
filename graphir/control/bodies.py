"""Making bodies: from placeholders and results, batched, for inputs of other sizes, and their adjoints."""

from collections.abc import Collection, Sequence

from graphir import walk
from graphir.batch import batched, spread
from graphir.body import Body
from graphir.dims import Dim
from graphir.node import Node, make
from graphir.ops import layout
from graphir.ops.sources import input_, literal
from graphir.reverse import backward
from graphir.types import TensorType

LEAVES = ("iota", "size")
SMALL = 16
"""Constants of at most so many elements are repeated inside a body; larger ones become inputs."""


def placeholder(name: str, type_: TensorType) -> Node:
    """An input node that stands for a value."""
    return input_(name=name, dtype=type_.dtype.name, shape=type_.shape)


def close(placeholders: Sequence[Node], results: Sequence[Node]) -> tuple[Body, list[Node]]:
    """The body that gives the results, and the outer values that it takes after the placeholders."""
    outer = captured(placeholders, results)
    return body_of([*placeholders, *outer], results), outer


def body_of(inputs: Sequence[Node], results: Sequence[Node]) -> Body:
    """The body with these nodes as its inputs, whatever they are outside."""
    return body_and_image(inputs, results)[0]


def body_and_image(inputs: Sequence[Node], results: Sequence[Node]) -> tuple[Body, dict[Node, Node]]:
    """The same, and what the nodes become inside."""
    own = [placeholder(str(k), node.type) for k, node in enumerate(inputs)]
    nodes = walk.ancestors(results, stop=frozenset(inputs))
    image = walk.substitute(nodes, dict(zip(inputs, own, strict=True)))
    outputs = tuple(image[node] for node in results)
    return Body(tuple(own), outputs, tuple(walk.ancestors([*own, *outputs]))), image


def captured(placeholders: Sequence[Node], results: Sequence[Node]) -> list[Node]:
    """The outermost values that do not depend on the placeholders and are no leaves that a body can make itself."""
    nodes = walk.ancestors(results)
    inside = walk.reaches(nodes, placeholders)
    own: set[Node] = set()
    for node in nodes:
        small = node.op.name == "constant" and node.attr("value").array.size <= SMALL
        if small or node.op.name in LEAVES or (node.op.cheap and node.inputs and own.issuperset(node.inputs)):
            own.add(node)
    used = [source for node in nodes if node in inside for source in node.inputs]
    return [node for node in dict.fromkeys([*used, *results]) if node not in inside and node not in own]


def batch_body(body: Body, grown: Sequence[bool], size: Dim) -> tuple[list[Node], list[Node]]:
    """Inputs and outputs of the body with a new axis in front of some inputs, and of the outputs that get it."""
    inputs, image = batch_nodes(body, grown, size)
    return inputs, [image[node] for node in body.outputs]


def batch_nodes(body: Body, grown: Sequence[bool], size: Dim) -> tuple[list[Node], dict[Node, Node]]:
    """The new inputs, and what every node becomes."""
    inputs = [
        placeholder(str(k), node.type.with_shape((size, *node.type.shape))) if more else node
        for k, (node, more) in enumerate(zip(body.inputs, grown, strict=True))
    ]
    replaced = {old: new for old, new, more in zip(body.inputs, inputs, grown, strict=True) if more}
    return inputs, batched(body.nodes, replaced, size)


def spread_all(images: Sequence[Node], olds: Sequence[Node], grown: Sequence[bool], size: Dim) -> list[Node]:
    """The images, with the new axis on those that are to have it."""
    return [spread(i, size, old) if more else i for i, old, more in zip(images, olds, grown, strict=True)]


def batch_carried(
    body: Body, carries: int, grown: Sequence[bool], size: Dim
) -> tuple[list[bool], Body, dict[Node, Node]]:
    """Which inputs are batched when carried values keep their types, the batched body, and what nodes become in it."""
    more = list(grown)
    while True:
        own, image = batch_nodes(body, more, size)
        wider = [image[node].type.rank > node.type.rank for node in body.outputs]
        new = [m or (k < carries and wider[k]) for k, m in enumerate(more)]
        if new == more:
            break
        more = new
    outs = [image[node] for node in body.outputs]
    result, inside = body_and_image(own, spread_all(outs, body.outputs, [*more[:carries], *wider[carries:]], size))
    return more, result, {node: inside[new] for node, new in image.items() if new in inside}


def resize(
    body: Body, types: Sequence[TensorType], members: dict[tuple[Node, int], Dim]
) -> tuple[Body, dict[Node, Node]]:
    """The body for inputs of these types, and what its nodes become.

    `members` gives the new size of each axis inside that follows.
    """
    own = [placeholder(str(k), type_) for k, type_ in enumerate(types)]
    image: dict[Node, Node] = dict(zip(body.inputs, own, strict=True))
    for node in body.nodes:
        if node in image:
            continue
        inputs, attrs = tuple(image[i] for i in node.inputs), node.attrs
        if node.op.local is not None:
            attrs = node.op.local(node, inputs)
        elif "shape" in node.op.attrs:
            shape = tuple(members.get((node, axis), d) for axis, d in enumerate(node.type.shape))
            attrs = tuple((name, shape if name == "shape" else value) for name, value in attrs)
        image[node] = make(node.op, inputs, attrs, node.raw_origin)
    outputs = tuple(image[node] for node in body.outputs)
    return Body(tuple(own), outputs, tuple(walk.ancestors([*own, *outputs]))), image


def inline(body: Body, values: Sequence[Node]) -> list[Node]:
    """The body's outputs as nodes of the graph that the values belong to."""
    image = walk.substitute(body.nodes, dict(zip(body.inputs, values, strict=True)))
    return [image[node] for node in body.outputs]


def adjoint(
    body: Body, given: Sequence[int], wanted: Collection[int]
) -> tuple[list[Node], list[Node], list[Node | None]]:
    """Stand-ins for the inputs and for the cotangents of the `given` outputs, and the cotangents of `wanted` inputs."""
    mark = body.digest.hex()  # unlike any other name, for a body may hold another one's adjoint
    here = [placeholder(f"adjoint.v{k}.{mark}", node.type) for k, node in enumerate(body.inputs)]
    seeds = [placeholder(f"adjoint.ct{k}.{mark}", body.outputs[k].type) for k in given]
    values = inline(body, here)
    floats = [k for k, node in enumerate(here) if k in wanted and node.type.dtype.kind == "f"]
    pulled: list[Node | None] = [None] * len(here)
    found = backward([values[k] for k in given], seeds, [here[k] for k in floats])
    for k, contribution in zip(floats, found, strict=True):
        pulled[k] = contribution
    return here, seeds, pulled


def zeros(type_: TensorType) -> Node:
    """A value of zeros."""
    return layout.broadcast(literal(0, type_.dtype), shape=type_.shape, axes=())
