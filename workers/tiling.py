"""Whether a graph is evaluated in tiles, along what, and how long they are: by estimates from the graph and the sizes alone.

A class of axes is cut where most of the work can be done tile by tile, at least two tiles are worth their overhead (what each reads
whole, what is joined, the calls), and no more memory is needed. Elementwise graphs are not cut: fused groups do it for them.
Nothing here may look at the machine: borders decide bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from graphir import dims
from graphir.errors import PlanError
from graphir.graph import Graph
from graphir.node import Node
from graphir.partition.cost import Estimate, value_bytes
from graphir.partition.data import partition
from graphir.partition.naming import AxisClass, classes, fresh, named
from graphir.partition.pairing import paired
from graphir.partition.plan import Plan, Read, Step
from workers.footprint import peak_bytes
from workers.fuse import fusable

WORTH_BYTES = 1 << 22
"""From so many bytes of values along the axes on: less stays in cache as it is."""
TILE_BYTES = 1 << 20
"""What one tile reads and holds at one time, if its overhead allows so little."""
MEMORY = 1e10
"""Bytes a second, for what each tile reads whole and what is joined: less than a copy, since products pack what they read."""
CALL = 5e-6
"""Seconds of a call beside its work, with threads that wait for one another."""
OVERHEAD = 0.1
"""Part of the work that the overhead of all tiles may take."""
UNTILED = 0.25
"""Part of the work that may be left to steps that run once."""
MORE_MEMORY = 2
"""How many times the memory may be taken: a tile's sums of weights may need more than is saved."""
CANDIDATES = 3
"""How many classes of axes are tried."""
MOST_NODES = 20_000
"""Of larger graphs nothing is tried: planning would take longer than it saves."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """A plan that cuts one dimension, `cut`; `whole`: how it is written in the graph that was given."""

    plan: Plan
    cut: str
    whole: dims.Dim

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Where each tile begins and ends."""
        return list(pairwise(self.plan.borders[self.cut]))


def tiling(graph: Graph, sizes: Mapping[str, int], *, frugal: bool = False) -> Tiling | None:
    """How the graph is evaluated in tiles at these sizes, or None; `frugal`: not if one thread may take more memory than without."""
    if len(graph.nodes) > MOST_NODES or not _is_large(graph, sizes):
        return None
    graph = paired(graph)
    name = fresh(graph, sizes)
    found = [one for one in classes(graph, sizes)[:CANDIDATES] if one.bytes >= WORTH_BYTES]
    tried = [made for one in found if (made := _cut(graph, one, name, sizes)) is not None]
    if not tried:
        return None
    best = min(tried, key=lambda made: made[0])[1]
    return best if peak(best, 1)[0] <= peak_bytes(graph, sizes)[0] * (1 if frugal else MORE_MEMORY) else None


def peak(one: Tiling, threads: int) -> tuple[int, Node]:
    """An upper bound on the bytes of the values of a run, and the node at which it is reached; inputs do not count."""
    plan, count = one.plan, len(one.tiles)
    last = {read.value: number for number, step in enumerate(plan.steps) for read in step.reads}
    highest, at = 0, plan.graph.nodes[0]
    live: dict[str, int] = {}
    for number, step in enumerate(plan.steps):
        threaded = min(threads, count) if step.kind == "map" else 1
        inside, node = peak_bytes(step.program, plan.widest([one.cut]))
        inside += sum(_copied(one, step, read) for read in step.reads if step.kind == "map")
        made = {name: value_bytes(plan.values[name].type, plan.sizes) for name in step.writes}
        partial = [made[name] for name in step.writes if plan.values[name].layout == "partial"]
        trees = min(count, (count - 1).bit_length() * (1 if threaded == 1 else 2 * threaded))
        kept = sum(partial) * (trees - 1) + threaded * max(partial, default=0) + sum(made.values())
        if sum(live.values()) + threaded * inside + kept >= highest:
            highest, at = sum(live.values()) + threaded * inside + kept, node
        live |= made
        live = {name: size for name, size in live.items() if last.get(name, number + 1) > number}
    return highest, at


def _copied(one: Tiling, step: Step, read: Read) -> int:
    """The bytes of a slice that is not contiguous, and so is copied."""
    axis = dict(read.slices).get(one.cut)
    if axis is None and read.value in one.plan.values:
        axis = one.plan.values[read.value].axes.get(one.cut)
    return value_bytes(step.program.inputs[read.input].type, one.plan.widest([one.cut])) if axis else 0


def _is_large(graph: Graph, sizes: Mapping[str, int]) -> bool:
    """Whether all values together are worth it; most graphs are not, and to see this is to take no time."""
    estimate, total = Estimate(sizes), 0
    for node in graph.nodes:
        total += 0 if node.op.cheap and node.op.name != "input" else estimate.bytes(node)
        if total >= WORTH_BYTES:
            return True
    return False


def _cut(graph: Graph, one: AxisClass, name: str, sizes: Mapping[str, int]) -> tuple[float, Tiling] | None:
    """An estimate of the seconds, and the plan, with one class cut; None if that is not worth it."""
    renamed = named(graph, one, name, sizes)
    if renamed is None:
        return None
    all_sizes = {**sizes, name: one.size}
    try:
        plan = partition(renamed, all_sizes, name, one.size)
    except PlanError:
        return None
    costs = _Costs(plan, name)
    rows = costs.rows()
    if rows is None:
        return None
    plan = partition(renamed, all_sizes, name, rows)
    return costs.single + costs.tiled / 2, Tiling(plan, name, one.dim)


class _Costs:
    """Estimates for a plan whose one tile is all there is."""

    def __init__(self, plan: Plan, cut: str) -> None:
        self.plan, self.size, self.local = plan, plan.sizes[cut], dims.local(cut)
        self._estimate = Estimate({**plan.sizes, self.local: self.size})
        self.single = sum(self._seconds(step) for step in plan.steps if step.kind == "single")
        self.maps = [step for step in plan.steps if step.kind == "map"]
        self.tiled = sum(self._seconds(step) for step in self.maps)

    def rows(self) -> int | None:
        """The rows of a tile; None if tiles are not worth it."""
        fused = sum(self._estimate.seconds(node) for step in self.maps for node in step.program if fusable(node))
        if not self.maps or self.single > UNTILED * self.tiled or self.tiled - fused < OVERHEAD * self.tiled:
            return None
        fitting = max(map(self._bytes, self.maps)) / TILE_BYTES
        worth = OVERHEAD * self.tiled / sum(map(self._overhead, self.maps))
        return _balanced(self.size, int(min(fitting, worth)))

    def _seconds(self, step: Step) -> float:
        return sum(map(self._estimate.seconds, step.program.nodes))

    def _bytes(self, step: Step) -> int:
        """What grows with a tile: its slices, and what it makes of them at one time."""
        inputs = [node for node in step.program.inputs.values() if self._grows(node)]
        most = peak_bytes(step.program, self._estimate.sizes)[0]
        least = peak_bytes(step.program, {**self._estimate.sizes, self.local: 1})[0]
        return sum(map(self._estimate.bytes, inputs)) + most - least

    def _overhead(self, step: Step) -> float:
        """Seconds that each tile costs whatever its length."""
        working = [node for node in step.program.nodes if node.inputs and not node.op.cheap]
        fixed = [node for node in working if not any(map(self._grows, (node, *node.inputs)))]  # done with partial sums
        whole = sum(self._estimate.bytes(i) for node in working for i in node.inputs if not self._grows(i))
        partial = sum(
            self._estimate.bytes(node)
            for name, node in step.program.outputs.items()
            if self.plan.values[name].layout == "partial"
        )
        calls = CALL * len(working) + sum(map(self._estimate.seconds, fixed))
        return calls + (whole + 3 * partial) / MEMORY

    def _grows(self, node: Node) -> bool:
        return any(self.local in dims.names(d) for d in node.type.shape)


def _balanced(size: int, tiles: int) -> int | None:
    """The rows of about so many tiles of a dimension: few are a power of two, that they may be shared evenly."""
    if tiles < 2:
        return None
    count = 1 << (tiles.bit_length() - 1) if tiles < 16 else tiles // 8 * 8
    rows = -(-size // count)
    if rows >= 256:
        rows = -(-rows // 16) * 16
    return rows if rows < size else None
