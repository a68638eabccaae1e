"""A graph as numbers for those who divide it: who reads whom, what each node takes, and how much its value is.

A million nodes are some columns; only what is sequential by nature (the longest path, an order by depth) is a loop.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphir.walk import Column, Links

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Flow(Links):
    """Nodes in a topological order, each with those that it reads, once each.

    seconds: that each takes; bytes: of each one's value.
    """

    seconds: Floats
    bytes: Column

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def total(self) -> float:
        """The seconds of all, added in order: the same on every machine."""
        return float(np.cumsum(self.seconds)[-1]) if len(self) else 0.0


def distinct(numbers: Column) -> Column:
    """Each number once, in order; quick where they are nearly in order already (`np.unique` hashes)."""
    ordered = np.sort(numbers, kind="stable")
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def longest_path(flow: Flow) -> float:
    """The seconds that no number of workers can go below."""
    rows = np.maximum(flow.counts - 1, 1)  # one joins two inputs, or a further one
    last = np.cumsum(rows)  # where a node's last row is: row 0 is for inputs that are not there
    first, at = last - rows + 1, np.repeat(np.arange(len(flow)), rows)
    further = np.arange(1, len(at) + 1) - first[at] + 1  # which input a row adds
    sources = np.concatenate([last[flow.sources], [0]])
    left = np.where(further == 1, _input(flow, sources, at, further - 1), np.arange(len(at)))
    right = _input(flow, sources, at, further)
    taken = np.zeros(len(at))
    taken[last - 1] = flow.seconds
    ended = [0.0]
    for one, other, seconds in zip(left.tolist(), right.tolist(), taken.tolist(), strict=True):
        a, b = ended[one], ended[other]
        ended.append(seconds + (a if a > b else b))
    return max(ended)


def _input(flow: Flow, sources: Column, at: Column, number: Column) -> Column:
    """A node's input of this number as a row; 0 where it has none. `sources` ends with a 0."""
    return sources[np.where(number < flow.counts[at], flow.starts[at] + number, len(sources) - 1)]


def branches(flow: Flow) -> Column:
    """A topological order that finishes what a node needs before it begins anything else (depth first)."""
    ends, sources = flow.starts[1:].tolist(), flow.sources.tolist()
    following = flow.starts[:-1].tolist()  # the input to be looked at next
    done, order = bytearray(len(flow)), list[int]()
    for sink in (flow.last < 0).nonzero()[0].tolist():
        stack = [sink]
        while stack:
            node = stack[-1]
            at, end = following[node], ends[node]
            while at < end and done[sources[at]]:
                at += 1
            if at < end:
                following[node] = at + 1
                stack.append(sources[at])
            else:
                stack.pop()
                done[node] = 1
                order.append(node)
    return np.array(order, np.int64)
