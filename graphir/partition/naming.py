"""Give a name of its own to a class of axes, so that it can be cut where the graph has plain numbers or one name for many axes.

The axis rules of all nodes identify axes: those of one factor form a class. A class is renamed by making the graph anew with its
ops' own inference, the smallest of its sizes becoming the name and the others multiples of it. Where that does not give the
same types at the same sizes, or the class reaches a constant, it has no name. Sizes as values stay as they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphir import dims
from graphir.dims import Dim
from graphir.errors import GraphError
from graphir.graph import Graph
from graphir.node import Node
from graphir.partition.placement import resized
from graphir.types import TensorType


@dataclass(frozen=True, slots=True)
class AxisClass:
    """Axes that belong together. size: of the shortest, which may be cut anywhere; bytes: of the values that have one of them.

    dim: how the shortest is written in the graph.
    """

    axes: Mapping[Node, int]
    size: int
    bytes: int
    dim: Dim


def classes(graph: Graph, sizes: Mapping[str, int]) -> list[AxisClass]:
    """The classes that reach an input and might be named, by the bytes of their values, most first."""
    found: dict[int, list[tuple[Node, int]]] = {}
    axes = _Axes(graph)
    for node, axis in axes:
        found.setdefault(axes.find(node, axis), []).append((node, axis))
    known: dict[TensorType, tuple[int, ...]] = {}
    made = [_class(members, sizes, known) for members in found.values()]
    return sorted([one for one in made if one is not None], key=lambda one: -one.bytes)


def fresh(graph: Graph, sizes: Mapping[str, int]) -> str:
    """A name that no size of the graph has."""
    name = "tile"
    taken = {*sizes, *(known for node in graph.nodes for d in node.type.shape for known in dims.names(d))}
    while any(other.startswith(name) for other in taken):
        name += "_"
    return name


def named(graph: Graph, chosen: AxisClass, name: str, sizes: Mapping[str, int]) -> Graph | None:
    """The graph with the axes of the class written as multiples of `name`; None where its ops do not allow it."""
    image: dict[Node, Node] = {}
    bound = {**sizes, name: chosen.size}
    try:
        for node in graph.nodes:
            new = image[node] = _renamed(node, tuple([image[i] for i in node.inputs]), chosen, name, sizes)
            if new is not node and not _fits(node, new, chosen.axes.get(node), name, bound):
                return None
    except GraphError:
        return None
    leaves = [image[node] for node in graph.inputs.values()]
    return Graph({key: image[node] for key, node in graph.outputs.items()}, inputs=leaves)


class _Axes:
    """The classes of all axes of a graph's nodes, as a forest."""

    def __init__(self, graph: Graph) -> None:
        self._first: dict[Node, int] = {}
        total = 0
        for node in graph.nodes:
            self._first[node] = total
            total += node.type.rank
        self._parent = list(range(total))
        for node in graph.nodes:
            if node.inputs:
                self._read(node)

    def __iter__(self) -> Iterator[tuple[Node, int]]:
        return ((node, axis) for node in self._first for axis in range(node.type.rank))

    def find(self, node: Node, axis: int) -> int:
        """The number of the axis's class."""
        place, parent = self._first[node] + axis, self._parent
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    def _read(self, node: Node) -> None:
        rule = node.op.axis_rule(tuple([i.type for i in node.inputs]), node.attrs)
        if rule is None:
            return
        seen: dict[str, int] = {}
        for value, factors in zip((*node.inputs, node), (*rule.inputs, rule.output), strict=True):
            for axis, factor in enumerate(factors):
                place = self.find(value, axis)
                self._parent[place] = seen.setdefault(factor, place)


def _class(
    members: list[tuple[Node, int]], sizes: Mapping[str, int], known: dict[TensorType, tuple[int, ...]]
) -> AxisClass | None:
    axes = dict(members)
    if len(axes) != len(members) or not any(node.op.name == "input" for node in axes):
        return None
    if any(node.op.name == "constant" for node in axes):
        return None
    lengths: dict[int, Dim] = {}
    total = 0
    for node, axis in members:
        shape = known.get(node.type)
        if shape is None:
            shape = known[node.type] = node.type.bind(sizes)
        lengths.setdefault(shape[axis], node.type.shape[axis])
        if not node.op.cheap or node.op.name == "input":
            elements = 1
            for length in shape:
                elements *= length
            total += elements * node.type.dtype.itemsize
    size = min(lengths)
    if size < 2 or any(length % size for length in lengths):
        return None
    return AxisClass(axes, size, total, lengths[size])


def _renamed(node: Node, inputs: tuple[Node, ...], chosen: AxisClass, name: str, sizes: Mapping[str, int]) -> Node:
    axis = chosen.axes.get(node)
    if inputs == node.inputs and (axis is None or "shape" not in node.op.attrs):
        return node
    return resized(node, inputs, axis, lambda size: dims.multiply(dims.evaluate(size, sizes) // chosen.size, name))


def _fits(old: Node, new: Node, axis: int | None, name: str, sizes: Mapping[str, int]) -> bool:
    """Whether the new node has the old one's type at these sizes, and the name in the axis of the class alone."""
    shape = new.type.shape
    has = [k for k, d in enumerate(shape) if name in dims.names(d)]
    return has == ([] if axis is None else [axis]) and new.type.bind(sizes) == old.type.bind(sizes)
