"""Plan: the steps that evaluate a graph with some dimensions cut into chunks.

A plan is a sequence of steps, each of which is a Graph: "map" runs once for each cell of a grid over some of the cut
dimensions, "combine" joins partial results pairwise along a fixed binary tree over the chunks of one dimension, "single" runs
once. Values between steps are named; a value has a block for each cell of the grid over the dimensions in which it is not
whole. Chunk borders and the trees depend on the graph, the data and the chunk sizes only, never on the workers.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Literal, TypeAlias

from graphir import dims
from graphir.graph import Graph
from graphir.partition.explain import explain
from graphir.partition.minibatch import Minibatch
from graphir.partition.picture import to_svg
from graphir.sheet import in_notebook
from graphir.types import TensorType

Layout: TypeAlias = Literal["whole", "shard", "partial"]
Kind: TypeAlias = Literal["map", "combine", "single"]
ORDER: tuple[Kind, ...] = ("map", "combine", "single")
"""The kinds of step within a stage, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Along:
    """How a value lies along a cut dimension in which it has a block for each chunk.

    axis: slices of that axis; combine: summands of this operator. With neither each chunk has a value of its own that is not
    joined: it goes from one step to another on the same chunk only.
    """

    dim: str
    axis: int | None = None
    combine: str | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """A value between steps: its type, whole along each dimension that it is shard or partial in, and its blocks' dimensions."""

    id: str
    type: TensorType
    blocks: tuple[Along, ...] = ()

    @property
    def dims(self) -> tuple[str, ...]:
        """The cut dimensions along which it has a block for each chunk."""
        return tuple(along.dim for along in self.blocks)

    @property
    def axes(self) -> dict[str, int]:
        """The sliced axis by dimension."""
        return {along.dim: along.axis for along in self.blocks if along.axis is not None}

    @property
    def layout(self) -> Layout:
        """In one word."""
        return "whole" if not self.blocks else "partial" if any(b.combine for b in self.blocks) else "shard"

    def local_type(self, over: Collection[str]) -> TensorType:
        """The type of what a step over these dimensions has of it: along each of them one chunk's slice."""
        shape = list(self.type.shape)
        for dim, axis in self.axes.items():
            if dim in over:
                shape[axis] = dims.rename(shape[axis], {dim: dims.local(dim)})
        return self.type.with_shape(tuple(shape))


@dataclass(frozen=True, slots=True)
class Read:
    """How a step's program gets one input.

    input: the program's input name. value: the id of what is read. Along a dimension of the step the step's own block is read; along
    another one all blocks are gathered. slices: by dimension of the step, the axis along which this chunk's slice is
    taken of a value that is whole along it ("scatter").
    """

    input: str
    value: str
    slices: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `program`'s outputs are named by the value ids it writes.

    over: the dimensions in whose chunks it runs; a map step's program has each under the name `local` with an offset, beside the
    whole one. A combine step joins one value along the dimension `along`; its program has the inputs "left" and "right".
    """

    kind: Kind
    stage: int
    program: Graph
    reads: tuple[Read, ...]
    writes: tuple[str, ...]
    over: tuple[str, ...] = ()
    along: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What `partition` makes and drivers perform.

    A graph input is a value under its own name, other values are "%3" and the like. outputs: value id of each graph output, whole or shard
    (a shard output is gathered by the driver). borders: by cut dimension, chunk k covers borders[k]:borders[k + 1].
    outlook: what is expected of a run on the workers that were asked about. batch: the rows that an iteration takes; the plan is
    one for their number. backend: who runs the programs.
    """

    graph: Graph
    sizes: dict[str, int]
    borders: dict[str, tuple[int, ...]]
    values: dict[str, Value]
    steps: tuple[Step, ...]
    outputs: dict[str, str]
    notes: tuple[str, ...] = field(default=())
    check_finite: bool = False
    outlook: tuple[str, ...] = ()
    batch: Minibatch | None = None
    backend: str = "numpy"

    @property
    def cuts(self) -> tuple[str, ...]:
        """The dimensions that are cut."""
        return tuple(self.borders)

    @property
    def chunks(self) -> int:
        """The number of cells of the grid over all cut dimensions."""
        return self.cells(self.cuts)

    @property
    def rows(self) -> dict[str, int]:
        """The rows of a chunk by cut dimension."""
        return {dim: ends[1] for dim, ends in self.borders.items()}

    def cells(self, over: Iterable[str]) -> int:
        """The number of cells of the grid over some dimensions."""
        return prod(len(self.borders[dim]) - 1 for dim in over)

    @property
    def stages(self) -> int:
        """The number of map stages."""
        return len({step.stage for step in self.steps if step.kind == "map"})

    def widest(self, over: Iterable[str]) -> dict[str, int]:
        """All sizes, and those of the largest chunk along some dimensions."""
        return self.sizes_in({dim: _widest(self.borders[dim]) for dim in over})

    def sizes_in(self, widths: Mapping[str, int]) -> dict[str, int]:
        """All sizes, and those of a chunk of so many rows along some dimensions."""
        return {**self.sizes, **{dims.local(dim): width for dim, width in widths.items()}}

    def block_bytes(self, id: str) -> int:
        """The bytes of a value's largest block."""
        value = self.values[id]
        size = prod(value.type.bind(self.widest(value.dims))) * value.type.dtype.itemsize
        for dim in value.axes:
            size = -(-size * _widest(self.borders[dim]) // self.borders[dim][-1])
        return size

    def to_text(self) -> str:
        """What is cut, the steps and why there are so many, what each moves, and what is not cut and why."""
        return explain(self)

    def to_svg(self) -> str:
        """The steps and their nodes in colours, what goes between them, and what is not cut and why."""
        return to_svg(self)

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def _repr_html_(self) -> str:
        return in_notebook(self.to_svg(), self.to_text())


def _widest(borders: tuple[int, ...]) -> int:
    return max(b - a for a, b in pairwise(borders))
