"""Minibatches: which rows of the data an iteration works on, as a function of its number alone.

In each epoch every row comes at most once, in an order of the epoch's own: row i of N gets word i of a Philox4x64-10
stream (Salmon et al., 2011; NumPy keeps that stream for ever, unlike `Generator.permutation`) with the key (seed, epoch), and
rows are sorted by their words. The last word of the counter is 3, which no draw of `gi.random` has. Iteration k of an epoch
takes rows k * size to (k + 1) * size of that order; rows that do not fill a batch wait for another epoch.

With `parts`, the data are so many contiguous parts, each with an order of its own (the third word of the counter is its number),
and a batch is made of equally many rows from each, in the order of the parts: a chunk of it comes from a few of them only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphir.node import Array


@dataclass(frozen=True, slots=True)
class Minibatch:
    """`size` of `total` rows of the dimension `dim` in every iteration.

    seed: of the shuffle; None takes rows in order. axes: the axes of each fed input that have the dimension.
    """

    dim: str
    size: int
    total: int
    seed: int | None
    axes: Mapping[str, tuple[int, ...]]
    parts: int = 1

    @property
    def steps(self) -> int:
        """Iterations an epoch: until the smallest part has no more rows to give."""
        return (self.total // self.parts) // (self.size // self.parts)

    @property
    def order_bytes(self) -> int:
        """What `Order` takes at most: words, positions, and what sorting needs."""
        return 4 * 8 * self.total

    def part(self, number: int) -> tuple[int, int]:
        """The rows of a part of the data."""
        return self.total * number // self.parts, self.total * (number + 1) // self.parts

    def drawn(self, begin: int, end: int) -> tuple[int, int]:
        """From which rows of the data these rows of a batch come."""
        each = self.size // self.parts
        return self.part(begin // each)[0], self.part(max(begin, end - 1) // each)[1]


class Order:
    """The rows of each iteration; those of the latest epoch are kept."""

    def __init__(self, batch: Minibatch) -> None:
        self._batch = batch
        self._epoch, self._order = -1, np.empty((0, 0), np.intp)

    def rows(self, step: int) -> Array:
        """The rows of an iteration, counted from the beginning of the job."""
        epoch, place = divmod(step, self._batch.steps)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _ordered(self._batch, epoch)
        rows: Array = self._order[place]
        return rows


def _ordered(batch: Minibatch, epoch: int) -> Array:
    """The rows of all iterations of an epoch."""
    order = np.empty((batch.steps, batch.size), np.intp)
    each = batch.size // batch.parts
    for number in range(batch.parts):
        begin, end = batch.part(number)
        taken = begin + permutation(end - begin, batch.seed, epoch, number)[: batch.steps * each]
        order[:, number * each : (number + 1) * each] = taken.reshape(batch.steps, each)
    return order


def permutation(total: int, seed: int | None, epoch: int, part: int = 0) -> Array:
    """The order of the rows of a part in an epoch."""
    if seed is None:
        return np.arange(total)
    counter, key = np.array([0, 0, part, 3], np.uint64), np.array([seed, epoch], np.uint64)
    return np.argsort(np.random.Philox(counter=counter, key=key).random_raw(total), kind="stable")
