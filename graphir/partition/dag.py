"""Cut a graph that has no dimension to cut: split its nodes into parts that workers can run beside one another.

An order of the nodes is split into contiguous blocks of bounded weight so that few bytes cross (Kernighan 1971, "Optimal
sequential partitions of graphs"), then single nodes are moved to another part where that saves bytes. Blocks are
numbered along a topological order and every move keeps each edge from a lower to an equal or higher number, so the graph
of parts has no cycle (the constraint of Moreira, Popp and Schulz 2017). Two orders are tried: that of creation, and one
that finishes a branch before it begins the next; the one whose parts would end first on a few workers is taken.
"""

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import TypeAlias, TypeVar

from graphir.node import Node

PART_SECONDS = 0.03
"""What a part should take at least: a hundred times what it costs to hand it over."""
MOST_PARTS = 64
LOOSE = 1.5
"""How much heavier than the mean a part may be."""
WORTH = 0.9
"""Parts that end hardly earlier than the whole are not worth it."""
SWEEPS = 3
BESIDE = 8
"""On how many imagined workers orders are compared."""
BYTES_A_SECOND = 2e9


K = TypeVar("K", bound=Hashable)
"""A node, or its number: `split` works on numbers, which lie side by side in memory."""
Inputs: TypeAlias = Mapping[K, Sequence[K]]
"""For each node to be placed those that it reads, directly or through views."""
Users: TypeAlias = Mapping[K, list[K]]


@dataclass(frozen=True, slots=True)
class Weights:
    """Seconds that a node takes and bytes that its value has."""

    seconds: Callable[[Node], float]
    bytes: Callable[[Node], int]


def split(inputs: Inputs[Node], weights: Weights) -> list[list[Node]]:
    """The nodes in parts, each a list in the given order; edges go from a part to itself or a later one.

    inputs: of each node in topological order. One part if there is too little work for two, or nothing is gained.
    """
    nodes = list(inputs)
    numbers = dict(zip(nodes, range(len(nodes)), strict=True))
    sources = {number: [numbers[i] for i in inputs[node]] for node, number in numbers.items()}
    part = _parts(sources, dict(enumerate(map(weights.seconds, nodes))), dict(enumerate(map(weights.bytes, nodes))))
    found: list[list[Node]] = [[] for _ in range(max(part.values(), default=0) + 1)]
    for number, node in enumerate(nodes):
        found[part.get(number, 0)].append(node)
    return [each for each in found if each]


def _parts(inputs: Inputs[int], seconds: Mapping[int, float], bytes_: Mapping[int, int]) -> Mapping[int, int]:
    """The part of each node; empty if all belong together."""
    total = sum(seconds.values())
    count = min(MOST_PARTS, int(total / PART_SECONDS))
    if count < 2 or _longest_path(inputs, seconds) >= total * WORTH:
        return {}
    users = consumers(inputs)
    orders = (list(inputs), branches(inputs, users))
    tried = [(order, _blocks(order, users, seconds, bytes_, total / count)) for order in orders]
    ends = [_makespan(parts, inputs, seconds, bytes_) for _, parts in tried]
    if min(ends) >= total:
        return {}
    best = _refined(*tried[ends.index(min(ends))], inputs, users, seconds, bytes_)
    return {} if _makespan(best, inputs, seconds, bytes_) >= total * WORTH else best


def _longest_path(inputs: Inputs[K], seconds: Mapping[K, float]) -> float:
    """The seconds that no number of workers can go below."""
    ended: dict[K, float] = {}
    for node, sources in inputs.items():
        ended[node] = seconds[node] + max([ended[i] for i in sources], default=0.0)
    return max(ended.values(), default=0.0)


def consumers(inputs: Inputs[K]) -> Users[K]:
    """Who reads a node."""
    users: dict[K, list[K]] = {}
    for node, sources in inputs.items():
        for source in dict.fromkeys(sources):
            users.setdefault(source, []).append(node)
    return users


def branches(inputs: Inputs[K], users: Users[K]) -> list[K]:
    """A topological order that finishes what a node needs before it begins anything else (depth first, iterative)."""
    done, order = set[K](), list[K]()
    for sink in [node for node in inputs if node not in users]:
        stack = [sink]
        while stack:
            node = stack[-1]
            missing = [i for i in inputs[node] if i not in done]
            if node in done or missing:
                stack.pop() if node in done else stack.extend(reversed(missing))
                continue
            stack.pop()
            done.add(node)
            order.append(node)
    return order


def _blocks(
    order: Sequence[K],
    users: Users[K],
    seconds: Mapping[K, float],
    bytes_: Mapping[K, int],
    mean: float,
) -> dict[K, int]:
    """Contiguous blocks: least bytes over the borders, each block of half to LOOSE times the mean where nodes allow."""
    crossing = _crossing(order, users, bytes_)
    before = [0.0]
    for node in order:
        before.append(before[-1] + seconds[node])
    cost, start = [0.0], [0]
    window: deque[int] = deque()
    ready = low = 0
    for end in range(1, len(order) + 1):
        while ready < end and (before[end] - before[ready] >= mean / 2 or ready == end - 1 or end == len(order)):
            while window and cost[window[-1]] >= cost[ready]:
                window.pop()
            window.append(ready)
            ready += 1
        while low < end - 1 and before[end] - before[low] > LOOSE * mean:
            low += 1
        while len(window) > 1 and window[0] < low:
            window.popleft()
        begin = window[0]
        start.append(begin)
        cost.append(cost[begin] + crossing[end])
    ends = [len(order)]
    while ends[-1]:
        ends.append(start[ends[-1]])
    part: dict[K, int] = {}
    for number, (end, begin) in enumerate(zip(reversed(ends[:-1]), reversed(ends[1:]), strict=True)):
        part |= dict.fromkeys(order[begin:end], number)
    return part


def _crossing(order: Sequence[K], users: Users[K], bytes_: Mapping[K, int]) -> list[int]:
    """For each border the bytes of values made before it and used after it."""
    place = {node: k for k, node in enumerate(order)}
    change = [0] * (len(order) + 2)
    for node, made in place.items():
        following = users.get(node)
        if following:
            change[made + 1] += bytes_[node]
            change[max([place[user] for user in following]) + 1] -= bytes_[node]
    live, total = [], 0
    for step in change[: len(order) + 1]:
        total += step
        live.append(total)
    live[-1] = 0
    return live


def _refined(
    order: Sequence[K],
    part: dict[K, int],
    inputs: Inputs[K],
    users: Users[K],
    seconds: Mapping[K, float],
    bytes_: Mapping[K, int],
) -> dict[K, int]:
    """Move nodes between the latest part of their inputs and the earliest of their users where fewer bytes then cross."""
    loads: dict[int, float] = {}
    for node in order:
        loads[part[node]] = loads.get(part[node], 0.0) + seconds[node]
    heaviest = max(LOOSE * sum(loads.values()) / len(loads), *loads.values())
    asked: Sequence[K] = order
    for _ in range(SWEEPS):
        moved = []
        for node in asked:
            here = part[node]
            low = max([part[i] for i in inputs[node]], default=here)
            high = min([part[user] for user in users.get(node, ())], default=here)
            for there in () if low == high == here else {low, high} - {here}:
                room = loads[there] + seconds[node] <= heaviest
                if room and _gain(node, here, there, part, inputs, users, bytes_) > 0:
                    part[node] = there
                    moved.append(node)
                    loads[here] -= seconds[node]
                    loads[there] += seconds[node]
                    break
        if not moved:
            break
        near = {other for node in moved for other in (*inputs[node], *users.get(node, ()))}
        asked = [node for node in order if node in near]
    return part


def _gain(
    node: K,
    here: int,
    there: int,
    part: Mapping[K, int],
    inputs: Inputs[K],
    users: Users[K],
    bytes_: Mapping[K, int],
) -> int:
    """Bytes that need not be sent any more if the node moves."""
    goes = {part[user] for user in users.get(node, ())}
    gain = bytes_[node] * ((there in goes) - (here in goes))
    for source in dict.fromkeys(inputs[node]):
        others = {part[user] for user in users[source] if user is not node} | {part[source]}
        gain += bytes_[source] * ((here not in others) - (there not in others))
    return gain


def _makespan(
    part: Mapping[K, int],
    inputs: Inputs[K],
    seconds: Mapping[K, float],
    bytes_: Mapping[K, int],
) -> float:
    """When the last part would end on BESIDE workers: each part on the first that is free, once its values are there."""
    count = max(part.values()) + 1
    loads, needs = [0.0] * count, [dict[int, int]() for _ in range(count)]
    for node, number in part.items():
        loads[number] += seconds[node]
        for source in inputs[node]:
            if part[source] != number:
                needs[number][part[source]] = needs[number].get(part[source], 0) + bytes_[source]
    free, ended = [0.0] * min(BESIDE, count), [0.0] * count
    heapify(free)
    for number in range(count):
        arrived = max((ended[p] + size / BYTES_A_SECOND for p, size in needs[number].items()), default=0.0)
        ended[number] = max(free[0], arrived) + loads[number]
        heapreplace(free, ended[number])
    return max(ended)
