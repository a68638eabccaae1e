"""Moves of single nodes to another part of a graph that is divided, where fewer bytes then go from part to part.

A node may go to the latest part of its inputs or the earliest of its users, so edges still go from a part to itself or a later
one. Who would gain is asked of all nodes at once; then each of these is asked again, in order, and moved.
"""

import numpy as np

from graphir.partition.flow import Flow
from graphir.walk import Column

SWEEPS = 3


def refined(flow: Flow, part: Column, loose: float) -> Column:
    """The parts after some sweeps; none becomes heavier than `loose` times the mean unless one was."""
    loads = np.bincount(part, flow.seconds).tolist()
    heaviest = max(loose * sum(loads) / len(loads), *loads)
    state = _State(flow, part.tolist(), loads, heaviest)
    asked = np.arange(len(flow))
    for _ in range(SWEEPS):
        moved = [node for node in _promising(flow, np.array(state.part), asked).tolist() if state.move(node)]
        if not moved:
            break
        near = [other for node in moved for other in (*state.inputs(node), *state.users(node))]
        asked = np.unique(np.array(near, np.int64))
    return np.array(state.part, np.int64)


def _promising(flow: Flow, part: Column, asked: Column) -> Column:
    """Those of the nodes that would gain by a move as parts are now."""
    low, high = np.full(len(flow), -1), np.full(len(flow), len(part))
    np.maximum.at(low, flow.readers, part[flow.sources])
    np.minimum.at(high, flow.sources, part[flow.readers])
    counts = _Counts(flow, part)
    found = np.zeros(len(flow), bool)
    for there, there_is in ((low, low >= 0), (high, high < len(part))):
        nodes = asked[(there_is & (there != part))[asked]]
        found[nodes[counts.gains(nodes, there[nodes]) > 0]] = True
    return found.nonzero()[0]


class _Counts:
    """How many users each node has in each part."""

    def __init__(self, flow: Flow, part: Column) -> None:
        self.flow, self.part, self.parts = flow, part, int(part.max()) + 1
        self.keys, self.counts = np.unique(flow.sources * self.parts + part[flow.readers], return_counts=True)

    def of(self, nodes: Column, parts: Column) -> Column:
        """For nodes and a part each."""
        keys = nodes * self.parts + parts
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.counts[at], 0)

    def gains(self, nodes: Column, there: Column) -> Column:
        """Bytes that need not be sent any more if one of the nodes moves there."""
        flow, part, here = self.flow, self.part, self.part[nodes]
        gain = flow.bytes[nodes] * ((self.of(nodes, there) > 0) * 1 - (self.of(nodes, here) > 0))
        mover = np.repeat(np.arange(len(nodes)), flow.counts[nodes])
        along = np.arange(len(mover)) - np.repeat(
            np.cumsum(flow.counts[nodes]) - flow.counts[nodes], flow.counts[nodes]
        )
        sources = flow.sources[flow.starts[nodes][mover] + along]
        still = (self.of(sources, here[mover]) > 1) | (part[sources] == here[mover])
        already = (self.of(sources, there[mover]) > 0) | (part[sources] == there[mover])
        np.add.at(gain, mover, flow.bytes[sources] * (already * 1 - still))
        return gain


class _State:
    """Parts while nodes move."""

    def __init__(self, flow: Flow, part: list[int], loads: list[float], heaviest: float) -> None:
        self.flow, self.part, self.loads, self.heaviest = flow, part, loads, heaviest

    def inputs(self, node: int) -> list[int]:
        """What a node reads."""
        starts = self.flow.starts
        found: list[int] = self.flow.sources[starts[node] : starts[node + 1]].tolist()
        return found

    def users(self, node: int) -> list[int]:
        """Who reads a node."""
        users = self.flow.users
        found: list[int] = users.sources[users.starts[node] : users.starts[node + 1]].tolist()
        return found

    def move(self, node: int) -> bool:
        """Move a node where that saves bytes and there is room; whether it moved."""
        here, seconds = self.part[node], float(self.flow.seconds[node])
        low = max([self.part[i] for i in self.inputs(node)], default=here)
        high = min([self.part[user] for user in self.users(node)], default=here)
        for there in sorted({low, high} - {here}):
            if self.loads[there] + seconds <= self.heaviest and self._gain(node, here, there) > 0:
                self.part[node] = there
                self.loads[here] -= seconds
                self.loads[there] += seconds
                return True
        return False

    def _gain(self, node: int, here: int, there: int) -> int:
        """Bytes that need not be sent any more if the node moves."""
        goes = {self.part[user] for user in self.users(node)}
        gain = int(self.flow.bytes[node]) * ((there in goes) - (here in goes))
        for source in self.inputs(node):
            others = {self.part[user] for user in self.users(source) if user != node} | {self.part[source]}
            gain += int(self.flow.bytes[source]) * ((here not in others) - (there not in others))
        return gain
