"""The memory that a run of a graph takes: an upper bound from types and sizes alone, before anything runs."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from graphir.graph import Graph
from graphir.node import Node
from graphir.partition.cost import value_bytes
from graphir.types import TensorType
from workers.blocks import worth_blocks
from workers.fuse import Item, schedule


def peak_bytes(graph: Graph, sizes: Mapping[str, int]) -> tuple[int, Node]:
    """An upper bound on the bytes of the values that a run makes, and the node at which it is reached.

    Values are freed at their last use; what a fused group reads and gives is there until its end. Views count as nothing, and
    so do inputs, which the caller holds.
    """
    if not has_large_values(graph, sizes):
        return _peak_of_nodes(graph, sizes)
    known: dict[TensorType, int] = {}
    live = highest = 0
    at = graph.nodes[0]
    items = schedule(graph)
    freed = _freed(items, graph)
    for position, item in enumerate(items):
        inside = 0
        for node, dead in [(item, ())] if isinstance(item, Node) else item.uses:
            inside += _bytes(node, sizes, known)
            if live + inside >= highest:
                highest, at = live + inside, node
            inside -= sum(_bytes(source, sizes, known) for source in dead)
        live += inside
        for source in freed.get(position, ()):
            live -= _bytes(source, sizes, known)
    return highest, at


def has_large_values(graph: Graph, sizes: Mapping[str, int]) -> bool:
    """Whether fused groups would be cut into blocks; to find groups takes longer than small values need."""
    types = {kind.type for kind in graph.columns.kinds}
    return any(worth_blocks(prod(type_.bind(sizes)), type_.dtype.itemsize) for type_ in types)


def _peak_of_nodes(graph: Graph, sizes: Mapping[str, int]) -> tuple[int, Node]:
    """The same where nodes are evaluated one by one, on columns."""
    table, known = graph.columns, dict[TensorType, int]()
    made = table.by_kind([_bytes(node, sizes, known) for node in table.examples], np.int64)
    read = table.last >= 0
    read[[table.index[node] for node in graph.outputs.values()]] = False
    freed = np.zeros(len(graph), np.int64)
    np.add.at(freed, table.last[read], made[read])
    live = np.cumsum(made) - np.concatenate([[0], np.cumsum(freed)[:-1]])
    at = len(live) - 1 - int(live[::-1].argmax())
    return int(live[at]), graph.nodes[at]


def _freed(items: Sequence[Item], graph: Graph) -> dict[int, list[Node]]:
    """For each item the values that nobody reads after it."""
    keep = set(graph.outputs.values())
    last = {source: position for position, item in enumerate(items) for source in item.inputs}
    freed: dict[int, list[Node]] = {}
    for source, position in last.items():
        if source not in keep:
            freed.setdefault(position, []).append(source)
    return freed


def _bytes(node: Node, sizes: Mapping[str, int], known: dict[TensorType, int]) -> int:
    """The bytes of a node's value; `known` keeps those of types that were asked for."""
    if node.op.cheap and node.op.name != "reshape":  # a reshape of a transposed value is a copy
        return 0
    size = known.get(node.type)
    if size is None:
        size = known[node.type] = value_bytes(node.type, sizes)
    return size
