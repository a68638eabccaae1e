"""Axis rules of bodies: which axes of a body's inputs, outputs and all between belong together.

The axes that the rules of the nodes inside identify form classes (union-find); carried values identify the axes of
an input with those of an output. A class may be cut if every node inside allows it. A class that is contracted
inside gives a partial sum, if from there on only linear ops follow up to the output that is asked for.
"""

from collections.abc import Iterable, Sequence

from graphir import walk
from graphir.axes import AxisRule
from graphir.body import Body
from graphir.dims import Dim
from graphir.node import Node

Axis = tuple[Node, int]


class Factors:
    """Classes of axes of the nodes below some outputs of bodies; `ties` identifies axes of pairs of nodes."""

    def __init__(self, bodies: Sequence[Body], wanted: Sequence[Node], ties: Iterable[tuple[Node, Node]]) -> None:
        self._parent: dict[Axis, Axis] = {}
        self._whole: set[Axis] = set()
        self._sums: list[tuple[Node, Axis]] = []
        self._numbers: dict[Axis, int] = {}
        self.nodes = walk.ancestors([*wanted, *(node for body in bodies for node in body.inputs)])
        for node in self.nodes:
            self._read(node)
        for left, right in ties:
            for axis in range(left.type.rank):
                self._unite((left, axis), (right, axis))
        self.whole = {self.find(axis) for axis in self._whole} | self._uneven()

    def find(self, axis: Axis) -> Axis:
        """The representative of an axis's class."""
        root = axis
        while self._parent.get(root, root) != root:
            root = self._parent[root]
        while axis != root:
            self._parent[axis], axis = root, self._parent.get(axis, axis)
        return root

    def _unite(self, a: Axis, b: Axis) -> None:
        self._parent[self.find(a)] = self.find(b)

    def _read(self, node: Node) -> None:
        own = [(node, axis) for axis in range(node.type.rank)]
        below = [(i, axis) for i in node.inputs for axis in range(i.type.rank)]
        if node.op.name == "input":
            return
        rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
        if rule is None or node.op.name == "constant":
            self._whole.update(own, below)
            return
        for factor in rule.factors:
            members = [
                (i, axis) for i, axes in zip(node.inputs, rule.inputs, strict=True)
                for axis, name in enumerate(axes) if name == factor
            ]  # fmt: skip
            members += [(node, axis) for axis, name in enumerate(rule.output) if name == factor]
            for other in members[1:]:
                self._unite(members[0], other)
            if not rule.can_cut(factor):
                self._whole.update(members)
            elif factor not in rule.output:
                if rule.combine == "sum":
                    self._sums.append((node, members[0]))
                else:
                    self._whole.update(members)

    def _uneven(self) -> set[Axis]:
        """Classes whose axes differ in size, as those of a reshape may, or that one node has twice."""
        sizes: dict[Axis, Dim] = {}
        uneven = set()
        for node in self.nodes:
            roots = [self.find((node, axis)) for axis in range(node.type.rank)]
            for root, size in zip(roots, node.type.shape, strict=True):
                if sizes.setdefault(root, size) != size or roots.count(root) > 1:
                    uneven.add(root)
        return uneven

    def partial(self, roots: Iterable[Node], forbidden: Iterable[Node], result: Node) -> frozenset[Axis]:
        """The classes along which `result` is a sum of parts; others that are contracted become whole.

        roots: what is evaluated; forbidden: carried and tested values, which must not be partial sums.
        """
        nodes = walk.ancestors([*roots, result])
        kept = set(nodes)
        found = set()
        for cut in dict.fromkeys(self.find(axis) for node, axis in self._sums if node in kept):
            if cut in self.whole:
                continue
            spread = self._flow(nodes, cut)
            if spread is None or not spread.isdisjoint(forbidden):
                self.whole.add(cut)
            elif result in spread:
                found.add(cut)
        return frozenset(found)

    def _flow(self, nodes: Sequence[Node], cut: Axis) -> set[Node] | None:
        """The nodes that are partial sums along a class; None where that does not work."""
        made = {node for node, axis in self._sums if self.find(axis) == cut}
        partial: set[Node] = set()
        for node in nodes:
            below = [source in partial for source in node.inputs]
            if any(below) and (node in made or not (all(below) and node.op.linear)):
                return None
            if node in made or any(below):
                if any(self.find((node, axis)) == cut for axis in range(node.type.rank)):
                    return None
                partial.add(node)
        return partial

    def names(self, node: Node) -> tuple[str, ...]:
        """A name for the class of each axis."""
        return tuple(self._name(self.find((node, axis))) for axis in range(node.type.rank))

    def _name(self, root: Axis) -> str:
        return f"f{self._numbers.setdefault(root, len(self._numbers))}"

    def whole_names(self) -> frozenset[str]:
        """The names of classes that cannot be cut."""
        return frozenset(self._name(root) for root in self.whole)

    def sizes_for(self, inputs: Sequence[Node], types: Sequence[Sequence[Dim]]) -> dict[Axis, Dim]:
        """The new size of every axis in a class whose size differs at an input."""
        new: dict[Axis, Dim] = {}
        for node, shape in zip(inputs, types, strict=True):
            for axis, size in enumerate(shape):
                if size != node.type.shape[axis]:
                    new[self.find((node, axis))] = size
        axes = [(node, axis) for node in self.nodes for axis in range(node.type.rank)]
        return {axis: new[self.find(axis)] for axis in axes if self.find(axis) in new}


def joint_rule(bodies: tuple[Body, ...], output: int) -> tuple[Factors, AxisRule]:
    """The axis rule of an output that every body can give."""
    first = bodies[0]
    results = [body.outputs[output] for body in bodies]
    ties = [pair for body in bodies[1:] for pair in zip(first.inputs, body.inputs, strict=True)]
    ties += [pair for body in bodies[1:] for pair in zip(first.outputs, body.outputs, strict=True)]
    factors = Factors(bodies, [node for body in bodies for node in body.outputs], ties)
    parts = [factors.partial([], [], result) for result in results]
    common = frozenset.intersection(*parts)
    factors.whole |= frozenset.union(*parts) - common
    inputs, out = tuple(factors.names(node) for node in first.inputs), factors.names(results[0])
    summed = {factors.names(node)[axis] for node, axis in common}
    unused = {name for axes in inputs for name in axes if name not in out and name not in summed}
    return factors, AxisRule(inputs, out, "sum" if summed else None, factors.whole_names() | unused)
