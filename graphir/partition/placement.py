"""Placements along one cut dimension: one linear pass over a graph, from axis rules alone.

Each node becomes whole (computed once), shard (a slice of one axis for each chunk) or partial (a summand for each
chunk), in a stage: map(0), combine(0), single(0), map(1), ... Derivative nodes need no rule of their own.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir import dims
from graphir.axes import AxisRule
from graphir.graph import Graph
from graphir.node import Kind, Node, describe, make
from graphir.partition.plan import Layout
from graphir.types import TensorType
from graphir.walk import rebuild


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where a node's value lives; of equal ones there is one object a pass.

    stage: for shard and partial, the map stage that makes it; for whole, the stage after whose combine and
    single steps it is there (-1: before the first map). needs: for each input of a node in a map step, the axis
    along which its slice is needed, or None for all of it.
    """

    layout: Layout
    stage: int
    axis: int | None = None
    combine: str | None = None
    needs: tuple[int | None, ...] = ()
    free: bool = False


def lower(graph: Graph, cut: str) -> Graph:
    """Ops that cannot be cut along the dimension but can be taken apart are."""

    def is_taken_apart(kind: Kind) -> bool:
        op, rule = kind.op, kind.rule
        return op.decompose is not None and rule is not None and any(f in rule.whole for f in _factors_of(kind, cut))

    def replace(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        kind = node.op.kinds(tuple([i.type for i in inputs]), node.attrs)
        if node.op.decompose is None or not is_taken_apart(kind):
            return None
        result: Node = node.op.decompose(*inputs, **dict(node.attrs))
        return result

    if not any(is_taken_apart(kind) for kind in graph.columns.kinds if kind.op.decompose is not None):
        return graph.with_outputs(graph.outputs, graph.inputs.values())
    image = rebuild(graph.nodes, replace)
    return Graph({name: image[node] for name, node in graph.outputs.items()}, inputs=graph.inputs)


def _factors_of(kind: Kind, cut: str) -> list[str]:
    return [
        name
        for axes, type_ in zip(kind.rule.inputs if kind.rule else (), kind.types, strict=True)
        for name, d in zip(axes, type_.shape, strict=True)
        if cut in dims.names(d)
    ]


def place(
    graph: Graph, cut: str, given: Mapping[str, int | None] | None = None
) -> tuple[dict[Node, Placement], list[str]]:
    """The placement of every node, and for each thing that is not cut the reason; `given`: the inputs' sliced axes."""
    placed: dict[Node, Placement] = {}
    notes: list[str] = []
    known: dict[tuple[Kind | Placement | None, ...], Placement] = {}
    same: dict[tuple[Any, ...], Placement] = {}
    for node in graph.nodes:
        key = (node.kind, *[placed[i] for i in node.inputs])
        found = known.get(key)
        if found is None:
            told = len(notes)
            found = _inner(node, placed, notes, cut) if node.inputs else _leaf(node, cut, given)
            found = same.setdefault(tuple(getattr(found, field) for field in Placement.__slots__), found)
            if len(notes) == told:  # else the note names the node
                known[key] = found
        placed[node] = found
    return placed, notes


def _leaf(node: Node, cut: str, given: Mapping[str, int | None] | None) -> Placement:
    if node.op.name != "input":
        return Placement("whole", -1, free=True)
    axis = axis_along(node.type, cut) if given is None else given[node.attr("name")]
    return Placement("whole", -1) if axis is None else Placement("shard", 0, axis)


def axis_along(type_: TensorType, cut: str, taken: Collection[int] = ()) -> int | None:
    """The first axis that can be sliced in proportion with the dimension and is not among those taken."""
    return next((k for k, d in enumerate(type_.shape) if k not in taken and scales_with(d, cut)), None)


def scales_with(d: dims.Dim, cut: str) -> bool:
    """Whether an axis of this size can be sliced along the dimension: in proportion, and not sliced along another one."""
    return dims.is_multiple_of(d, cut) and not any("." in name for name in dims.names(d))


def _inner(node: Node, placed: dict[Node, Placement], notes: list[str], cut: str) -> Placement:
    inputs = [placed[i] for i in node.inputs]
    stages = [p.stage for p in inputs]
    if all(p.layout != "shard" for p in inputs):
        if _stays_partial(node, inputs, cut):
            return Placement("partial", stages[0], combine="sum", needs=(None,) * len(inputs))
        free = all(p.layout == "whole" for p in inputs) and _made_where_used(node, cut)
        return Placement("whole", max(stages), free=free)
    rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
    for position, p in enumerate(inputs):
        if p.layout != "shard" or p.axis is None or rule is None:
            continue
        factor = rule.inputs[position][p.axis]
        if can_cut(node, rule, factor, cut):
            return _cut(node, rule, factor, inputs, notes)
    reason = "has no axis rule" if rule is None else "needs the whole of the axis"
    notes.append(f"gathered: {node.op.name} {reason}: {describe(node)}")
    return Placement("whole", max(stages))


def can_cut(node: Node, rule: AxisRule, factor: str, cut: str) -> bool:
    """Whether the factor may be cut, and each axis that it indexes is cut in proportion with the dimension."""
    axes = [(rule.axis_in(factor, position), source) for position, source in enumerate(node.inputs)]
    axes.append((rule.axis_out(factor), node))
    return rule.can_cut(factor) and all(
        axis is None or scales_with(value.type.shape[axis], cut) for axis, value in axes
    )


def _stays_partial(node: Node, inputs: list[Placement], cut: str) -> bool:
    """Whether a linear op acts on partial sums; not where each chunk would hold a summand of the cut size."""
    sums = all(p.layout == "partial" and p.combine == "sum" and p.stage == inputs[0].stage for p in inputs)
    return sums and node.op.linear and not any(cut in dims.names(d) for d in node.type.shape)


def _made_where_used(node: Node, cut: str) -> bool:
    """Whether a value of whole ones is made again by each step that uses it: views, and what has the cut axis."""
    along = [axis for axis, d in enumerate(node.type.shape) if scales_with(d, cut)]
    if not along:
        return node.op.cheap
    rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
    return rule is not None and all(can_cut(node, rule, rule.output[axis], cut) for axis in along)


def _cut(node: Node, rule: AxisRule, factor: str, inputs: list[Placement], notes: list[str]) -> Placement:
    needs = tuple(rule.axis_in(factor, position) for position in range(len(inputs)))
    stage = 0
    for source, p, axis in zip(node.inputs, inputs, needs, strict=True):
        own = p.layout == "shard" and p.axis == axis
        stage = max(stage, p.stage if own else p.stage + 1)
        if p.layout == "shard" and not own:
            notes.append(f"gathered: an operand of {node.op.name} is needed whole: {describe(source)}")
    out = rule.axis_out(factor)
    if out is None:
        return Placement("partial", stage, combine=rule.combine, needs=needs)
    return Placement("shard", stage, out, needs=needs)


def all_beside(graph: Graph, placed: Mapping[Node, Placement]) -> list[Placement | None]:
    """The placement of each node that is made in a map step of slices that the same step makes, with the attributes it has.

    Most nodes of a large graph are such; they need no closer look. None for the others.
    """
    table, found = graph.columns, [placed[node] for node in graph.nodes]
    each = list(dict.fromkeys(found))
    number = dict(zip(each, range(len(each)), strict=True))
    codes = np.fromiter(map(number.__getitem__, found), np.int64, len(found))
    needs = np.full((len(each), max((len(p.needs) for p in each), default=0) + 1), -1)
    for p, row in zip(each, needs, strict=True):
        row[: len(p.needs)] = [-1 if axis is None else axis for axis in p.needs]
    stage = np.array([p.stage for p in each])
    shard = np.array([p.axis if p.layout == "shard" else -2 for p in each])
    made = table.by_kind([kind.op.name != "input" for kind in table.kinds], bool)
    sources, readers = codes[table.sources], codes[table.readers]
    position = np.minimum(np.arange(len(table.sources)) - table.starts[table.readers], needs.shape[1] - 1)
    good = (shard[sources] == needs[readers, position]) & (stage[sources] == stage[readers]) & made[table.sources]
    same = table.by_kind([kind.op.local is None and "shape" not in kind.op.attrs for kind in table.kinds], bool)
    mapped = np.array([p.layout != "whole" for p in each])[codes] & same & (table.counts > 0)
    mapped[table.readers[~good]] = False
    return [p if same else None for p, same in zip(found, mapped.tolist(), strict=True)]


def resized(node: Node, inputs: tuple[Node, ...], axis: int | None, size: Callable[[dims.Dim], dims.Dim]) -> Node:
    """The node on other inputs: along one axis of its output its attribute `shape`, if it has that, names another size."""
    attrs = node.attrs
    if axis is not None and "shape" in node.op.attrs:
        shape = list(node.attr("shape"))
        shape[axis] = size(shape[axis])
        attrs = tuple((name, tuple(shape) if name == "shape" else value) for name, value in attrs)
    if node.op.local is not None:
        attrs = node.op.local(node, inputs)
    return make(node.op, inputs, attrs, node.raw_origin)
