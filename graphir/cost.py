"""Counting operations: the floating-point work of a graph by its ops' axis rules and costs, without running it."""

from collections.abc import Mapping
from math import prod

from graphir.graph import Graph
from graphir.node import Node


def operations(graph: Graph, sizes: Mapping[str, int] | None = None) -> int:
    """Operations of one evaluation: index points of each node's axis rule times the op's cost; views count nothing.

    An op without a rule counts the elements of its output.
    """
    return sum(node_operations(node, sizes or {}) for node in graph.nodes)


def node_operations(node: Node, sizes: Mapping[str, int]) -> int:
    """Operations of one node."""
    if node.op.cheap:
        return 0
    rule = node.op.axis_rule(tuple(source.type for source in node.inputs), node.attrs)
    out = node.type.bind(sizes)
    points = prod(out) if rule is None else rule.work([i.type.bind(sizes) for i in node.inputs], out)
    return points * node.op.cost
