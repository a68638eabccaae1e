"""Which values of a small program are written to memory; the others are computed where they are read.

Written are outputs, reductions, what is put together of parts, and what would be computed again at too many places or for too many positions.
"""

from collections.abc import Mapping, Sequence
from math import prod

from graphir.graph import Graph
from graphir.node import Node
from graphir.ops.rules import elementwise_axes
from workers.backends.llvm import scalar
from workers.backends.llvm.code import TYPES
from workers.backends.llvm.vector import FUNCTIONS

LEAVES = {"input", "constant", "iota", "size"}
MOVES = {"broadcast", "slice", "place", "reshape", "permute", "flip", "concat", "stop_gradient"}
PARTS = {"place", "concat"}
"""Moves that put a value together."""
REDUCTIONS = {"sum", "max", "min", "matmul"}
WORK = 1 << 21
"""Elements that all values have together: beyond it threads and caches matter more than calls."""
PRODUCTS = 1 << 13
"""Terms of a product of matrices, beyond which BLAS is faster with its call."""
LARGEST = 1 << 16
"""Elements of one value."""
MOST_NODES = 600
AGAIN = 16
"""Operations on an element that are done again rather than kept."""
FUNCTION = 30
"""Operations of a vector function, about."""
LONGEST = 4_000
"""Operations in a program's code: to compile as many takes a second or less."""

Shapes = Mapping[Node, tuple[int, ...]]


def covers(graph: Graph, shapes: Shapes) -> bool:
    """Whether the whole graph can be compiled for these sizes, and should be."""
    if len(graph.nodes) > MOST_NODES:
        return False
    work = 0
    for node in graph.nodes:
        size = prod(shapes[node])
        if node.op.name == "matmul" and size * shapes[node.inputs[0]][-1] > PRODUCTS:
            return False
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


def stored(graph: Graph, shapes: Shapes) -> list[Node] | None:
    """The nodes whose values are written, in order; None if the code would be too long either way."""
    for careful in (False, True):
        found = _stored(graph, shapes, careful=careful)
        if _code_is_short(found):
            return found
    return None


def _stored(graph: Graph, shapes: Shapes, *, careful: bool) -> list[Node]:
    """careful: whatever is read at other positions than its own is kept if it is dear, though it be read only once."""
    outputs = set(graph.outputs.values())
    readers = _readers(graph.nodes, shapes)
    moved = {i for node in graph.nodes if node.op.name in MOVES for i in node.inputs} if careful else set()
    costs: dict[Node, int] = {}
    found: list[Node] = []
    for node in graph.nodes:
        cost = min(sum(costs[i] for i in node.inputs) + _cost(node), 1 << 40)
        again = max(readers.get(node, 0) - 1, 1 if node in moved else 0)
        dear = cost > 0 and again * cost > AGAIN and node.op.name not in LEAVES
        written = node in outputs or node.op.name in REDUCTIONS or node.op.name in PARTS or dear
        if written:
            found.append(node)
        costs[node] = 0 if written else cost
    return found


def _code_is_short(written: Sequence[Node]) -> bool:
    """Counts operations as they will be written: once for each way in which a value's position follows from the loop's."""
    places, total = set(written), 0
    ways: dict[tuple[int, Node, int], int] = {}
    for root in written:
        seen: set[tuple[Node, int]] = set()
        stack = [(root, 0)]
        while stack:
            node, way = stack.pop()
            if (node, way) in seen or (node in places and node is not root):
                continue
            seen.add((node, way))
            total += FUNCTION if node.op.name in FUNCTIONS else 1
            if total > LONGEST:
                return False
            moves = node.op.name in MOVES or node.op.name in REDUCTIONS
            for k, source in enumerate(node.inputs):
                stack.append((source, ways.setdefault((way, node, k), len(ways) + 1) if moves else way))
    return True


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
