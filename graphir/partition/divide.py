"""Divide the single steps of a plan into parts that several workers can perform (`dag.split`).

Leaves and views are made again in each part that uses them; outputs of one application stay together. A part is a single
step like any other, and the parts of a step are in an order in which each reads what is there already.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from graphir import walk
from graphir.graph import Graph
from graphir.node import Node, made_by
from graphir.ops.sources import input_
from graphir.origin import Origin
from graphir.partition.cost import Estimate
from graphir.partition.dag import PART_SECONDS, Weights, consumers, split
from graphir.partition.data import mark_of
from graphir.partition.plan import Plan, Read, Step, Value


def divide(plan: Plan) -> Plan:
    """The plan with heavy single steps in parts; a function of the graph and the sizes alone."""
    steps: list[Step] = []
    values, notes = dict(plan.values), list(plan.notes)
    for step in plan.steps:
        parts = _parts(plan, step) if step.kind == "single" else []
        if len(parts) < 2:
            steps.append(step)
            continue
        with made_by(Origin("pass", of="partition")):
            steps += _Division(plan, step, parts, values).steps()
        notes.append(f"a single step of stage {step.stage} is divided into {len(parts)} parts: {_sizes(parts)} nodes")
    return replace(plan, steps=tuple(steps), values=values, notes=tuple(notes))


def weights(sizes: Mapping[str, int]) -> Weights:
    """Estimates of a node's seconds and bytes."""
    estimate = Estimate(sizes)
    return Weights(estimate.seconds, estimate.bytes)


def _sizes(parts: list[list[Node]]) -> str:
    return ", ".join(str(len(part)) for part in parts[:8]) + (", ..." if len(parts) > 8 else "")


def _parts(plan: Plan, step: Step) -> list[list[Node]]:
    """The nodes of a step that compute something, in parts; no parts if there is too little work."""
    estimate = weights(plan.sizes)
    if sum(map(estimate.seconds, step.program.nodes)) < 2 * PART_SECONDS:
        return []
    inputs = contracted(step.program)
    if sum(estimate.seconds(node) for node in inputs) < 2 * PART_SECONDS:
        return []
    return _with_siblings(split(inputs, estimate), inputs, walk.siblings(list(inputs)))


def contracted(program: Graph) -> dict[Node, tuple[Node, ...]]:
    """For each node that computes something, those of its kind that it reads, directly or through views."""
    behind: dict[Node, tuple[Node, ...]] = {}
    found: dict[Node, tuple[Node, ...]] = {}
    for node in program.nodes:
        sources = tuple(dict.fromkeys([base for i in node.inputs for base in behind[i]]))
        if node.op.cheap or not node.inputs:
            behind[node] = sources
        else:
            found[node] = sources
            behind[node] = (node,)
    return found


def _with_siblings(
    parts: list[list[Node]], inputs: Mapping[Node, tuple[Node, ...]], groups: Mapping[Node, tuple[Node, ...]]
) -> list[list[Node]]:
    """Outputs of one application go to the part of the first of them."""
    where = {node: number for number, part in enumerate(parts) for node in part}
    for group in groups.values():
        where |= dict.fromkeys(group, min(where[node] for node in group))
    found: list[list[Node]] = [[] for _ in parts]
    for node in inputs:
        found[where[node]].append(node)
    return [part for part in found if part]


class _Division:
    """One step while it is divided; `values` gets the values that go from part to part."""

    def __init__(self, plan: Plan, step: Step, parts: list[list[Node]], values: dict[str, Value]) -> None:
        self.plan, self.step, self.parts, self.values = plan, step, parts, values
        self.where = {node: number for number, part in enumerate(parts) for node in part}
        self.reads = {read.input: read for read in step.reads}
        users = consumers(contracted(step.program))
        self.sent = [n for n in self.where if any(self.where[user] != self.where[n] for user in users.get(n, ()))]
        outputs = {node: name for name, node in step.program.outputs.items()}
        self.names = {node: outputs.get(node) or self._new(node) for node in self.sent}

    def _new(self, node: Node) -> str:
        name = f"{mark_of(self.plan.graph.inputs)}part.{len(self.values)}"
        self.values[name] = Value(name, node.type)
        return name

    def steps(self) -> Iterable[Step]:
        """The parts as single steps."""
        program = self.step.program
        outputs: list[dict[str, Node]] = [{} for _ in self.parts]
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
