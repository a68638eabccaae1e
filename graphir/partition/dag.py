"""Cut a graph that has no dimension to cut: split its nodes into parts that workers can run beside one another.

An order of the nodes is split into contiguous blocks of bounded weight so that few bytes cross (Kernighan 1971, "Optimal
sequential partitions of graphs"), then single nodes are moved to another part where that saves bytes. Blocks are
numbered along a topological order and every move keeps each edge from a lower to an equal or higher number, so the graph
of parts has no cycle (the constraint of Moreira, Popp and Schulz 2017). Two orders are tried: that of creation, and one
that finishes a branch before it begins the next; the one whose parts would end first on a few workers is taken.
"""

from heapq import heapify, heapreplace

import numpy as np

from graphir.partition.flow import Flow, branches, distinct, longest_path
from graphir.partition.moves import refined
from graphir.units import in_seconds
from graphir.walk import Column

PART_SECONDS = 0.03
"""What a part should take at least: a hundred times what it costs to hand it over."""
MOST_PARTS = 64
LOOSE = 1.5
"""How much heavier than the mean a part may be."""
WORTH = 0.9
"""Parts that end hardly earlier than the whole are not worth it."""
BESIDE = 8
"""On how many imagined workers orders are compared."""
BYTES_A_SECOND = 2e9
TOO_LITTLE = f"it takes less than two parts of {in_seconds(PART_SECONDS)}"


def split(flow: Flow) -> tuple[Column, str]:
    """The part of each node, edges going from a part to itself or a later one; or all in part 0, and why they are."""
    whole, total = np.zeros(len(flow), np.int64), flow.total
    count = min(MOST_PARTS, int(total / PART_SECONDS))
    if count < 2:
        return whole, TOO_LITTLE
    longest = longest_path(flow)
    if longest >= total * WORTH:
        return whole, f"one path through it takes {in_seconds(longest)} of its {in_seconds(total)}"
    tried = [blocks(flow, order, total / count) for order in (np.arange(len(flow)), branches(flow))]
    ends = [makespan(flow, part) for part in tried]
    best = tried[ends.index(min(ends))]
    end = min(ends)
    if end < total:
        best = refined(flow, best, LOOSE)
        end = makespan(flow, best)
    if end >= total * WORTH:
        return whole, f"{count} parts would end after {in_seconds(end)}, the whole after {in_seconds(total)}"
    return np.unique(best, return_inverse=True)[1], ""


def blocks(flow: Flow, order: Column, mean: float) -> Column:
    """Contiguous blocks of an order: least bytes over the borders, each of half to LOOSE times the mean where nodes allow."""
    border = crossing(flow, order)
    start = _best_starts(np.concatenate([[0.0], np.cumsum(flow.seconds[order])]), border, mean)
    ends = [len(order)]
    while ends[-1]:
        ends.append(int(start[ends[-1]]))
    part = np.empty(len(order), np.int64)
    part[order] = np.repeat(np.arange(len(ends) - 1), np.diff(ends[::-1]))
    return part


def crossing(flow: Flow, order: Column) -> Column:
    """For each border the bytes of values made before it and used after it."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    last = np.full(len(order), -1)
    np.maximum.at(last, flow.sources, place[flow.readers])
    used = last >= 0
    change = np.zeros(len(order) + 2, np.int64)
    np.add.at(change, place[used] + 1, flow.bytes[used])
    np.subtract.at(change, last[used] + 1, flow.bytes[used])
    live: Column = np.cumsum(change[:-1])
    live[-1] = 0
    return live


def _best_starts(before: "np.ndarray[tuple[int], np.dtype[np.float64]]", border: Column, mean: float) -> Column:
    """For each end of a block where it begins: least bytes over its own and all earlier borders.

    A block that is too light is only made where there is no other way. As a block has a least weight, the best beginnings for many
    ends are known before any of them is needed; their windows have a beginning in common (`pivot`), and what is least in a window is
    least in its part before the pivot or after it (van Herk 1992).
    """
    count = len(before) - 1
    low = np.minimum(np.searchsorted(before, before - LOOSE * mean), np.arange(count + 1) - 1)
    high = np.searchsorted(before, before - mean / 2, "right")
    low[0], high[-1] = 0, count  # the last block may be light
    light = high <= low
    high = np.maximum(high, low + 1)
    price = border + light * (float(border.max()) + 1) * (4 * before[-1] / mean + 4)
    cost, start, known = np.zeros(count + 1), np.zeros(count + 1, np.int64), 0
    while known < count:
        pivot = int(high[known + 1]) - 1
        last = min(int(np.searchsorted(high, known + 1, "right")), int(np.searchsorted(low, pivot, "right"))) - 1
        ends = slice(known + 1, last + 1)
        down = pivot - _least(cost[low[known + 1] : pivot + 1][::-1])[pivot - low[ends]]
        up = pivot + _least(cost[pivot : high[last]])[high[ends] - 1 - pivot]
        start[ends] = np.where(cost[up] < cost[down], up, down)
        cost[ends] = cost[start[ends]] + price[ends]
        known = last
    return start


def _least(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Column:
    """Where, up to each position, the least value comes first."""
    least = np.minimum.accumulate(values)
    fresh = np.concatenate([[True], values[1:] < least[:-1]])
    return np.maximum.accumulate(np.where(fresh, np.arange(len(values)), 0))


def makespan(flow: Flow, part: Column) -> float:
    """When the last part would end on BESIDE workers: each part on the first that is free, once its values are there."""
    count = int(part.max()) + 1
    loads = np.bincount(part, flow.seconds, count).tolist()
    needs: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for (reader, maker), size in _sent(flow, part).items():
        needs[reader].append((maker, size / BYTES_A_SECOND))
    free, ended = [0.0] * min(BESIDE, count), [0.0] * count
    heapify(free)
    for number in range(count):
        arrived = max((ended[maker] + seconds for maker, seconds in needs[number]), default=0.0)
        ended[number] = max(free[0], arrived) + loads[number]
        heapreplace(free, ended[number])
    return max(ended)


def _sent(flow: Flow, part: Column) -> dict[tuple[int, int], float]:
    """Bytes from part to part, by reader and maker; a value that a part needs is sent to it once."""
    count = int(part.max()) + 1
    crosses = part[flow.sources] != part[flow.readers]
    pairs = distinct(flow.sources[crosses] * count + part[flow.readers[crosses]])
    values, readers = np.divmod(pairs, count)
    keys, number = np.unique(readers * count + part[values], return_inverse=True)
    sizes = np.bincount(number, flow.bytes[values].astype(np.float64), len(keys))
    return {divmod(key, count): size for key, size in zip(keys.tolist(), sizes.tolist(), strict=True)}
