"""What a tile's program is made of, for code that takes its rows block by block.

Values of rows are made anew for each block. Sums over all rows grow from block to block; what follows them is computed once at the end, and
what depends on no rows once before. Anything else, such as a maximum over the rows, is not for this code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphir import dims
from graphir.graph import Graph
from graphir.node import Node
from graphir.ops.arithmetic import add, subtract
from graphir.ops.layout import fill_like, reduce_sum, spread
from graphir.ops.reduction import reduce_max
from graphir.ops.rules import elementwise_axes
from graphir.ops.select import isfinite, where
from graphir.ops.transcendental import exp, log
from workers.backends.llvm import scalar
from workers.backends.llvm.code import TYPES
from workers.backends.llvm.panels import MOST_COLUMNS
from workers.backends.llvm.stored import LEAVES, MOVES, REDUCTIONS

ALONG = {"take_along_axis", "scatter_add_along_axis"}
FEW_TERMS = 256
"""Of a product that is written as a plain loop."""
FEW_UPDATES = 4
"""To one row, each of which is compared with every position."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The nodes in creation order: before all rows, of rows, sums over rows, and after them. graph: all, with simpler ops."""

    graph: Graph
    before: list[Node] = field(default_factory=list)
    rows: dict[Node, None] = field(default_factory=dict)
    sums: dict[Node, None] = field(default_factory=dict)
    after: dict[Node, None] = field(default_factory=dict)

    def product(self, node: Node) -> tuple[str, Node, Node] | None:
        """Of a matmul that narrow products do: which kind, the wide factor, whose rows lie in memory, and the narrow one."""
        if node.op.name != "matmul" or node.type.rank != 2 or node.type.dtype.kind != "f":
            return None
        left, right = node.inputs
        if node in self.rows:
            columns = right.type.shape[1]
            fits = left in self.rows and isinstance(columns, int) and columns <= MOST_COLUMNS["rows"]
            return ("rows", left, right) if fits else None
        (rows,) = left.inputs if left.op.name == "permute" else (left,)
        if node in self.sums and rows in self.rows and right in self.rows:
            for kind, wide, narrow in (("sums", rows, right), ("turned", right, rows)):
                columns = narrow.type.shape[1]
                if isinstance(columns, int) and columns <= MOST_COLUMNS["sums"]:
                    return kind, wide, narrow
        return None


def parts(graph: Graph, local: str) -> Parts | None:
    """The parts, where the axis of that name is cut; None if something is not for this code."""
    found = Parts(_spelled(graph))
    turned: set[Node] = set()
    for node in found.graph.nodes:
        if not _put(node, local, found, turned) or not _covers(node, found):
            return None
    for node in found.graph.nodes:
        if not turned.isdisjoint(node.inputs) and found.product(node) is None:
            return None
    made = found.rows.keys() | found.sums.keys() | found.after.keys()
    return found if all(node in made and node.op.name != "input" for node in found.graph.outputs.values()) else None


def _put(node: Node, local: str, found: Parts, turned: set[Node]) -> bool:
    """Put a node into its part, if it has one. turned: rows as columns, for products."""
    cut = [local in dims.names(d) for d in node.type.shape]
    ended = any(i in found.sums or i in found.after for i in node.inputs)
    if any(cut):
        if node.op.located or ended:
            return False
        if cut[0] and node.type.shape[0] == local and not any(cut[1:]):
            found.rows[node] = None
            return turned.isdisjoint(node.inputs)
        if node.op.name == "permute" and node.type.rank == 2 and node.inputs[0] in found.rows:
            turned.add(node)
            return True
        return False
    if any(i in found.rows or i in turned for i in node.inputs):
        found.sums[node] = None
        return node.op.name == "matmul" or (node.op.name == "sum" and 0 in dict(node.attrs)["axes"])
    if ended:
        found.after[node] = None
    else:
        found.before.append(node)
    return True


def _covers(node: Node, found: Parts) -> bool:
    """Whether there is code for the node's op and dtypes."""
    name = node.op.name
    if any(value.type.dtype.name not in TYPES for value in (node, *node.inputs)):
        return False
    if name == "matmul":
        terms = node.inputs[0].type.shape[-1]
        few = node not in found.sums and isinstance(terms, int) and terms <= FEW_TERMS
        return found.product(node) is not None or few
    if name == "scatter_add_along_axis":
        updates = node.inputs[1].type.shape[dict(node.attrs)["axis"]]
        return isinstance(updates, int) and updates <= FEW_UPDATES and node.type.dtype.kind == "f"
    if name in REDUCTIONS:
        return node.type.dtype.kind != "b" and 0 not in node.inputs[0].type.shape
    if name == "constant":
        return bool(dict(node.attrs)["value"].array.size <= FEW_TERMS)
    elementwise = node.op.axes is elementwise_axes and scalar.covers(node)
    return name in LEAVES or name in MOVES or name in ALONG or elementwise


def _spelled(graph: Graph) -> Graph:
    """The graph with logsumexp as its own kernel computes it."""
    images: dict[Node, Node] = {}
    for node in graph.nodes:
        inputs = [images[i] for i in node.inputs]
        if node.op.name == "logsumexp":
            images[node] = _logsumexp(inputs[0], dict(node.attrs)["axes"])
        else:
            images[node] = node if tuple(inputs) == node.inputs else node.op(*inputs, **dict(node.attrs))
    outputs: Mapping[str, Node] = {name: images[node] for name, node in graph.outputs.items()}
    return Graph(outputs, inputs=list(graph.inputs.values()))


def _logsumexp(x: Node, axes: tuple[int, ...]) -> Node:
    top = reduce_max(x, axes=axes)
    top = where(isfinite(top), top, fill_like(top, 0))
    return add(log(reduce_sum(exp(subtract(x, spread(top, x, axes))), axes=axes)), top)
