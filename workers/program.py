"""A graph as a flat program: kernels, the slots of their operands and results, and which slots are free afterwards.

Elementwise nodes come in fused groups (`fuse`, `blocks`) unless every value is wanted by itself. Nothing here depends on sizes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from graphir import walk
from graphir.graph import Graph
from graphir.interpret import joint_kernel
from graphir.node import Node
from workers import backends, products
from workers.backends.numpy.loops import Loop
from workers.backends.numpy.repeat import Repeat
from workers.blocks import Blocked
from workers.fuse import Group, Item, schedule

PLANNED: dict[str, Callable[..., Any]] = {"scan": Loop, "while_loop": Repeat}
"""Who makes the kernel of outputs that are evaluated together, where it is not the op itself."""


@dataclass(frozen=True, slots=True)
class Line:
    """One call. node: whose value it makes, or the first of several; attributes: whether the node's are to be bound and passed.

    apart: of a fused group, the calls that make its values one by one.
    """

    node: Node
    kernel: Callable[..., Any]
    sources: tuple[int, ...]
    target: int
    free: tuple[int, ...]
    attributes: bool
    apart: tuple["Line", ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """Lines over `slots` slots, of which the first are those of the graph's nodes."""

    lines: tuple[Line, ...]
    slots: int


def compiled(
    graph: Graph, kernels: backends.Kernels, threads: int, *, fused: bool, loop: Callable[..., Any] | None = None
) -> Program:
    """The program of a graph with a back-end's kernels, and what makes loops of fused groups."""
    items: Sequence[Item] = schedule(graph) if fused else graph.nodes
    return _Compiler(graph, kernels, threads, loop).program(items)


class _Compiler:
    def __init__(self, graph: Graph, kernels: backends.Kernels, threads: int, loop: Callable[..., Any] | None) -> None:
        self._slot = {node: k for k, node in enumerate(graph.nodes)}
        self._kernels, self._threads, self._loop = kernels, threads, loop
        self._siblings = walk.siblings(graph.nodes)
        self._picks = {node: (first, k) for first, group in self._siblings.items() for k, node in enumerate(group)}
        self._keep = {self._slot[node] for node in graph.outputs.values()}
        self._shared: dict[Node, int] = {}
        self._slots = len(graph.nodes)
        self._calls: list[tuple[Node, Callable[..., Any], tuple[int, ...], int, bool]] = []

    def program(self, items: Sequence[Item]) -> Program:
        for item in items:
            if isinstance(item, Node):
                self._node(item)
            else:
                self._group(item)
        last = {source: position for position, call in enumerate(self._calls) for source in call[2]}
        dead: dict[int, list[int]] = {}
        for slot, position in last.items():
            if slot not in self._keep:
                dead.setdefault(position, []).append(slot)
        lines = [
            Line(node, kernel, sources, target, tuple(dead.get(position, ())), attributes, self._apart(kernel))
            for position, (node, kernel, sources, target, attributes) in enumerate(self._calls)
        ]
        return Program(tuple(lines), self._slots)

    def _apart(self, kernel: Callable[..., Any]) -> tuple[Line, ...]:
        if not isinstance(kernel, Blocked):
            return ()
        return tuple(
            Line(
                node, self._kernels(node.op), tuple([self._slot[i] for i in node.inputs]), self._slot[node],
                tuple([self._slot[i] for i in dead]), bool(node.attrs),
            )
            for node, dead in kernel.group.uses
        )  # fmt: skip

    def _node(self, node: Node) -> None:
        sources = tuple([self._slot[i] for i in node.inputs])
        if node in self._siblings:  # all outputs of one application first, then each is picked
            group = self._siblings[node]
            made: Callable[..., Any] = PLANNED.get(node.op.name, joint_kernel)
            kernel = made(group)
            self._calls.append((node, kernel, sources, self._new(node), True))
        if node in self._picks:
            first, k = self._picks[node]
            self._calls.append((node, itemgetter(k), (self._shared[first],), self._slot[node], False))
        elif node.op.name != "input":
            kernel = self._kernels(node.op)
            if node.op.name in products.MADE:
                kernel = products.MADE[node.op.name](kernel, self._threads)
            self._calls.append((node, kernel, sources, self._slot[node], bool(node.attrs)))

    def _group(self, group: Group) -> None:
        loop = self._loop(group) if self._loop is not None else None
        if loop is None and len(group.nodes) == 1:
            self._node(group.nodes[0])
            return
        blocked = Blocked(group, {node: self._kernels(node.op) for node in group.nodes}, self._threads, loop)
        first = group.outputs[0]
        sources = tuple([self._slot[i] for i in blocked.inputs])
        self._calls.append((first, blocked, sources, self._new(first), False))
        for k, node in enumerate(group.outputs):
            self._calls.append((node, itemgetter(k), (self._shared[first],), self._slot[node], False))

    def _new(self, node: Node) -> int:
        """A slot for what several nodes' values are taken from."""
        self._shared[node] = self._slots
        self._slots += 1
        return self._slots - 1
