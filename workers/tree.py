"""The combine tree: a fixed binary tree over the chunks of a job.

Node (level, index) joins the chunks index * 2**level up to (index + 1) * 2**level, as far as there are any.
The tree depends on the number of chunks only. So a worker may join every whole subtree of its own range, and
whoever joins the rest gets the same bits, wherever the ranges were divided.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Place: TypeAlias = tuple[int, int]


def chunk_range(number: int, workers: int, chunks: int) -> tuple[int, int]:
    """The contiguous, balanced share of chunks of one of `workers` workers; perhaps empty."""
    return chunks * number // workers, chunks * (number + 1) // workers


def join_range(start: int, stop: int, total: int, leaves: Mapping[int, T], join: Callable[[T, T], T]) -> dict[Place, T]:
    """The highest subtrees that lie wholly in chunks start:stop, each joined to one value."""
    return _join({(0, index): leaves[index] for index in range(start, stop)}, total, join)


def join_roots(total: int, parts: Mapping[Place, T], join: Callable[[T, T], T]) -> T:
    """The value of the whole tree from subtrees that cover it."""
    (value,) = _join(dict(parts), total, join).values()
    return value


def _join(values: dict[Place, T], total: int, join: Callable[[T, T], T]) -> dict[Place, T]:
    level, width = 0, total
    while width > 1:
        for left in sorted(index for height, index in values if height == level and index % 2 == 0):
            if left + 1 >= width:  # the last of an odd number goes up alone
                values[level + 1, left // 2] = values.pop((level, left))
            elif (level, left + 1) in values:
                pair = values.pop((level, left)), values.pop((level, left + 1))
                values[level + 1, left // 2] = join(*pair)
        level, width = level + 1, (width + 1) // 2
    return values
