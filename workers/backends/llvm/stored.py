"""Which values of a small program are written to memory; the others are computed where they are read.

Written are outputs, reductions, and what would be computed again at too many places or for too many positions.
"""

from collections.abc import Mapping, Sequence
from math import prod

from graphir.graph import Graph
from graphir.node import Node
from graphir.ops.rules import elementwise_axes
from workers.backends.llvm import scalar
from workers.backends.llvm.code import TYPES

LEAVES = {"input", "constant", "iota", "size"}
MOVES = {"broadcast", "slice", "place", "reshape", "permute", "flip", "concat", "stop_gradient"}
REDUCTIONS = {"sum", "max", "min", "matmul"}
WORK = 1 << 21
"""Elements that all values have together, products counted by their terms: beyond it threads and caches matter more than calls."""
LARGEST = 1 << 16
"""Elements of one value."""
MOST_NODES = 600
AGAIN = 16
"""Operations on an element that are done again rather than kept."""

Shapes = Mapping[Node, tuple[int, ...]]


def covers(graph: Graph, shapes: Shapes) -> bool:
    """Whether the whole graph can be compiled for these sizes, and should be."""
    if len(graph.nodes) > MOST_NODES:
        return False
    work = 0
    for node in graph.nodes:
        size = prod(shapes[node])
        if node.op.name == "matmul":
            work += size * shapes[node.inputs[0]][-1]
        if not size or size > LARGEST or not _covers(node, size):
            return False
        if _cost(node):
            work += size
    return work <= WORK


def _covers(node: Node, size: int) -> bool:
    name = node.op.name
    dtypes = [value.type.dtype.name for value in (node, *node.inputs)]
    if any(dtype not in TYPES for dtype in dtypes):
        return False
    if name == "constant":
        return size <= 4096
    if name in REDUCTIONS:
        return node.type.dtype.kind != "b" and 0 not in node.inputs[0].type.shape
    return name in LEAVES or name in MOVES or (node.op.axes is elementwise_axes and scalar.covers(node))


def stored(graph: Graph, shapes: Shapes) -> list[Node]:
    """The nodes whose values are written, in order."""
    outputs = set(graph.outputs.values())
    readers = _readers(graph.nodes, shapes)
    costs: dict[Node, int] = {}
    found: list[Node] = []
    for node in graph.nodes:
        inputs = sum(costs[i] for i in node.inputs)
        own = _cost(node)
        cost = min(inputs + own, 1 << 40)
        again = readers.get(node, 0) - 1
        written = node in outputs or node.op.name in REDUCTIONS or (cost > 0 and again * cost > AGAIN)
        if written and (node in outputs or node.op.name not in LEAVES):
            found.append(node)
        costs[node] = 0 if written else cost
    return found


def _cost(node: Node) -> int:
    """Operations for an element beside those of its inputs."""
    if node.op.name in MOVES or node.op.name in LEAVES:
        return 0
    return node.op.cost if isinstance(node.op.cost, int) else 10


def _readers(nodes: Sequence[Node], shapes: Shapes) -> dict[Node, int]:
    """At how many positions for each of its own, or by how many moves, a value is read; one for all that read it in place."""
    readers: dict[Node, int] = {}
    in_place: set[Node] = set()
    for node in nodes:
        for source in node.inputs:
            if node.op.name == "broadcast":
                times = prod(shapes[node]) // prod(shapes[source])
            elif node.op.name == "matmul":
                times = prod(shapes[node]) * shapes[node.inputs[0]][-1] // prod(shapes[source])
            elif node.op.name in MOVES or node.op.name in REDUCTIONS:
                times = 1
            elif source in in_place:
                continue
            else:
                in_place.add(source)
                times = 1
            readers[source] = readers.get(source, 0) + times
    return readers
