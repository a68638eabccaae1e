"""Who does what, and what goes from whom to whom: worked out alike by every rank of a job from its work alone.

Values travel by push. A whole value goes from the rank that makes it to the ranks whose steps read it; a block goes to the
ranks with a task that reads it; sums are exchanged along the combine trees. Every rank walks through the steps in the
same order and sends before it waits, so nobody waits in a circle.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias, TypeVar

from workers.tree import Place, chunk_owner, chunk_range, subtrees
from workers.work import EVERYWHERE, Cell, Dims, ReadWork, StepWork, Work

K = TypeVar("K")
Trees: TypeAlias = tuple[tuple[Cell, tuple[Place, ...]], ...]
RELAY = 4
"""To how many ranks one rank hands a value on at most; with more receivers these hand it on in their turn."""


@dataclass(eq=False)
class Route:
    """The routes of a job over `ranks` ranks.

    makers: step number by value; last: the last step that reads a value. wholes: the ranks that need a whole value; gathers: those that
    need all blocks of a value; needs: those that need one block although they do not make it.
    """

    work: Work
    ranks: int
    makers: dict[str, int] = field(init=False)
    last: dict[str, int] = field(init=False)
    wholes: dict[str, frozenset[int]] = field(init=False)
    gathers: dict[str, frozenset[int]] = field(init=False)
    needs: dict[str, dict[Cell, frozenset[int]]] = field(init=False)
    _orders: dict[str, tuple[list[int], dict[int, int]]] = field(init=False, default_factory=dict)
    _own: dict[tuple[int, Dims], list[Cell]] = field(init=False, default_factory=dict)
    _trees: dict[tuple[int, str], Trees] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        steps = self.work.steps
        self.makers = {value: number for number, step in enumerate(steps) for value in step.writes}
        self.last = {read.value: number for number, step in enumerate(steps) for read in step.reads}
        self.wholes, self.gathers, self.needs = _Needs(self).found()

    # ---- tasks ----

    def range(self, rank: int, over: Dims) -> tuple[int, int]:
        """The numbers of a rank's tasks of a step over some dimensions."""
        cells = self.work.cells(over)
        return chunk_range(rank, min(self.ranks, cells), cells) if rank < cells else (cells, cells)

    def own(self, rank: int, over: Dims) -> list[Cell]:
        """The cells of a rank's tasks."""
        if (rank, over) not in self._own:
            numbers = range(*self.range(rank, over))
            self._own[rank, over] = [self.work.cell(over, number) for number in numbers]
        return self._own[rank, over]

    def owner(self, over: Dims, cell: Cell) -> int:
        """The rank that performs a task, or makes a block."""
        cells = self.work.cells(over)
        return chunk_owner(self.work.number(over, cell), min(self.ranks, cells), cells)

    def holders(self, over: Dims) -> frozenset[int]:
        """The ranks with tasks of a step over some dimensions."""
        return frozenset(range(min(self.ranks, self.work.cells(over))))

    def tasks(self, rank: int, step: StepWork) -> list[Cell]:
        """The cells of a step that a rank performs, or of whose sums it has the result first."""
        return self.own(rank, step.over) if step.over else [()] if step.at in (EVERYWHERE, rank) else []

    def performers(self, step: StepWork) -> frozenset[int]:
        """The ranks with tasks of a step."""
        if step.over:
            return self.holders(step.over)
        return frozenset(range(self.ranks)) if step.at == EVERYWHERE else frozenset({step.at})

    # ---- sums ----

    def trees(self, rank: int, value: str, along: str) -> Trees:
        """For each sum of which a rank makes parts: its cell, and the highest subtrees of its tree that are the rank's own."""
        if (rank, value) not in self._trees:
            self._trees[rank, value] = tuple(self._parts(rank, self.work.dims(value), along))
        return self._trees[rank, value]

    def _parts(self, rank: int, over: Dims, along: str) -> Iterator[tuple[Cell, tuple[Place, ...]]]:
        at = over.index(along)
        (total,) = self.work.counts((along,))
        if len(over) == 1:
            yield (), subtrees(*self.range(rank, over), total)
            return
        leaves: dict[Cell, list[int]] = {}
        for cell in self.own(rank, over):
            leaves.setdefault((*cell[:at], *cell[at + 1 :]), []).append(cell[at])
        for cell in sorted(
            leaves
        ):  # for a cell the leaves of a rank lie side by side, since numbers grow with each chunk
            yield cell, subtrees(leaves[cell][0], leaves[cell][-1] + 1, total)

    def leaf(self, value: str, along: str, cell: Cell, place: Place) -> int:
        """Who has a subtree of a sum when it is joined: the owner of its first leaf."""
        over = self.work.dims(value)
        at, (level, index) = over.index(along), place
        return self.owner(over, (*cell[:at], index << level, *cell[at:]))

    # ---- feeds ----

    def rows(self, rank: int, name: str, size: int) -> tuple[int, int]:
        """The rows of a feed, along its first axis, that a rank is given: those that its blocks come from, or all."""
        over, batch = self.work.dims(name), self.work.batch
        along = next((dim for dim in over if self.work.blocks[name][dim] == 0), None)
        if along is None or name in self.gathers or name in self.work.keep:
            return 0, size
        drawn = batch is not None and batch.dim == along and name in batch.axes
        within, at = self.work.borders[along][-1] if drawn else size, over.index(along)
        spans = [self.work.span(along, cell[at], within) for cell in self.wanted(rank, name)]
        if not spans:
            return 0, 0
        begin, end = min(begin for begin, _ in spans), max(end for _, end in spans)
        return batch.drawn(begin, end) if batch is not None and drawn else (begin, end)

    # ---- whole values ----

    def receivers(self, value: str, rank: int) -> tuple[int, ...]:
        """To whom a rank that has got the whole value hands it: a tree with RELAY branches, rooted at its maker."""
        order, places = self._order(value)
        if rank not in places:
            return ()
        begin = places[rank] * RELAY + 1
        return tuple(order[begin : begin + RELAY])

    def giver(self, value: str, rank: int) -> int:
        """Who hands the whole value to this rank."""
        order, places = self._order(value)
        return order[(places[rank] - 1) // RELAY]

    def _order(self, value: str) -> tuple[list[int], dict[int, int]]:
        if value not in self._orders:
            at = self.work.steps[self.makers[value]].at
            order = [] if at == EVERYWHERE else [at, *sorted(self.wholes.get(value, frozenset()) - {at})]
            self._orders[value] = order, {rank: place for place, rank in enumerate(order)}
        return self._orders[value]

    # ---- blocks ----

    def readers(self, value: str, cell: Cell) -> frozenset[int]:
        """The ranks that need a block, beside its maker perhaps."""
        return self.gathers.get(value, frozenset()) | self.needs.get(value, {}).get(cell, frozenset())

    def wanted(self, rank: int, value: str) -> list[Cell]:
        """The blocks that a rank makes or needs."""
        over = self.work.dims(value)
        if rank in self.gathers.get(value, ()):
            return list(product(*map(range, self.work.counts(over))))
        needed = [cell for cell, ranks in self.needs.get(value, {}).items() if rank in ranks]
        return sorted({*self.own(rank, over), *needed})

    def carried_whole(self, name: str) -> bool:
        """Whether a carried input is kept whole by each rank that reads it, and not in blocks."""
        blocks = self.work.blocks.get(name)
        if not blocks or name in self.gathers:
            return True
        given = self.work.blocks.get(self.work.carry[name], {})
        return dict(given) != dict(blocks) or None in given.values()


@dataclass
class _Needs:
    """Which ranks need what, while it is being collected."""

    route: Route
    wholes: dict[str, set[int]] = field(default_factory=dict)
    gathers: dict[str, set[int]] = field(default_factory=dict)
    blocks: dict[str, dict[Cell, set[int]]] = field(default_factory=dict)

    def found(
        self,
    ) -> tuple[dict[str, frozenset[int]], dict[str, frozenset[int]], dict[str, dict[Cell, frozenset[int]]]]:
        work = self.route.work
        for step in work.steps:
            for read in step.reads if step.kind != "combine" else ():
                self._read(step, read)
        self._next_iteration()
        for value in work.keep:
            if value not in work.blocks:
                self.wholes.setdefault(value, set()).add(0)
        frozen = {value: _frozen(cells) for value, cells in self.blocks.items()}
        return _frozen(self.wholes), _frozen(self.gathers), frozen

    def _read(self, step: StepWork, read: ReadWork) -> None:
        route, of = self.route, self.route.work.dims(read.value)
        if not of:
            self.wholes.setdefault(read.value, set()).update(route.performers(step))
        elif not set(of) & set(step.over):
            self.gathers.setdefault(read.value, set()).update(route.performers(step))
        elif of != step.over:
            cells = self.blocks.setdefault(read.value, {})
            for rank in route.performers(step):
                for cell in {
                    c for task in route.own(rank, step.over) for c in blocks_read(route.work, step.over, of, task)
                }:
                    cells.setdefault(cell, set()).add(rank)

    def _next_iteration(self) -> None:
        """A carried output goes to whoever reads the input; blocks go where the same blocks of the input are read."""
        work, route = self.route.work, self.route
        route.gathers = _frozen(self.gathers)  # `carried_whole` asks for them
        for name, value in work.carry.items():
            if not route.carried_whole(name):
                for cell, ranks in self.blocks.get(name, {}).items():
                    self.blocks.setdefault(value, {}).setdefault(cell, set()).update(ranks)
                continue
            readers = self.wholes.get(name, set()) | self.gathers.get(name, set())
            if name in work.blocks:
                readers |= set(range(route.ranks))
            if readers:
                (self.gathers if value in work.blocks else self.wholes).setdefault(value, set()).update(readers)


def blocks_read(work: Work, over: Dims, of: Dims, task: Cell) -> Iterable[Cell]:
    """The blocks of a value with blocks along `of` that a task reads, in row-major order."""
    place = dict(zip(over, task, strict=True))
    counts = zip(of, work.counts(of), strict=True)
    return product(*([place[dim]] if dim in place else range(count) for dim, count in counts))


def _frozen(needs: Mapping[K, set[int]]) -> dict[K, frozenset[int]]:
    return {key: frozenset(ranks) for key, ranks in needs.items()}
