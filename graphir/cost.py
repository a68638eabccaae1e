"""Counting operations: the floating-point work of a graph by its ops' axis rules and costs, without running it."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from graphir import dims, walk
from graphir.body import Body
from graphir.control.retrace import retraced_of
from graphir.control.scan import retraced_scan, scan
from graphir.control.schedule import forward_steps
from graphir.control.steps import layout_of
from graphir.graph import Graph
from graphir.node import Node


def operations(graph: Graph, sizes: Mapping[str, int] | None = None) -> int:
    """Operations of one evaluation: index points of each node's axis rule times the op's cost; views count nothing.

    An op without a rule counts the elements of its output.
    """
    return nodes_operations(graph.nodes, sizes or {})


def nodes_operations(nodes: Iterable[Node], sizes: Mapping[str, int]) -> int:
    """Operations of some nodes; siblings among them are evaluated together."""
    nodes = list(nodes)
    groups = walk.siblings(nodes)
    later = {node for group in groups.values() for node in group[1:]}  # evaluated with the first
    return sum(
        _control_operations(groups[node], sizes) if node.op.has_body else node_operations(node, sizes)
        for node in nodes
        if node not in later
    )


def _control_operations(group: Sequence[Node], sizes: Mapping[str, int]) -> int:
    """What is evaluated of the dearest body, as often as it is repeated; without a known length it counts once."""
    attrs = dict(group[0].attrs)
    wanted = _evaluated(group, attrs)
    bodies = {name: body for name, body in attrs.items() if isinstance(body, Body)}
    ahead = bodies.pop("forward", None)  # the states that a retraced scan computes again
    length = dims.evaluate(attrs.get("length", 1), sizes)
    again = 0 if ahead is None else forward_steps(length, attrs["checkpoints"]) * nodes_operations(ahead.nodes, sizes)
    once = (
        nodes_operations(walk.ancestors([body.outputs[k] for k in wanted if k < len(body.outputs)]), sizes)
        for body in bodies.values()
    )
    return length * max(once) + again


def _evaluated(group: Sequence[Node], attrs: Mapping[str, Any]) -> Sequence[int]:
    outputs = [node.attr("output") for node in group]
    if group[0].op is scan:
        return layout_of(dict(attrs)).evaluated(outputs)
    return retraced_of(dict(attrs)).back.evaluated(outputs) if group[0].op is retraced_scan else outputs


def node_operations(node: Node, sizes: Mapping[str, int]) -> int:
    """Operations of one node."""
    if node.op.cheap:
        return 0
    if node.op.has_body:
        return _control_operations((node,), sizes)
    rule = node.op.axis_rule(tuple(source.type for source in node.inputs), node.attrs)
    out = node.type.bind(sizes)
    shapes = [i.type.bind(sizes) for i in node.inputs]
    points = prod(out) if rule is None else rule.work(shapes, out)
    return points * (node.op.cost(*shapes) if callable(node.op.cost) else node.op.cost)
