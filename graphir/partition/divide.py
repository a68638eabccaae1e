"""Divide the single steps of a plan into parts that several workers can perform (`dag.split`).

Leaves and views are made again in each part that uses them; outputs of one application stay together. A part is a single
step like any other, and the parts of a step are in an order in which each reads what is there already.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphir import walk
from graphir.graph import Graph
from graphir.node import Node, made_by
from graphir.ops.sources import input_
from graphir.origin import Origin
from graphir.partition.cost import Estimate
from graphir.partition.dag import PART_SECONDS, TOO_LITTLE, split
from graphir.partition.data import mark_of
from graphir.partition.flow import Flow, distinct
from graphir.partition.plan import Plan, Read, Step, Value
from graphir.walk import Column


def divide(plan: Plan) -> Plan:
    """The plan with heavy single steps in parts; a function of the graph and the sizes alone."""
    steps: list[Step] = []
    values, notes = dict(plan.values), list(plan.notes)
    for step in plan.steps:
        if step.kind != "single":
            steps.append(step)
            continue
        parts, why_not = parts_of(step.program, plan.sizes)
        if parts is None:
            steps.append(step)
            if not plan.cuts or why_not != TOO_LITTLE:
                notes.append(f"a single step of stage {step.stage} is not divided: {why_not}")
            continue
        with made_by(Origin("pass", of="partition")):
            steps += _Division(plan, step, parts, values).steps()
        notes.append(f"a single step of stage {step.stage} is divided into {parts.count} parts: {parts.sizes()} nodes")
    return replace(plan, steps=tuple(steps), values=values, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class Parts:
    """part: of each node of the program that computes something, -1 for leaves and views; sent: whose value another part reads."""

    part: Column
    sent: Column

    @property
    def count(self) -> int:
        """How many parts there are."""
        return int(self.part.max()) + 1

    def sizes(self) -> str:
        """How many nodes compute something in each, in words."""
        numbers = np.bincount(self.part[self.part >= 0]).tolist()
        return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def parts_of(program: Graph, sizes: Mapping[str, int]) -> tuple[Parts | None, str]:
    """The program in parts; None, and why, if there is too little work for two or nothing ends earlier."""
    estimate = Estimate(sizes)
    if estimate.total(program.columns) < 2 * PART_SECONDS:
        return None, TOO_LITTLE
    nodes, flow = contracted(program, estimate)
    part, why_not = split(flow)
    part = _with_siblings(part, nodes, program)
    if not part.any():
        return None, why_not or "its parts have outputs of one application"
    found = np.full(len(program), -1)
    found[nodes] = part
    crosses = part[flow.sources] != part[flow.readers]
    return Parts(found, nodes[distinct(flow.sources[crosses])]), ""


def contracted(program: Graph, estimate: Estimate) -> tuple[Column, Flow]:
    """The places of the nodes that compute something, and for each those of its kind that it reads, directly or through views."""
    table = program.columns
    seconds, bytes_ = estimate.columns(table)
    view = table.by_kind([kind.op.cheap and len(kind.types) == 1 for kind in table.kinds], bool)
    computes = (table.counts > 0) & ~view
    base = np.arange(len(program))
    base[view] = table.sources[table.starts[:-1][view]]
    while (further := base[base]).tobytes() != base.tobytes():  # views of views, twice as far each time
        base = further
    sources, readers = base[table.sources], base[table.readers]
    read = computes[sources] & computes[table.readers]
    nodes, number = computes.nonzero()[0], np.cumsum(computes) - 1
    pairs = distinct(number[readers[read]] * len(nodes) + number[sources[read]])
    readers, sources = np.divmod(pairs, max(1, len(nodes)))
    return nodes, Flow(sources, np.bincount(readers, minlength=len(nodes)), seconds[nodes], bytes_[nodes])


def _with_siblings(part: Column, nodes: Column, program: Graph) -> Column:
    """Outputs of one application go to the part of the first of them; parts are numbered anew."""
    if any(kind.op.joint is not None for kind in program.columns.kinds):
        number = {program.nodes[place]: k for k, place in enumerate(nodes.tolist())}
        for group in walk.siblings(number).values():
            places = [number[node] for node in group]
            part[places] = part[places].min()
    return np.unique(part, return_inverse=True)[1]


class _Division:
    """One step while it is divided; `values` gets the values that go from part to part."""

    def __init__(self, plan: Plan, step: Step, parts: Parts, values: dict[str, Value]) -> None:
        self.plan, self.step, self.count, self.values = plan, step, parts.count, values
        pairs = zip(step.program.nodes, parts.part.tolist(), strict=True)
        self.where = {node: number for node, number in pairs if number >= 0}
        self.reads = {read.input: read for read in step.reads}
        self.sent = [step.program.nodes[place] for place in parts.sent.tolist()]
        outputs = {node: name for name, node in step.program.outputs.items()}
        self.names = {node: outputs.get(node) or self._new(node) for node in self.sent}

    def _new(self, node: Node) -> str:
        name = f"{mark_of(self.plan.graph.inputs)}part.{len(self.values)}"
        self.values[name] = Value(name, node.type)
        return name

    def steps(self) -> Iterable[Step]:
        """The parts as single steps."""
        program = self.step.program
        outputs: list[dict[str, Node]] = [{} for _ in range(self.count)]
        for node in self.sent:
            outputs[self.where[node]][self.names[node]] = node
        for name, node in program.outputs.items():
            outputs[self._part_of(node)].setdefault(name, node)
        return [self._step(number, wanted) for number, wanted in enumerate(outputs) if wanted]

    def _part_of(self, node: Node) -> int:
        """The part of a node, or of what it is a view of."""
        stack, last = [node], 0
        while stack:
            one = stack.pop()
            if one in self.where:
                last = max(last, self.where[one])
            else:
                stack.extend(one.inputs)
        return last

    def _step(self, number: int, wanted: Mapping[str, Node]) -> Step:
        outside = {
            node: input_(name=self.names[node], dtype=node.type.dtype.name, shape=node.type.shape)
            for node in self.names
            if self.where[node] < number
        }
        needed = walk.ancestors(wanted.values(), stop=frozenset(outside))
        image = walk.substitute([node for node in needed if node not in outside], outside)
        graph = Graph({name: image[node] for name, node in wanted.items()})
        reads = tuple(self.reads.get(name) or Read(name, name) for name in graph.inputs)
        return Step("single", self.step.stage, graph, reads, tuple(wanted))
