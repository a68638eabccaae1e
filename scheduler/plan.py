"""Plan: the steps that evaluate a graph with one dimension cut into chunks.

A plan is a sequence of steps, each of which is a Graph: "map" runs once a chunk, "combine" joins partial results
pairwise along a fixed binary tree over the chunks, "single" runs once. Values between steps are named; a
value is whole (one array), shard (a slice of one axis for each chunk) or partial (a summand for each chunk).
Chunk borders and the tree depend on the graph, the data and the chunk size only, never on the workers.
"""

from dataclasses import dataclass, field
from html import escape
from typing import Literal, TypeAlias

from graphir.graph import Graph
from graphir.types import TensorType
from workers.minibatch import Minibatch

Layout: TypeAlias = Literal["whole", "shard", "partial"]
Kind: TypeAlias = Literal["map", "combine", "single"]


@dataclass(frozen=True, slots=True)
class Value:
    """A value between steps: its type when whole, its layout, the cut axis (shard) or operator (partial)."""

    id: str
    type: TensorType
    layout: Layout
    axis: int | None = None
    combine: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """How a step's program gets one input.

    input: the program's input name. value: the id of what is read. `axis` is None for reading what is there
    (the whole value, or this chunk's own shard or partial); a number, in a map step, for reading this chunk's
    slice of a whole value along that axis ("scatter"). A shard read by a single step is gathered along its axis.
    """

    input: str
    value: str
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `program`'s outputs are named by the value ids it writes.

    A combine step has the program inputs "left" and "right" and one output, and reads one partial value.
    A map step's program has the cut dimension under the name `Plan.local` with an offset, beside the whole one.
    """

    kind: Kind
    stage: int
    program: Graph
    reads: tuple[Read, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `partition` makes and drivers perform.

    A graph input is a value under its own name, other values are "%3" and the like. outputs: value id of each graph output, whole or shard
    (a shard output is gathered by the driver). borders: chunk k covers borders[k]:borders[k + 1] of `cut`.
    outlook: what is expected of a run on the workers that were asked about. batch: the rows that an iteration takes; the plan is
    one for their number.
    """

    graph: Graph
    sizes: dict[str, int]
    cut: str | None
    borders: tuple[int, ...]
    values: dict[str, Value]
    steps: tuple[Step, ...]
    outputs: dict[str, str]
    notes: tuple[str, ...] = field(default=())
    check_finite: bool = False
    outlook: tuple[str, ...] = ()
    batch: Minibatch | None = None

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return len(self.borders) - 1

    @property
    def local(self) -> str:
        """The name of the cut dimension inside a map step's program."""
        return f"{self.cut}.local"

    @property
    def stages(self) -> int:
        """The number of map stages."""
        return len({step.stage for step in self.steps if step.kind == "map"})

    def to_text(self) -> str:
        """What is cut, the steps and why there are so many, what each moves, and what is not cut and why."""
        return explain(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.to_text())}</pre>"


def explain(plan: Plan) -> str:
    """A text fit for a bug report: cut, chunks, stages, bytes between steps, and what is not cut and why."""
    lines = [
        *_batch(plan),
        _cut(plan),
        f"{len(plan.graph)} nodes in {len(plan.steps)} steps, {plan.stages} map stage(s):",
    ]
    reasons = {step.stage: _reason(plan, step) for step in plan.steps if step.kind == "map"}
    for step in plan.steps:
        lines.append(f"  {_step(plan, step)}")
        if step.kind == "map" and step.stage > 0:
            lines.append(f"      a new stage because {reasons[step.stage]}")
    lines += [f"  {note.splitlines()[0]}" for note in plan.notes]
    return "\n".join([*lines, *plan.outlook])


def _batch(plan: Plan) -> list[str]:
    if plan.batch is None:
        return []
    batch = plan.batch
    order = "in order" if batch.seed is None else f"shuffled anew in each epoch, with seed {batch.seed}"
    rest = f", {batch.total % batch.size} left out" if batch.total % batch.size else ""
    return [
        f"an iteration takes {batch.size} of {batch.total} rows of {batch.dim!r}, {order}; {batch.steps} iteration(s) an epoch{rest}",
        f"every worker holds all of {', '.join(map(repr, batch.axes))}, or maps its file",
    ]


def _cut(plan: Plan) -> str:
    if plan.cut is None:
        return "not cut: no dimension is named, or cutting is forbidden"
    rows = plan.borders[1] - plan.borders[0]
    return f"cut along {plan.cut!r} = {plan.borders[-1]} into {plan.chunks} chunk(s) of {rows} row(s)"


def _step(plan: Plan, step: Step) -> str:
    moved = sum(_bytes(plan, plan.values[name]) for name in step.writes)
    if step.kind == "map":
        times = f"{plan.chunks} x {len(step.program)} nodes"
        return f"map {step.stage}: {times} -> {_names(plan, step)}, {moved} bytes a chunk or row block"
    if step.kind == "combine":
        value = plan.values[step.reads[0].value]
        return f"combine {step.stage}: {value.combine} of {plan.chunks} parts -> {value.type}, {moved} bytes"
    return f"single {step.stage}: {len(step.program)} nodes -> {_names(plan, step)}, {moved} bytes"


def _names(plan: Plan, step: Step) -> str:
    shown = [str(plan.values[name].type) for name in step.writes[:4]]
    return ", ".join(shown) + (f" and {len(step.writes) - 4} more" if len(step.writes) > 4 else "")


def _reason(plan: Plan, step: Step) -> str:
    needs = [plan.values[read.value] for read in step.reads if read.value not in plan.graph.inputs]
    whole = next((value for value in needs if value.layout == "whole"), None)
    return "it reads values of the stage before" if whole is None else f"it needs {whole.type}, complete only then"


def _bytes(plan: Plan, value: Value) -> int:
    count = value.type.dtype.itemsize
    for size in value.type.bind(plan.sizes):
        count *= size
    return count // plan.chunks if value.layout == "shard" else count
