"""Who does what, and what goes from whom to whom: worked out alike by every rank of a job from its work alone.

Values travel by push. A whole value goes from the rank that makes it to the ranks whose steps read it; chunks of a
shard go to the ranks that need it whole; sums are exchanged along the combine tree. Every rank walks through the steps
in the same order and sends before it waits, so nobody waits in a circle.
"""

from dataclasses import dataclass, field

from workers.tree import Place, chunk_owner, chunk_range, subtrees
from workers.work import EVERYWHERE, StepWork, Work

RELAY = 4
"""To how many ranks one rank hands a value on at most; with more receivers these hand it on in their turn."""


@dataclass
class Route:
    """The routes of a job over `ranks` ranks. makers: step number by value; last: the last step that reads a value."""

    work: Work
    ranks: int
    makers: dict[str, int] = field(init=False)
    last: dict[str, int] = field(init=False)
    wholes: dict[str, frozenset[int]] = field(init=False)
    gathers: dict[str, frozenset[int]] = field(init=False)
    _orders: dict[str, tuple[list[int], dict[int, int]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        steps = self.work.steps
        self.makers = {value: number for number, step in enumerate(steps) for value in step.writes}
        self.last = {value: number for number, step in enumerate(steps) for _, value, _ in step.reads}
        self.wholes, self.gathers = self._needs()

    def range(self, rank: int) -> tuple[int, int]:
        """The chunks of a rank."""
        chunks = self.work.chunks
        return chunk_range(rank, min(self.ranks, chunks), chunks) if rank < chunks else (chunks, chunks)

    def owner(self, chunk: int) -> int:
        """The rank of a chunk."""
        return chunk_owner(chunk, min(self.ranks, self.work.chunks), self.work.chunks)

    def performs(self, rank: int, step: StepWork) -> bool:
        """Whether the rank performs a single step, or has the result of a combine step first."""
        return step.at in (EVERYWHERE, rank)

    def subtrees(self, rank: int) -> tuple[Place, ...]:
        """What a rank has of each combine tree from its own chunks."""
        return subtrees(*self.range(rank), self.work.chunks)

    def next_hop(self, place: Place) -> int:
        """Who joins the subtree at `place` with the one on its left: the owner of that one's first chunk."""
        level, index = place
        return self.owner((index - 1) << level)

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

    def _needs(self) -> tuple[dict[str, frozenset[int]], dict[str, frozenset[int]]]:
        everyone = frozenset(range(self.ranks))
        holders = frozenset(r for r in everyone if len(range(*self.range(r)))) or frozenset({0})
        wholes: dict[str, set[int]] = {}
        gathers: dict[str, set[int]] = {}
        for step in self.work.steps:
            if step.kind == "combine":
                continue
            ranks = holders if step.kind == "map" else everyone if step.at == EVERYWHERE else frozenset({step.at})
            for _, value, axis in step.reads:
                own = step.kind == "map" and axis is None and value in self.work.shards
                if not own:
                    (gathers if value in self.work.shards else wholes).setdefault(value, set()).update(ranks)
        self._needs_of_the_next_iteration(wholes, gathers)
        for value in self.work.keep:
            if value not in self.work.shards:
                wholes.setdefault(value, set()).add(0)
        return _frozen(wholes), _frozen(gathers)

    def _needs_of_the_next_iteration(self, wholes: dict[str, set[int]], gathers: dict[str, set[int]]) -> None:
        """A carried output goes to whoever reads the input; a shard stays where it is if it is cut along the same axis."""
        for name, value in self.work.carry.items():
            readers = wholes.get(name, set()) | gathers.get(name, set())
            if name in self.work.shards:
                readers |= set(range(self.ranks)) if self.carried_whole(name) else set()
            if readers:
                (gathers if value in self.work.shards else wholes).setdefault(value, set()).update(readers)

    def carried_whole(self, name: str) -> bool:
        """Whether a carried input is kept whole by each rank that reads it, and not in chunks."""
        axis = self.work.shards.get(name)
        return axis is None or self.work.shards.get(self.work.carry[name]) != axis or bool(self._read_whole(name))

    def _read_whole(self, name: str) -> bool:
        steps = self.work.steps
        return any(
            value == name and not (step.kind == "map" and axis is None)
            for step in steps
            for _, value, axis in step.reads
        )


def _frozen(needs: dict[str, set[int]]) -> dict[str, frozenset[int]]:
    return {value: frozenset(ranks) for value, ranks in needs.items()}
