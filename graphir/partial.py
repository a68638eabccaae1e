"""Partial evaluation: a graph with some of its inputs fixed."""

from collections.abc import Mapping
from typing import Any

from graphir import walk
from graphir.errors import FeedError
from graphir.feeds import convert
from graphir.graph import Graph
from graphir.node import Node, made_by
from graphir.ops.sources import literal
from graphir.origin import Origin
from graphir.simplify import simplify
from graphir.types import show_shape


def partial(graph: Graph, feeds: Mapping[str, Any]) -> Graph:
    """The graph with the fed inputs as constants, simplified; it needs only the other inputs.

    Fixed inputs must have shapes of numbers, since a size that stays named is not known yet. Raises FeedError.
    """
    unknown = [name for name in feeds if name not in graph.inputs]
    if unknown:
        raise FeedError(f"{unknown[0]!r} is fed but is not an input; the graph's inputs are {list(graph.inputs)}")
    fixed: dict[Node, Node] = {}
    with made_by(Origin("pass", of="partial")):
        for name, value in feeds.items():
            node = graph.inputs[name]
            array = convert(name, value, node.type)
            if array.shape != node.type.shape:
                raise FeedError(
                    f"input {name!r} has the shape {show_shape(node.type.shape)} and cannot be fixed to a value of shape "
                    f"{show_shape(array.shape)}; only inputs whose sizes are numbers can be fixed"
                )
            fixed[node] = literal(array)
        image = walk.substitute(graph.nodes, fixed)
        outputs = {name: image[node] for name, node in graph.outputs.items()}
        return simplify(Graph(outputs, inputs=[node for node in graph.inputs.values() if node not in fixed]))
