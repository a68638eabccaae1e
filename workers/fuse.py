"""Fused groups: elementwise nodes of one shape that are evaluated together, block by block in cache, never whole in memory.

A group is open while nobody outside has asked for one of its values; nodes of its shape join it. A node that would close a group
waits, if nothing needs it yet, so that a reduction of a value does not part the value from its derivatives. Groups are
made in creation order in linear time, and depend on the graph alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

from graphir import walk
from graphir.dims import Dim
from graphir.graph import Graph
from graphir.node import Node
from graphir.ops.rules import elementwise_axes

WAITING = 4
"""How many nodes may wait for a group at one time: each keeps a value of the group in memory."""
MOST = 256
"""How many nodes a group has at most."""


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes in the order in which they are evaluated; `outputs` are those of them that are needed outside."""

    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The values that it reads, each once."""
        inside = set(self.nodes)
        return tuple(dict.fromkeys(i for node in self.nodes for i in node.inputs if i not in inside))

    @property
    def uses(self) -> list[tuple[Node, list[Node]]]:
        """Each node, and the inner values that are not needed after it."""
        last, outputs = walk.last_uses(self.nodes), set(self.outputs)
        dead: list[list[Node]] = [[] for _ in self.nodes]
        for node in self.nodes:
            if node in last and node not in outputs:
                dead[last[node]].append(node)
        return list(zip(self.nodes, dead, strict=True))


Item: TypeAlias = Node | Group


_SCHEDULES: WeakKeyDictionary[Graph, list[Item]] = WeakKeyDictionary()
"""Of graphs that are alive: memory is estimated for several sizes, and then the graph is compiled."""


def fusable(node: Node) -> bool:
    """Whether each element of the node's value depends on the same element of its inputs alone."""
    return node.op.axes is elementwise_axes and not node.op.cheap


def schedule(graph: Graph) -> list[Item]:
    """The nodes in an order of evaluation, elementwise ones in groups; a node with siblings stands for all of them."""
    known = _SCHEDULES.get(graph)
    if known is None:
        known = _SCHEDULES[graph] = _scheduled(graph)
    return known


def _scheduled(graph: Graph) -> list[Item]:
    followers = {node for group in walk.siblings(graph.nodes).values() for node in group[1:]}
    scheduler = _Scheduler()
    for node in graph.nodes:
        if node in followers:  # evaluated with the first of them, but taken out of it later
            scheduler.follow(node)
        else:
            scheduler.take(node)
    return _with_outputs(scheduler.end(), graph)


@dataclass(eq=False)
class _Open:
    """A group that can still grow; `reads`: what it takes from outside."""

    shape: tuple[Dim, ...]
    nodes: list[Node] = field(default_factory=list)
    waiting: list[Node] = field(default_factory=list)
    reads: set[Node] = field(default_factory=set)


@dataclass
class _Scheduler:
    """Takes nodes in topological order. home: the open group in which a node is, or for which it waits."""

    done: list[Node | _Open] = field(default_factory=list)
    home: dict[Node, _Open] = field(default_factory=dict)
    latest: dict[tuple[Dim, ...], _Open] = field(default_factory=dict)

    def take(self, node: Node) -> None:
        """Put a node into a group, let it wait for one, or evaluate it now."""
        groups = list(dict.fromkeys([self.home[i] for i in node.inputs if i in self.home]))
        early = not any(i in group.waiting for group in groups for i in node.inputs)
        if fusable(node):
            fitting = early and all(group.shape == node.type.shape for group in groups)
            if not fitting:
                self._close(groups)
            self._join(node, self._merged(groups) if groups and fitting else self._related(node))
        elif early and len(groups) == 1 and len(groups[0].waiting) < WAITING:
            groups[0].waiting.append(node)
            self.home[node] = groups[0]
        else:
            self._close(groups)
            self.done.append(node)

    def follow(self, node: Node) -> None:
        """A further output of an application: it comes right after what it belongs to."""
        self._close(list(dict.fromkeys([self.home[i] for i in node.inputs if i in self.home])))
        self.done.append(node)

    def end(self) -> list[Node | _Open]:
        """Everything, after the last node."""
        self._close(list(dict.fromkeys(self.home.values())))
        return self.done

    def _related(self, node: Node) -> _Open | None:
        """An open group of the node's shape that reads what the node reads."""
        group = self.latest.get(node.type.shape)
        return group if group is not None and not group.reads.isdisjoint(node.inputs) else None

    def _merged(self, groups: list[_Open]) -> _Open:
        first, *others = groups
        for other in others:
            first.nodes += other.nodes
            first.waiting += other.waiting
            first.reads |= other.reads
            self.home |= dict.fromkeys((*other.nodes, *other.waiting), first)
        return first

    def _join(self, node: Node, group: _Open | None) -> None:
        if group is not None and len(group.nodes) >= MOST:
            self._close([group])
            group = None
        if group is None:
            group = _Open(node.type.shape)
        self.latest[group.shape] = group
        group.nodes.append(node)
        group.reads.update([i for i in node.inputs if self.home.get(i) is not group])
        self.home[node] = group

    def _close(self, groups: list[_Open]) -> None:
        for group in groups:
            if self.latest.get(group.shape) is group:
                del self.latest[group.shape]
            self.done.append(group)
            self.done.extend(group.waiting)
            for node in (*group.nodes, *group.waiting):
                del self.home[node]


def _with_outputs(done: Sequence[Node | _Open], graph: Graph) -> list[Item]:
    outside = set(graph.outputs.values())
    for item in done:
        if isinstance(item, Node):
            outside.update(item.inputs)
        else:
            inside = set(item.nodes)
            outside.update(i for node in item.nodes for i in node.inputs if i not in inside)
    return [
        Group(tuple(item.nodes), tuple(node for node in item.nodes if node in outside))
        if isinstance(item, _Open)
        else item
        for item in done
    ]
