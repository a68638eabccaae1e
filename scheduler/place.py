"""Which worker evaluates which chunks, and the combine tree, whose shape never depends on the workers.

The tree pairs neighbours level by level: node (level, k) joins (level - 1, 2k) and (level - 1, 2k + 1); an odd last
node moves up as it is. A worker with a contiguous range of chunks reduces the whole subtrees inside it; joining
those roots later performs the same pairwise operations in the same association, whatever the ranges are.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Root: TypeAlias = tuple[int, int]


def ranges(chunks: int, workers: int) -> tuple[tuple[int, int], ...]:
    """Contiguous, balanced ranges of chunks, one for each worker; empty ones are left out."""
    used = min(chunks, workers)
    ends = [chunks * k // used for k in range(used + 1)]
    return tuple((ends[k], ends[k + 1]) for k in range(used))


def reduce_range(
    start: int, stop: int, total: int, leaves: Mapping[int, T], join: Callable[[T, T], T]
) -> dict[Root, T]:
    """The roots of the maximal whole subtrees over chunks start:stop, reduced."""
    return _reduce({(0, k): leaves[k] for k in range(start, stop)}, total, join)


def reduce_roots(total: int, roots: Mapping[Root, T], join: Callable[[T, T], T]) -> T:
    """The value of the whole tree from the roots of subtrees that cover it."""
    reduced = _reduce(dict(roots), total, join)
    (value,) = reduced.values()
    return value


def _reduce(nodes: dict[Root, T], total: int, join: Callable[[T, T], T]) -> dict[Root, T]:
    level, width = 0, total
    while width > 1:
        for at, k in sorted(nodes):
            if at != level or (level, k) not in nodes:
                continue
            if k == width - 1 and width % 2:
                nodes[(level + 1, k // 2)] = nodes.pop((level, k))
            elif k % 2 == 0 and (level, k + 1) in nodes:
                nodes[(level + 1, k // 2)] = join(nodes.pop((level, k)), nodes.pop((level, k + 1)))
        level, width = level + 1, -(-width // 2)
    return nodes
