"""The traversals of graphs, all iterative: a chain of a million nodes must not recurse."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphir.node import Node, make


def ancestors(roots: Iterable[Node], seen: set[Node] | None = None, stop: frozenset[Node] = frozenset()) -> list[Node]:
    """The roots and all they depend on, in creation order, without what is in `seen` (which is extended).

    Nodes in `stop` are included but not walked through.
    """
    seen = set() if seen is None else seen
    found: list[Node] = []
    stack = [root for root in roots if root not in seen]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        found.append(node)
        if node not in stop:
            stack.extend(node.inputs)
    found.sort(key=_serial)
    return found


def _serial(node: Node) -> int:
    return node.serial


def reaches(nodes: Sequence[Node], targets: Iterable[Node]) -> set[Node]:
    """Those of topologically ordered `nodes` that depend on a target, targets included."""
    reached = set(targets)
    for node in nodes:
        for source in node.inputs:
            if source in reached:
                reached.add(node)
                break
    return reached


def consumers(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    """For each node that is used: the nodes that use it, once each, in order."""
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        for source in dict.fromkeys(node.inputs):
            users.setdefault(source, []).append(node)
    return users


def last_uses(nodes: Sequence[Node]) -> dict[Node, int]:
    """For each node that is used: the position of the last node that uses it."""
    return {source: position for position, node in enumerate(nodes) for source in node.inputs}


def rebuild(nodes: Iterable[Node], replace: Callable[[Node, tuple[Node, ...]], Node | None]) -> dict[Node, Node]:
    """Map every node of a topological order to its image.

    `replace(node, new_inputs)` gives the image, or None for "the same op on the new inputs".
    """
    image: dict[Node, Node] = {}
    for node in nodes:
        inputs = tuple([image[i] for i in node.inputs])
        new = replace(node, inputs)
        if new is None:
            new = node if inputs == node.inputs else make(node.op, inputs, node.attrs, node.raw_origin)
        image[node] = new
    return image


def substitute(nodes: Iterable[Node], values: Mapping[Node, Node]) -> dict[Node, Node]:
    """Map every node to what it is with some nodes replaced; `nodes` need not hold what is below those."""
    image = dict(values)
    for node in nodes:
        if node not in image:
            inputs = tuple([image[i] for i in node.inputs])
            image[node] = node if inputs == node.inputs else make(node.op, inputs, node.attrs, node.raw_origin)
    return image


def siblings(nodes: Iterable[Node]) -> dict[Node, tuple[Node, ...]]:
    """The first of each group of nodes that are outputs of one application of an op, with the whole group."""
    groups: dict[Any, list[Node]] = {}
    for node in nodes:
        if node.op.joint is not None:
            shared = tuple([pair for pair in node.attrs if pair[0] != "output"])
            groups.setdefault((node.op.name, node.inputs, shared), []).append(node)
    return {group[0]: tuple(group) for group in groups.values()}
