"""Which dimensions to cut, and whether slices are kept from stage to stage: plans are made, and the best one is taken.

The best plan ends an iteration first on a cluster of BESIDE imagined workers, among those that fit into NOMINAL_BYTES a worker; if
none does, it is the one that takes the least memory of those that do not take much longer. So the choice depends on the graph
and the sizes alone, and so do the bits of the result. Considered are: each dimension that may be cut; with the best one, each further dimension over a coarser grid, until no one helps; slices made again in each
stage instead of kept; smaller chunks for want of memory. What was considered is told in the plan's notes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from graphir import dims
from graphir.errors import PlanError
from graphir.graph import Graph
from graphir.partition.cost import value_bytes
from graphir.partition.data import borders, partition
from graphir.partition.divide import divide
from graphir.partition.plan import Plan
from graphir.partition.refine import refine
from graphir.units import in_bytes, in_seconds
from scheduler.memory import peak_bytes
from scheduler.place import place, ranks_for
from scheduler.simulate import Cluster, Forecast, simulate

BESIDE = 8
MOST = 8
"""How many dimensions are tried, those with the most bytes fed along them first."""
NOMINAL_BYTES = 4 << 30
"""The memory of an imagined worker."""
SIDE = 4
"""Chunks along each dimension of a grid, unless the caller says how large a chunk is."""
FINER = (4, 16, 32, 64)
"""How many times smaller chunks are tried for want of memory."""
CELLS = 1 << 14
"""How many cells a grid may have that is tried."""
TOLD = 8
"""How many plans the text tells of."""
BETTER = 0.95
"""What part of its time a plan has to take at most to be preferred to a simpler one."""
LARGE = 50_000
"""Nodes from which on only one dimension is tried with another: planning should take seconds."""
PLANNED = 1_000_000
"""Nodes that the graphs of all plans that are made may have together, for the same reason; one plan is made in any case."""


@dataclass(frozen=True)
class _Candidate:
    """A way to cut: the rows of a chunk by dimension, in the order of cutting; its plan, and what that costs once somebody asks."""

    rows: Mapping[str, int | None]
    remake: bool
    plan: Plan

    @cached_property
    def forecast(self) -> Forecast:
        """An iteration on the imagined workers."""
        return simulate(self.plan, Cluster(ranks_for(self.plan, BESIDE)), {})

    @property
    def seconds(self) -> float:
        """Of an iteration."""
        return self.forecast.seconds

    @cached_property
    def bytes(self) -> int:
        """What a worker holds at most."""
        ranks = ranks_for(self.plan, BESIDE)
        return peak_bytes(self.plan, place(self.plan, ranks, {}, list(self.plan.outputs), imagined=True), ranks, {})

    @property
    def fits(self) -> bool:
        """Whether an imagined worker has the memory."""
        return self.bytes <= NOMINAL_BYTES

    def beats(self, other: "_Candidate") -> bool:
        """Whether it is worth to be preferred to a simpler one."""
        return self.fits > other.fits if self.fits != other.fits else self.seconds < BETTER * other.seconds

    def told(self) -> str:
        """A note."""
        sizes = self.plan.sizes
        cuts = " and ".join(f"{d!r} = {sizes[d]} into {self.plan.cells([d])} chunk(s)" for d in self.rows)
        again = ", slices made again in each stage" if self.remake else ""
        over = f", over the {in_bytes(NOMINAL_BYTES)} of an imagined worker" if not self.fits else ""
        return (
            f"considered: cutting {cuts}{again}: {in_seconds(self.seconds)} on {BESIDE} workers, "
            f"{in_bytes(self.forecast.sent)} sent, {in_bytes(self.bytes)} of values on a worker{over}"
        )


def choose(graph: Graph, sizes: Mapping[str, int], allowed: Sequence[str], rows: Mapping[str, int]) -> Plan:
    """The best plan that cuts some of the allowed dimensions; `rows` a chunk.

    Several dimensions in `rows` are all cut. PlanError if no dimension can be.
    """
    tried = sorted(allowed, key=lambda name: -_fed(graph, sizes, name))[:MOST]
    search = _Search(graph, sizes, rows)
    named = {name: rows[name] for name in tried if name in rows}
    best = search.candidate(named) if len(named) > 1 else search.grids(search.single(tried), tried)
    best = search.finer(search.made_again(best))
    told = search.told() if len(search.considered) > 1 else []
    return replace(best.plan, notes=(*best.plan.notes, *told, *search.refused))


class _Search:
    def __init__(self, graph: Graph, sizes: Mapping[str, int], rows: Mapping[str, int]) -> None:
        self.graph, self.sizes, self.rows = graph, sizes, rows
        self.nodes = 0
        self.considered: list[_Candidate] = []
        self.refused: list[str] = []
        self.made: dict[tuple[tuple[str, ...], bool], Plan] = {}

    def single(self, tried: Sequence[str]) -> _Candidate:
        """The best of the dimensions by itself."""
        found = list(self._each(({name: self.rows.get(name)} for name in tried), len(tried) == 1))
        if not found:
            return self.candidate({tried[0]: self.rows.get(tried[0])})
        return found[0] if len(found) == 1 else min(found, key=lambda c: (not c.fits, c.seconds))

    def grids(self, best: _Candidate, tried: Sequence[str]) -> _Candidate:
        """Further dimensions as long as one helps."""
        while len(best.rows) < len(tried) and len(self.graph) <= LARGE:
            rest = [name for name in tried if name not in best.rows]
            grids = ({name: self._coarse(name) for name in (*best.rows, other)} for other in rest)
            grids = (rows for rows in grids if self._cells(rows) <= CELLS)
            better = [c for c in self._each(grids) if c.beats(best)]
            if not better:
                break
            best = min(better, key=lambda c: (not c.fits, c.seconds))
        return best

    def made_again(self, best: _Candidate) -> _Candidate:
        """Slices made again in each stage, where values would be kept from one stage to another."""
        if best.plan.stages < 2 or len(self.graph) > LARGE:
            return best
        again = self.candidate(best.rows, remake=True)
        return again if again.beats(best) and (again.fits or again.bytes < best.bytes) else best

    def finer(self, best: _Candidate) -> _Candidate:
        """More and smaller chunks, where the caller has named no size and a worker would not have the memory otherwise."""
        if best.fits:
            return best
        for known in [best] if len(self.graph) > LARGE else list(self.considered):
            free = [name for name in known.rows if name not in self.rows]
            for factor in FINER if free else ():
                size = {name: -(-rows // factor) if name in free else rows for name, rows in known.plan.rows.items()}
                if self._cells(size) <= CELLS:
                    self.candidate(size, remake=known.remake)
                    if known.plan.stages > 1 and not known.remake:
                        self.candidate(size, remake=True)
        fitting = [c for c in self.considered if c.fits]
        if fitting:
            return min(fitting, key=lambda c: c.seconds)
        quick = 2 * min(c.seconds for c in self.considered)
        return min((c for c in self.considered if c.seconds <= quick), key=lambda c: c.bytes)

    def candidate(self, rows: Mapping[str, int | None], *, remake: bool = False) -> _Candidate:
        """The plan with these cuts, and what it costs; PlanError if it cannot be made."""
        ends = {name: borders(self.sizes[name], size) for name, size in rows.items() if name in self.sizes}
        like = self.made.get((tuple(rows), remake))
        plan = self.made[tuple(rows), remake] = (
            self._made(rows, remake)
            if like is None
            else replace(like, borders=ends)  # programs are the same in any chunks
        )
        found = _Candidate(rows, remake, plan)
        self.considered.append(found)
        return found

    def _made(self, rows: Mapping[str, int | None], remake: bool) -> Plan:
        (first, size), *others = rows.items()
        self.nodes += len(self.graph)
        plan = partition(self.graph, self.sizes, first, size, remake=remake)
        for name, size in others:
            plan = refine(plan, name, size, remake=remake)
        return divide(plan)

    def told(self) -> list[str]:
        """Notes on the best of what was considered."""
        best = sorted(self.considered, key=lambda c: (not c.fits, c.seconds))
        more = [f"considered: {len(best) - TOLD} more"] if len(best) > TOLD else []
        return [*(c.told() for c in best[:TOLD]), *more]

    def _each(self, cuts: Iterator[Mapping[str, int | None]], only: bool = False) -> Iterator[_Candidate]:
        for rows in cuts:
            names = " and ".join(map(repr, rows))
            if self.considered and self.nodes + len(self.graph) > PLANNED:
                self.refused.append(
                    f"not considered: cutting {names}, since plans of {self.nodes} nodes were made before"
                )
                continue
            try:
                yield self.candidate(rows)
            except PlanError as error:
                if only:
                    raise
                self.refused.append(f"considered: {names} cannot be cut: {str(error).splitlines()[0]}")

    def _cells(self, rows: Mapping[str, int]) -> int:
        """How many cells the grid has."""
        return prod(-(-self.sizes[name] // size) for name, size in rows.items())

    def _coarse(self, name: str) -> int:
        """Rows of a chunk where several dimensions are cut."""
        size = self.sizes[name]
        return self.rows.get(name) or -(-size // SIDE)


def _fed(graph: Graph, sizes: Mapping[str, int], name: str) -> int:
    """The bytes that are fed in inputs that have the dimension."""
    with_it = (n.type for n in graph.inputs.values() if any(name in dims.names(d) for d in n.type.shape))
    return sum(value_bytes(type_, sizes) for type_ in with_it)
