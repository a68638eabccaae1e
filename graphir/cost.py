"""Counting operations: the floating-point work of a graph by its ops' axis rules and costs, without running it."""

from collections.abc import Iterable, Mapping
from math import prod

from graphir import dims, walk
from graphir.body import Body
from graphir.control.schedule import forward_steps
from graphir.graph import Graph
from graphir.node import Node


def operations(graph: Graph, sizes: Mapping[str, int] | None = None) -> int:
    """Operations of one evaluation: index points of each node's axis rule times the op's cost; views count nothing.

    An op without a rule counts the elements of its output.
    """
    return _total(graph.nodes, sizes or {})


def _total(nodes: Iterable[Node], sizes: Mapping[str, int]) -> int:
    nodes = list(nodes)
    groups = walk.siblings(nodes)
    later = {node for group in groups.values() for node in group[1:]}  # evaluated with the first
    return sum(node_operations(node, sizes) for node in nodes if node not in later)


def _control_operations(node: Node, sizes: Mapping[str, int]) -> int:
    """The dearest body, as often as it is repeated; one without a known length counts once."""
    attrs = dict(node.attrs)
    length = dims.evaluate(attrs.get("length", 1), sizes)
    counts = {name: _total(body.nodes, sizes) for name, body in attrs.items() if isinstance(body, Body)}
    ahead = counts.pop("forward", 0)  # of a retraced scan
    again = forward_steps(length, attrs["checkpoints"]) * ahead if ahead else 0
    return length * max(counts.values()) + again


def node_operations(node: Node, sizes: Mapping[str, int]) -> int:
    """Operations of one node."""
    if node.op.cheap:
        return 0
    if any(kind == "graph" for kind in node.op.attrs.values()):
        return _control_operations(node, sizes)
    rule = node.op.axis_rule(tuple(source.type for source in node.inputs), node.attrs)
    out = node.type.bind(sizes)
    points = prod(out) if rule is None else rule.work([i.type.bind(sizes) for i in node.inputs], out)
    return points * node.op.cost
