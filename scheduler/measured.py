"""Seconds of a program by measured speeds: what its nodes compute, and how far away the bytes are that they touch.

A value is as near as few bytes went by since it was touched last (Mattson et al. 1970, "Evaluation techniques for storage
hierarchies"): what was made just now is in a cache, and a chunk of a large input that comes once an iteration is in main
memory. A node takes longer than computing or moving alone and less than both, which overlap in part. A program that was rehearsed
takes what it took then. Prediction only: no plan depends on it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import hypot, prod

import numpy as np

from graphir import dims, walk
from graphir.axes import AxisRule
from graphir.body import Body
from graphir.cost import node_operations
from graphir.graph import Graph
from graphir.interpret import bound_attributes
from graphir.node import Array, Attrs, Node, Op
from graphir.ops.rules import elementwise_axes
from graphir.partition.cost import value_bytes
from graphir.partition.plan import Plan
from graphir.types import TensorType
from workers.blocks import BLOCK_BYTES
from workers.fuse import Item, schedule
from workers.speeds import Measured, Speeds, at, key, length, program_key


def program_seconds(program: Graph, sizes: Mapping[str, int], measured: Measured, busy: int, tasks: int = 1) -> float:
    """One run of a program where so many workers of a machine are busy, each with `tasks` such runs an iteration."""
    together = _share(measured, busy)
    name = program_key(program, sizes)
    if name in measured.alone.programs:
        alone, beside = (at(speeds.programs[name], tasks) for speeds in (measured.alone, measured.together))
        return measured.alone.task + (1 - together) * alone + together * beside
    items = schedule(program)
    taken = 0.0
    if together < 1:
        taken += (1 - together) * _Program(program.nodes, items, sizes, measured.alone, tasks).seconds()
    if together > 0:
        taken += together * _Program(program.nodes, items, sizes, measured.together, tasks).seconds()
    return taken


def runs(plan: Plan) -> Iterator[tuple[Graph, dict[str, int], int]]:
    """Each program of a plan, at the sizes of each kind of cell, and how many runs of it an iteration has."""
    for step in plan.steps:
        widths = [Counter(np.diff(plan.borders[dim]).tolist()) for dim in step.over]
        for kind in product(*widths):
            cells = prod(count[width] for count, width in zip(widths, kind, strict=True))
            yield step.program, plan.sizes_in(dict(zip(step.over, kind, strict=True))), cells


def _share(measured: Measured, busy: int) -> float:
    """How much of the way from working alone to working with all that were measured at once."""
    if measured.workers < 2:
        return 0.0
    return min(1.0, max(0.0, (min(busy, measured.cores) - 1) / (min(measured.workers, measured.cores) - 1 or 1)))


class _Program:
    """One program: bytes that go by are counted along what it evaluates, node by node or in fused groups."""

    def __init__(
        self, nodes: Sequence[Node], items: Sequence[Item], sizes: Mapping[str, int], speeds: Speeds, tasks: int
    ) -> None:
        self.sizes, self.speeds, self.tasks = sizes, speeds, tasks
        self.base: dict[Node, Node] = {}
        self.computing: dict[tuple[Op, Attrs, tuple[TensorType, ...]], float] = {}
        self.bytes: dict[TensorType, int] = {}
        self.copies = copies(nodes, sizes)
        later = {node for group in walk.siblings(nodes).values() for node in group[1:]}
        self.work = [item for item in items if not isinstance(item, Node) or (self._works(item) and item not in later)]
        self.views = sum(isinstance(item, Node) and not self._works(item) for item in items)
        for node in nodes:
            viewed = node.op.cheap and node.inputs and node not in self.copies
            self.base[node] = self.base.get(node.inputs[0], node.inputs[0]) if viewed else node

    def seconds(self) -> float:
        """With the run's own overhead."""
        total = self.speeds.task + self.views * self.speeds.view
        around = sum(map(self._touched, self.work))
        gone, touched = 0, dict[Node, int]()
        for item in self.work:
            moving = 0.0
            read = self.speeds.fetched if isinstance(item, Node) and self._side(item) else self.speeds.read
            for source in self._reads(item):
                near = gone - touched[source] if source in touched else self._first(source, around)
                moving += self._bytes(source) * at(read, max(near, 1))
            for made in _made(item):
                moving += self._bytes(made) * at(self.speeds.written, max(self._bytes(made), 1))
            total += self._taken(item, moving)
            gone += self._touched(item)
            touched |= dict.fromkeys((*self._reads(item), *_made(item)), gone)
        return total

    def _works(self, node: Node) -> bool:
        """Whether a node is neither a leaf nor a view."""
        return bool(node.inputs) and (not node.op.cheap or node in self.copies)

    def _taken(self, item: Item, moving: float) -> float:
        """The seconds of one item, whose bytes take `moving` to come and go."""
        if isinstance(item, Node):
            computing, side = self._computing(item), self._side(item)
            if side == 1:  # by a vector: fetching has the computing in it
                return self.speeds.node + max(computing, moving)
            return self.speeds.node + (computing + moving if side > 1 else hypot(computing, moving))
        blocks = max(1, self._bytes(max(item.nodes, key=self._bytes)) // BLOCK_BYTES)
        return blocks * len(item.nodes) * self.speeds.node + hypot(sum(map(self._computing, item.nodes)), moving)

    def _reads(self, item: Item) -> set[Node]:
        return {self.base[source] for source in item.inputs}

    def _first(self, source: Node, around: int) -> int:
        """What goes by between two uses of an input: of a chunk of its own, all tasks of an iteration."""
        own = dims.any_local(source.type.shape)
        return around * (self.tasks if own else 1)

    def _touched(self, item: Item) -> int:
        return sum(map(self._bytes, self._reads(item))) + sum(map(self._bytes, _made(item)))

    def _bytes(self, node: Node) -> int:
        known = self.bytes.get(node.type)
        if known is None:
            known = self.bytes[node.type] = value_bytes(node.type, self.sizes)
        return known

    def _computing(self, node: Node) -> float:
        kind = node.op, node.attrs, tuple([i.type for i in node.inputs])
        known = self.computing.get(kind)
        if known is None:
            known = self.computing[kind] = self._worked_out(node)
        return known

    def _worked_out(self, node: Node) -> float:
        if node in self.copies:
            return prod(node.type.bind(self.sizes)) * at(self.speeds.copied, node.type.dtype.itemsize)
        bodies = [value for _, value in node.attrs if isinstance(value, Body)]
        if bodies:
            times = next((dims.evaluate(v, self.sizes) for name, v in node.attrs if name == "length"), 1)
            return times * max(
                _Program(body.nodes, body.nodes, self.sizes, self.speeds, 1).seconds() for body in bodies
            )
        rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
        dtype = node.type.dtype.name
        if rule is not None and rule.combine == "sum" and len(rule.inputs) > 1 and dtype in self.speeds.outer:
            return self._product(node, rule, dtype)
        known = self.speeds.operation.get(key(node))
        each = self.speeds.other if known is None else at(known, max(1, length(node, self.sizes)))
        return node_operations(node, self.sizes) * each

    def _product(self, node: Node, rule: AxisRule, dtype: str) -> float:
        """A contraction as a stack of matrix products, by its smaller side and by the length that is summed.

        The tables say what a multiply-add takes in a product that is large otherwise; what it takes more there adds up.
        """
        outer, inner = self.speeds.outer[dtype], self.speeds.inner[dtype]
        shapes = [i.type.bind(self.sizes) for i in node.inputs]
        side, summed = _sides(rule, shapes)
        if side == 1:
            each = at(outer, 1)
        else:
            each = at(outer, side) + at(inner, summed) - min(seconds for _, seconds in (*outer, *inner))
        return rule.work(shapes, node.type.bind(self.sizes)) * each

    def _side(self, node: Node) -> int:
        """The smaller side of a matrix product's result, 0 if it is none. Beyond one, libraries copy operands before they compute."""
        rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
        if rule is None or rule.combine != "sum" or len(rule.inputs) < 2:
            return 0
        return _sides(rule, [i.type.bind(self.sizes) for i in node.inputs])[0]


def copies(nodes: Sequence[Node], sizes: Mapping[str, int]) -> set[Node]:
    """The reshapes that copy: NumPy itself is asked, with arrays of the right shape and strides that nobody reads."""
    like: dict[Node, Array] = {}
    found = set()
    for node in nodes:
        shape = node.type.bind(sizes)
        if node.op.name == "reshape":
            try:
                like[node] = np.reshape(like[node.inputs[0]], shape, copy=False)
            except ValueError:
                found.add(node)
                like[node] = _fresh(shape, range(len(shape)))
        elif node.op.cheap and node.inputs:
            like[node] = node.op.kernel(*[like[i] for i in node.inputs], **bound_attributes(node, sizes))
        elif node.op.axes is elementwise_axes:
            operands = [like[i] for i in node.inputs if like[i].shape == shape and all(like[i].strides)]
            strides = operands[0].strides if operands else ()
            like[node] = _fresh(shape, sorted(range(len(strides)), key=lambda axis: -abs(strides[axis])))
        else:
            like[node] = _fresh(shape, range(len(shape)))
    return found


def _fresh(shape: tuple[int, ...], order: Sequence[int]) -> Array:
    """Looks like a new array whose axes lie in memory in this order, the last one closest."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order or range(len(shape))):
        strides[axis] = step
        step *= max(1, shape[axis])
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), shape, strides, writeable=False)


def _made(item: Item) -> tuple[Node, ...]:
    return (item,) if isinstance(item, Node) else item.outputs


def _sides(rule: AxisRule, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """The smaller side of the result of a matrix product, and the length that is summed."""
    size = {f: s for axes, shape in zip(rule.inputs, shapes, strict=True) for f, s in zip(axes, shape, strict=True)}
    rows, columns, kept = set(rule.inputs[0]), set(rule.inputs[1]), set(rule.output)
    sides = [prod(size[f] for f in group) for group in ((rows & kept) - columns, (columns & kept) - rows)]
    return max(1, min(sides)), max(1, prod(size[f] for f in size if f not in kept))
