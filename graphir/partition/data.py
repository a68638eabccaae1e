"""Cut one named dimension into chunks: from placements to map, combine and single steps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from graphir import dims
from graphir.errors import PlanError
from graphir.graph import Graph
from graphir.node import Node, made_by, make
from graphir.ops import arithmetic, select, transcendental
from graphir.ops.sources import input_
from graphir.origin import Origin
from graphir.partition.placement import Placement, all_beside, lower, place, resized
from graphir.partition.plan import Along, Kind, Plan, Read, Step, Value
from graphir.types import TensorType

JOIN = {
    "sum": arithmetic.add,
    "prod": arithmetic.multiply,
    "max": arithmetic.maximum,
    "min": arithmetic.minimum,
    "logaddexp": transcendental.logaddexp,
    "all": select.logical_and,
    "any": select.logical_or,
}
"""The op that joins two partial results."""

CHUNKS = 16
"""How many chunks a dimension is cut into unless the caller says how large a chunk is."""


@dataclass
class _Program:
    """A step's program while it is being made. images: nodes that it computes first; slices: what it reads or makes again."""

    kind: Kind
    stage: int
    cut: str
    images: dict[Node, Node] = field(default_factory=dict)
    slices: dict[Node, Node] = field(default_factory=dict)
    reads: dict[str, Read] = field(default_factory=dict)
    leaves: list[Node] = field(default_factory=list)
    clones: dict[tuple[Node, int | None], Node] = field(default_factory=dict)

    def read(self, name: str, type_: TensorType, value: str, axis: int | None) -> Node:
        """A program input that takes a value."""
        node = input_(name=name, dtype=type_.dtype.name, shape=type_.shape)
        if name not in self.reads:
            self.reads[name] = Read(name, value, () if axis is None else ((self.cut, axis),))
            self.leaves.append(node)
        return node


def borders(size: int, chunk: int | None) -> tuple[int, ...]:
    """Where chunks begin and end; by default 16 chunks, a function of the size alone."""
    if size < 1:
        raise PlanError("the dimension to cut has size 0: there is nothing to evaluate; feed at least one row")
    rows = -(-size // CHUNKS) if chunk is None else chunk
    if rows < 1:
        raise PlanError(f"a chunk has at least one row, not {rows}")
    return (*range(0, size, rows), size)


def partition(
    graph: Graph,
    sizes: Mapping[str, int],
    cut: str | None = None,
    chunk: int | None = None,
    given: Mapping[str, int | None] | None = None,
    *,
    remake: bool = False,
) -> Plan:
    """The plan that evaluates `graph` with dimension `cut` in chunks of `chunk` rows; PlanError if it cannot be.

    given: along which axis each input is already sliced, or None where it is whole; by default inputs are sliced where they can be.
    remake: slices are computed again in each stage that uses them, not kept from stage to stage: less memory, more work, same bits.
    """
    if cut is not None and given is None and cut not in graph.sizes:
        raise PlanError(f"no input has the dimension {cut!r}; the named sizes are {list(graph.sizes)}")
    if cut is not None and cut not in sizes:
        raise PlanError(f"the size of the dimension {cut!r} is not given; known are {dict(sizes)}")
    if cut is None:
        return _uncut(graph, sizes)
    with made_by(Origin("pass", of="partition")):
        lowered = lower(graph, cut)
        placed, notes = place(lowered, cut, given)
        builder = _Builder(lowered, placed, cut, remake)
        steps, values = builder.build()
    ends = {cut: borders(sizes[cut], chunk)}
    outputs = {name: builder.whole_or_shard(node) for name, node in lowered.outputs.items()}
    return Plan(graph, dict(sizes), ends, values, steps, outputs, tuple(dict.fromkeys(notes)))


def _uncut(graph: Graph, sizes: Mapping[str, int]) -> Plan:
    """One single step of all that the graph computes."""
    mark = mark_of(graph.inputs)
    inputs = {node: name for name, node in graph.inputs.items()}
    made = {node: "" for node in graph.outputs.values() if node not in inputs}
    places = sorted(graph.columns.index[node] for node in made)
    made = {graph.nodes[k]: f"{mark}{k}" for k in places}
    names = made | inputs
    outputs = {name: names[node] for name, node in graph.outputs.items()}
    if not made:
        return Plan(
            graph, dict(sizes), {}, {name: Value(name, node.type) for node, name in inputs.items()}, (), outputs
        )
    program = graph.with_outputs({name: node for node, name in made.items()})
    read = [*program.inputs, *(name for name in outputs.values() if name in graph.inputs)]
    values = {name: Value(name, graph.inputs[name].type) for name in read}
    values |= {name: Value(name, node.type) for node, name in made.items()}
    reads = tuple(Read(name, name) for name in program.inputs)
    return Plan(graph, dict(sizes), {}, values, (Step("single", 0, program, reads, tuple(made.values())),), outputs)


def mark_of(names: Iterable[str]) -> str:
    """What the names of new values start with: "%", longer if one of the names there are starts so."""
    mark, known = "%", list(names)
    while any(name.startswith(mark) for name in known):
        mark += "%"
    return mark


class _Builder:
    """Turns placements into steps, then drops what nobody reads."""

    def __init__(self, graph: Graph, placed: dict[Node, Placement], cut: str, remake: bool) -> None:
        self.graph, self.placed, self.cut, self.remake = graph, placed, cut, remake
        self.mark = mark_of(graph.inputs)
        self.index = graph.columns.index
        self.inputs = {node: name for name, node in graph.inputs.items()}
        self.wanted: dict[str, Node] = {}
        self.values: dict[str, Value] = {}
        self.programs: dict[tuple[int, Kind], _Program] = {}

    def _localised(self, size: dims.Dim) -> dims.Dim:
        """A size on a chunk."""
        return dims.rename(size, {self.cut: dims.local(self.cut)})

    def build(self) -> tuple[tuple[Step, ...], dict[str, Value]]:
        last, images = None, dict[Node, Node]()
        for node, beside in zip(self.graph.nodes, all_beside(self.graph, self.placed), strict=True):
            if beside is None:
                self._compute(node, self.placed[node])
                continue
            if beside is not last:
                last, images = beside, self._program(beside.stage, "map").images
            images[node] = make(node.op, tuple([images[i] for i in node.inputs]), node.attrs, node.raw_origin)
        for node in self.graph.outputs.values():
            self.whole_or_shard(node)
        return self._steps(), self.values

    # ---- values ----

    def _name(self, node: Node) -> str:
        return self.inputs[node] if node in self.inputs else f"{self.mark}{self.index[node]}"

    def _whole_name(self, node: Node) -> str:
        return f"{self.mark}{self.index[node]}.whole"

    def _value(self, node: Node, whole: bool) -> str:
        """The id of a node's value as it is made, or whole; asking for it makes it wanted."""
        p = self.placed[node]
        name = self._name(node) if not whole or p.layout == "whole" else self._whole_name(node)
        self.wanted.setdefault(name, node)
        blocks = () if whole or p.layout == "whole" else (Along(self.cut, p.axis, p.combine),)
        self.values.setdefault(name, Value(name, node.type, blocks))
        return name

    def whole_or_shard(self, node: Node) -> str:
        """The value id of an output: a shard is gathered by the driver, a partial is combined."""
        return self._value(node, self.placed[node].layout != "shard")

    def _program(self, stage: int, kind: Kind) -> _Program:
        program = self.programs.get((stage, kind))
        if program is None:
            program = self.programs[stage, kind] = _Program(kind, stage, self.cut)
        return program

    # ---- nodes ----

    def _compute(self, node: Node, p: Placement) -> None:
        if node.op.name == "input" or p.free:
            return
        kind: Kind = "single" if p.layout == "whole" else "map"
        program = self._program(p.stage, kind)
        program.images[node] = self._made(program, node, p)

    def _made(self, program: _Program, node: Node, p: Placement) -> Node:
        needs, images, placed = p.needs or (None,) * len(node.inputs), program.images, self.placed
        found = []
        for source, axis in zip(node.inputs, needs, strict=True):
            q = placed[source]
            beside = q.layout == "shard" and q.axis == axis and program.kind == "map" and source in images
            found.append(images[source] if beside else self._input(program, source, axis, p))
        inputs = tuple(found)
        return resized(node, inputs, p.axis, self._localised)

    def _input(self, program: _Program, node: Node, axis: int | None, user: Placement) -> Node:
        p = self.placed[node]
        if p.free and (program.kind == "single" or axis is not None or node.op.cheap):
            return self._clone(program, node, axis if program.kind == "map" else None)
        if p.free:  # too dear to be made whole once a chunk
            single = self._program(p.stage, "single")
            single.images[node] = self._clone(single, node, None)
        if program.kind == "map" and self._is_slice(node, axis):
            return self._slice(program, node)
        if p.layout == "partial" and user.layout == "partial" and p.stage == user.stage:
            return program.images[node]
        if program.kind == "single" and node in program.images:
            return program.images[node]
        if program.kind == "map":
            value = self._gathered(node)
            name = value if axis is None else f"{self.mark}{value}[{axis}]"
            return program.read(name, self._local(node, axis), value, axis)
        value = self._value(node, p.layout != "shard")
        return program.read(value, node.type, value, None)

    def _slice(self, program: _Program, node: Node) -> Node:
        """This chunk's slice: from this step, kept from an earlier one, or made again from what is kept."""
        if node in program.images:
            return program.images[node]
        stack = [node]
        while stack:
            made, slices = stack[-1], program.slices
            p = self.placed[made]
            if made not in slices and self._kept(made):
                slices[made] = program.read(self._name(made), self._local(made, p.axis), self._value(made, False), None)
            elif made not in slices:
                inputs = zip(made.inputs, p.needs, strict=True)
                missing = [i for i, axis in inputs if self._is_slice(i, axis) and i not in slices]
                stack += missing
                if not missing:
                    slices[made] = self._made(program, made, p)
                continue
            stack.pop()
        return program.slices[node]

    def _is_slice(self, node: Node, axis: int | None) -> bool:
        return self.placed[node].layout == "shard" and self.placed[node].axis == axis

    def _kept(self, node: Node) -> bool:
        """Whether a slice is kept for later stages; views are not, since what they show is."""
        return node.op.name == "input" or not (self.remake or node.op.cheap)

    def _gathered(self, node: Node) -> str:
        """The id of the whole value; a shard is gathered by the single step of its stage."""
        p = self.placed[node]
        if p.layout == "shard":
            program = self._program(p.stage, "single")
            name = self._value(node, True)
            program.images[node] = program.read(self._name(node), node.type, self._value(node, False), None)
            return name
        return self._value(node, True)

    def _clone(self, program: _Program, node: Node, axis: int | None) -> Node:
        """A free node made again where it is used, along `axis` for this chunk only; each once a program."""
        stack = [(node, axis)]
        while stack:
            made, along = stack[-1]
            inputs = list(zip(made.inputs, _needs(made, along), strict=True))
            missing = [pair for pair in inputs if self.placed[pair[0]].free and pair not in program.clones]
            missing = [(i, a) for i, a in missing if program.kind == "single" or a is not None or i.op.cheap]
            if missing:
                stack += missing
                continue
            stack.pop()
            if (made, along) not in program.clones:
                images = tuple(self._input(program, i, a, self.placed[made]) for i, a in inputs)
                program.clones[made, along] = resized(made, images, along, self._localised)
        return program.clones[node, axis]

    def _local(self, node: Node, axis: int | None) -> TensorType:
        if axis is None:
            return node.type
        shape = list(node.type.shape)
        shape[axis] = self._localised(shape[axis])
        return node.type.with_shape(tuple(shape))

    # ---- steps ----

    def _steps(self) -> tuple[Step, ...]:
        self._free_outputs()
        steps: list[Step] = []
        for stage in sorted({stage for stage, _ in self.programs} | {-1}):
            steps += self._map(stage)
            steps += self._combines(stage)
            steps += self._single(stage)
        return tuple(steps)

    def _free_outputs(self) -> None:
        """Outputs that are leaves or free nodes are made by a step of their own."""
        for node in self.graph.outputs.values():
            if self.placed[node].free:
                program = self._program(self.placed[node].stage, "single")
                program.images[node] = self._clone(program, node, None)

    def _map(self, stage: int) -> list[Step]:
        program = self.programs.get((stage, "map"))
        if program is None:
            return []
        wanted = [n for n in sorted(set(self.wanted.values()), key=self.index.__getitem__) if n in program.images]
        outputs = {self._name(n): program.images[n] for n in wanted if self._is_wanted(n)}
        return [self._step(program, outputs)] if outputs else []

    def _is_wanted(self, node: Node) -> bool:
        return self._name(node) in self.wanted or (
            self.placed[node].layout == "partial" and self._whole_name(node) in self.wanted
        )

    def _combines(self, stage: int) -> list[Step]:
        steps = []
        for name, node in self.wanted.copy().items():
            p = self.placed[node]
            if p.layout != "partial" or p.stage != stage or name != self._whole_name(node) or p.combine is None:
                continue
            program = _Program("combine", stage, self.cut)
            left = program.read("left", node.type, self._value(node, False), None)
            right = program.read("right", node.type, self._value(node, False), None)
            steps.append(self._step(program, {name: JOIN[p.combine](left, right)}))
        return steps

    def _single(self, stage: int) -> list[Step]:
        program = self.programs.get((stage, "single"))
        if program is None:
            return []
        wanted, outputs = set(self.wanted.values()), {}
        for node, image in program.images.items():
            if node not in wanted:
                continue
            name = self._name(node) if self.placed[node].layout == "whole" else self._whole_name(node)
            if name in self.wanted:
                outputs[name] = image
        return [self._step(program, outputs)] if outputs else []

    def _step(self, program: _Program, outputs: dict[str, Node]) -> Step:
        graph = Graph(outputs, inputs=program.leaves)
        over = (program.cut,) if program.kind == "map" else ()
        along = program.cut if program.kind == "combine" else None
        return Step(program.kind, program.stage, graph, tuple(program.reads.values()), tuple(outputs), over, along)


def _needs(node: Node, axis: int | None) -> tuple[int | None, ...]:
    """For each input: the axis along which a slice of it makes the output's slice along `axis`."""
    if axis is None:
        return (None,) * len(node.inputs)
    rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
    if rule is None:
        raise PlanError(f"{node!r} cannot be made a chunk at a time along axis {axis}; cut another dimension")
    return tuple(rule.axis_in(rule.output[axis], position) for position in range(len(node.inputs)))
