"""Cut a further dimension: the programs of a plan's steps are partitioned along it, one after the other.

A map step over "n" whose program is cut along "k" becomes map steps over the grid "n" x "k", combine steps along "k" in each chunk
of "n", and map steps over "n" for what needs the whole of "k"; a single step becomes the same without "n". A value that one
step leaves sliced along "k" is read so by the next. Nothing here knows what the programs compute.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from graphir import dims
from graphir.errors import PlanError
from graphir.graph import Graph
from graphir.node import Node, made_by
from graphir.ops.sources import input_
from graphir.origin import Origin
from graphir.partition.data import borders, mark_of, partition
from graphir.partition.placement import axis_along, scales_with
from graphir.partition.plan import ORDER, Along, Kind, Plan, Read, Step, Value


def refine(plan: Plan, cut: str, chunk: int | None = None, *, remake: bool = False) -> Plan:
    """The plan with one more dimension cut, in chunks of `chunk` rows; PlanError if it cannot be. remake: as for `partition`."""
    if cut in plan.borders or cut not in plan.sizes:
        raise PlanError(f"the dimension {cut!r} is cut already or has no size; the sizes are {plan.sizes}")
    ends = {**plan.borders, cut: borders(plan.sizes[cut], chunk)}
    with made_by(Origin("pass", of="partition")):
        refinement = _Refinement(plan, cut, tuple(ends), remake)
        for step in plan.steps:
            refinement.take(step)
    notes = tuple(dict.fromkeys((*plan.notes, *refinement.notes)))
    return replace(plan, borders=ends, values=refinement.values, steps=in_stages(refinement.steps), notes=notes)


def in_stages(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps numbered so that within a stage map steps come first, then combine steps, then single ones."""
    numbered: list[Step] = []
    for step in steps:
        stage = numbered[-1].stage if numbered else 0
        again = bool(numbered) and ORDER.index(step.kind) < ORDER.index(numbered[-1].kind)
        numbered.append(replace(step, stage=stage + again))
    return tuple(numbered)


@dataclass
class _Refinement:
    """The new steps and values while the old steps are taken one after the other."""

    plan: Plan
    cut: str
    cuts: tuple[str, ...]
    remake: bool
    steps: list[Step] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mark = mark_of([*self.plan.graph.inputs, *self.plan.values])
        for name in self.plan.graph.inputs:
            if name in self.plan.values:
                value = self.plan.values[name]
                self._declare(value, axis_along(value.type, self.cut, value.axes.values()))

    def take(self, step: Step) -> None:
        """Partition one step's program along the cut."""
        if not any(self.cut in dims.names(d) for node in step.program.nodes for d in node.type.shape):
            for name in step.writes:
                self._declare(self.plan.values[name], None)
            self.steps.append(step)
            return
        reads = {read.input: self._fit(step, read) for read in step.reads}
        given = {name: self.values[read.value].axes.get(self.cut) for name, read in reads.items()}
        sub = partition(step.program, self.plan.sizes, self.cut, None, given, remake=self.remake)
        self.notes += sub.notes
        names = self._names(step, sub, reads)
        for part in sub.steps:
            self._add(step, part, names, reads)
        for name, made in sub.outputs.items():
            if names.get(made) != name:  # an input, or the same value as another output
                source = reads[made] if made in reads else Read(made, names[made])
                self._copy(step, name, source)

    def _fit(self, step: Step, read: Read) -> Read:
        """The read of a value whose slices the step can use; a value that is sliced along an axis that it cannot is made whole."""
        axis = self.values[read.value].axes.get(self.cut)
        if axis is None or scales_with(step.program.inputs[read.input].type.shape[axis], self.cut):
            return read
        value = self.values[read.value]
        whole = replace(value, id=f"{self.mark}{value.id}|{self.cut}", blocks=_without(value.blocks, self.cut))
        if whole.id not in self.values:
            self.values[whole.id] = whole
            self._identity(whole, Read("whole", value.id), whole.dims)
        return replace(read, value=whole.id)

    def _names(self, step: Step, sub: Plan, reads: Mapping[str, Read]) -> dict[str, str]:
        """The id here of each value of the step's own plan; all are declared."""
        names: dict[str, str] = {}
        for name, made in sub.outputs.items():
            if made not in reads and made not in names:
                names[made] = name
                self._declare(self.plan.values[name], sub.values[made].axes.get(self.cut))
        for made, value in sub.values.items():
            if made not in reads and made not in names:
                names[made] = f"{self.mark}{len(self.steps)}{made}"
                each = tuple(Along(dim) for dim in step.over)
                self.values[names[made]] = Value(names[made], value.type, self._in_order((*each, *value.blocks)))
        return names

    def _add(self, step: Step, part: Step, names: Mapping[str, str], reads: Mapping[str, Read]) -> None:
        over = self._over(step, part.kind == "map")
        along = self.cut if part.kind == "combine" else step.along
        program = Graph(
            {names[name]: node for name, node in part.program.outputs.items()}, inputs=_leaves(part.program)
        )
        found = tuple(_joined(read, names, reads) for read in part.reads)
        self.steps.append(Step(_kind(over, along), 0, program, found, tuple(program.outputs), over, along))

    def _copy(self, step: Step, name: str, source: Read) -> None:
        axis = self.values[source.value].axes.get(self.cut)
        self._declare(self.plan.values[name], axis)
        self._identity(self.values[name], source, self._over(step, axis is not None))

    def _identity(self, value: Value, source: Read, over: tuple[str, ...]) -> None:
        """A step that writes what it reads: it gathers along the dimensions that it is not over."""
        type_ = value.local_type(over)
        node = input_(name=source.input, dtype=type_.dtype.name, shape=type_.shape)
        program = Graph({value.id: node}, inputs=[node])
        self.steps.append(Step(_kind(over, None), 0, program, (source,), (value.id,), over))

    def _declare(self, value: Value, axis: int | None) -> None:
        blocks = (*value.blocks, Along(self.cut, axis)) if axis is not None else value.blocks
        self.values[value.id] = replace(value, blocks=self._in_order(blocks))

    def _over(self, step: Step, cut: bool) -> tuple[str, ...]:
        return tuple(dim for dim in self.cuts if dim in step.over or (cut and dim == self.cut))

    def _in_order(self, blocks: Iterable[Along]) -> tuple[Along, ...]:
        return tuple(sorted(blocks, key=lambda along: self.cuts.index(along.dim)))


def _joined(read: Read, names: Mapping[str, str], reads: Mapping[str, Read]) -> Read:
    """A read of the step's own plan in terms of the whole plan."""
    outer = reads.get(read.value)
    if outer is None:
        return replace(read, value=names[read.value])
    return Read(read.input, outer.value, (*outer.slices, *read.slices))


def _kind(over: tuple[str, ...], along: str | None) -> Kind:
    return "combine" if along is not None else "map" if over else "single"


def _without(blocks: tuple[Along, ...], cut: str) -> tuple[Along, ...]:
    return tuple(along for along in blocks if along.dim != cut)


def _leaves(program: Graph) -> list[Node]:
    return list(program.inputs.values())
