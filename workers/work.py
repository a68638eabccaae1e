"""Work: a placed plan as plain data, all that a worker needs to know of a job beside programs and values.

Ranks are the workers of one job, numbered from 0. Chunks belong to ranks in contiguous ranges. A combine or single step is
performed by one rank or by all of them (`EVERYWHERE`), so that nobody waits for its result to be sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.minibatch import Minibatch

EVERYWHERE = -1
"""The rank of a step that every rank performs for itself."""


@dataclass(frozen=True, slots=True)
class StepWork:
    """One step: its program's digest, what each of its inputs reads (input, value, axis), what it writes, and its rank."""

    kind: str
    program: str
    reads: tuple[tuple[str, str, int | None], ...]
    writes: tuple[str, ...]
    at: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """A placed plan.

    shards: the cut axis of shard values. partials: those that a combine step joins. carry: the value that each carried input
    has in the next iteration. keep: values among the outputs that somebody may ask for after an iteration, at rank 0
    unless they are shards. numbers: outputs to report after every iteration, with their values. batch: the rows of an iteration.
    """

    sizes: dict[str, int]
    local: str
    borders: tuple[int, ...]
    steps: tuple[StepWork, ...]
    shards: dict[str, int]
    partials: frozenset[str]
    inputs: frozenset[str] = frozenset()
    carry: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    check_finite: bool = False
    batch: Minibatch | None = None

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return len(self.borders) - 1
