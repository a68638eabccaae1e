"""The combine tree: a fixed binary tree over the chunks of a job.

Node (level, index) joins the chunks index * 2**level up to (index + 1) * 2**level, as far as there are any; the last of
an odd number goes up alone. The tree depends on the number of chunks only. So a worker may join every whole subtree
of its own range as its chunks come, and whoever joins the rest gets the same bits, wherever the ranges were divided.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
Place: TypeAlias = tuple[int, int]


def chunk_range(number: int, workers: int, chunks: int) -> tuple[int, int]:
    """The contiguous, balanced share of chunks of one of `workers` workers; perhaps empty."""
    return chunks * number // workers, chunks * (number + 1) // workers


def chunk_owner(chunk: int, workers: int, chunks: int) -> int:
    """The worker whose share has the chunk."""
    return ((chunk + 1) * workers - 1) // chunks


class Tree(Generic[T]):
    """Subtrees of the combine tree over `total` chunks, joined as soon as both halves are there."""

    def __init__(self, total: int, join: Callable[[T, T], T]) -> None:
        self._widths = [total]
        while self._widths[-1] > 1:
            self._widths.append((self._widths[-1] + 1) // 2)
        self._join = join
        self.parts: dict[Place, T] = {}

    def add(self, place: Place, value: T) -> None:
        """Put a subtree's value in, and join upwards as far as possible."""
        level, index = place
        while level < len(self._widths) - 1:
            if index % 2 == 0 and index + 1 >= self._widths[level]:
                level, index = level + 1, index // 2
                continue
            other = (level, index ^ 1)
            if other not in self.parts:
                break
            beside = self.parts.pop(other)
            value = self._join(beside, value) if index % 2 else self._join(value, beside)
            level, index = level + 1, index // 2
        self.parts[level, index] = value

    @property
    def top(self) -> Place:
        """The place of the root."""
        return len(self._widths) - 1, 0

    @property
    def root(self) -> T:
        """The value of the whole tree."""
        return self.parts[self.top]


def joined(total: int, parts: Mapping[Place, T], join: Callable[[T, T], T]) -> T:
    """The value of the whole tree from subtrees that cover it."""
    tree = Tree(total, join)
    for place in sorted(parts, key=lambda place: place[1] << place[0]):
        tree.add(place, parts[place])
    return tree.root


def subtrees(start: int, stop: int, total: int) -> tuple[Place, ...]:
    """The highest subtrees that lie wholly in the chunks start:stop, from left to right."""
    tree: Tree[None] = Tree(total, lambda left, right: None)
    for chunk in range(start, stop):
        tree.add((0, chunk), None)
    return tuple(sorted(tree.parts, key=lambda place: place[1] << place[0]))
