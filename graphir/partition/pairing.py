"""Picking one element of each row, written so that rows may be cut: `x[arange(n), k]` becomes `take_along_axis`.

The positions of all rows are a constant or an iota as long as the axis. The values are the same to the last bit: each position is
taken, and written by the adjoint, once.
"""

import numpy as np

from graphir import dims
from graphir.graph import Graph
from graphir.node import Node
from graphir.ops.gather import scatter_add_at, take_at
from graphir.ops.indexing import scatter_add_along_axis, take_along_axis
from graphir.ops.layout import reshape
from graphir.rewrite import Rule, rewrite


def paired(graph: Graph) -> Graph:
    """The graph with elements picked along an axis where that says the same; the same object if there are none."""
    if not any(node.op in (take_at, scatter_add_at) for node in graph.nodes):
        return graph
    return rewrite(graph, RULES)


def _pick(node: Node) -> Node | None:
    x, *indices = node.inputs
    axis = _free_axis(x.type.shape, indices) if node.attr("axes") == (0, 1) and x.type.rank == 2 else None
    if axis is None:
        return None
    column = _column(indices[axis], axis)
    return reshape(take_along_axis(x, column, axis=axis), shape=node.type.shape)


def _put(node: Node) -> Node | None:
    updates, *indices = node.inputs
    axis = _free_axis(node.type.shape, indices) if node.attr("axes") == (0, 1) and node.type.rank == 2 else None
    if axis is None:
        return None
    columns = _column(updates, axis), _column(indices[axis], axis)
    return scatter_add_along_axis(*columns, axis=axis, size=node.type.shape[axis])


def _free_axis(shape: tuple[int | str, ...], indices: list[Node]) -> int | None:
    """The axis whose position is picked, where the other's positions are all there are, in order."""
    if indices[0].type.rank != 1:
        return None
    return next((1 - k for k, index in enumerate(indices) if _counts(index, shape[k])), None)


def _counts(index: Node, size: int | str) -> bool:
    """Whether the value is 0, 1, 2, ... up to the size."""
    if index.type.shape != (size,):
        return False
    if index.op.name == "constant":
        array = index.attr("value").array
        return array.dtype.kind in "iu" and bool(np.array_equal(array, np.arange(len(array))))
    return index.op.name == "iota" and not dims.any_local([size])  # a chunk's do not begin at 0


def _column(vector: Node, axis: int) -> Node:
    (size,) = vector.type.shape
    return reshape(vector, shape=(size, 1) if axis else (1, size))


RULES = (
    Rule("pick one of each row", frozenset({"take_at"}), _pick),
    Rule("put one into each row", frozenset({"scatter_add_at"}), _put),
)
