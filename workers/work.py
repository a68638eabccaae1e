"""Work: a placed plan as plain data, all that a worker needs to know of a job beside programs and values.

Ranks are the workers of one job, numbered from 0. A step over some of the cut dimensions has a task for each cell of the
grid over them; tasks are numbered in row-major order and belong to ranks in contiguous ranges. A single step, or the sum of a
whole dimension, is at one rank or at all of them (`EVERYWHERE`), so that nobody waits for its result to be sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from graphir.partition.minibatch import Minibatch

EVERYWHERE = -1
"""The rank of a step that every rank performs for itself."""

Cell: TypeAlias = tuple[int, ...]
"""The numbers of the chunks along the dimensions of a step or value; () for what is whole."""
Dims: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadWork:
    """The program's input, the value that it reads, and the axes along which the task's slices of it are taken."""

    input: str
    value: str
    slices: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class StepWork:
    """One step: its program's digest, what its inputs read, what it writes, its grid, and the rank of a step over no dimension."""

    kind: str
    program: str
    reads: tuple[ReadWork, ...]
    writes: tuple[str, ...]
    over: Dims = ()
    along: str | None = None
    at: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """A placed plan.

    borders: of each cut dimension. blocks: for each value that is not whole, the axis that is sliced by dimension, or None where
    each chunk has a value of its own. carry: the value that each carried input has in the next iteration. keep: values among the
    outputs that somebody may ask for after an iteration, at rank 0 unless they have blocks. numbers: outputs to report after
    every iteration, with their values. batch: the rows of an iteration. backend: who runs the programs.
    """

    sizes: dict[str, int]
    borders: Mapping[str, tuple[int, ...]]
    steps: tuple[StepWork, ...]
    blocks: Mapping[str, Mapping[str, int | None]]
    inputs: frozenset[str] = frozenset()
    carry: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    check_finite: bool = False
    batch: Minibatch | None = None
    backend: str = "numpy"

    def dims(self, value: str) -> Dims:
        """The dimensions along which a value has blocks."""
        return tuple(self.blocks.get(value, ()))

    def counts(self, over: Dims) -> tuple[int, ...]:
        """The number of chunks along each of some dimensions."""
        return tuple(len(self.borders[dim]) - 1 for dim in over)

    def cells(self, over: Dims) -> int:
        """The number of cells of the grid over some dimensions."""
        return prod(self.counts(over))

    def cell(self, over: Dims, number: int) -> Cell:
        """The cell with a number in row-major order."""
        found: list[int] = []
        for count in reversed(self.counts(over)):
            number, k = divmod(number, count)
            found.append(k)
        return tuple(reversed(found))

    def number(self, over: Dims, cell: Cell) -> int:
        """The number of a cell in row-major order."""
        number = 0
        for count, k in zip(self.counts(over), cell, strict=True):
            number = number * count + k
        return number

    def span(self, dim: str, chunk: int, size: int) -> tuple[int, int]:
        """A chunk's place on an axis whose size is a multiple of the dimension's."""
        ends = self.borders[dim]
        scale = size // ends[-1]
        return ends[chunk] * scale, ends[chunk + 1] * scale
