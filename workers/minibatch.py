"""Minibatches: which rows of the data an iteration works on, as a function of its number alone.

In each epoch every row comes at most once, in an order of the epoch's own: row i of N gets word i of a Philox4x64-10
stream (Salmon et al., 2011; NumPy keeps that stream for ever, unlike `Generator.permutation`) with the key (seed, epoch), and
rows are sorted by their words. The last word of the counter is 3, which no draw of `gi.random` has. Iteration k of an epoch
takes rows k * size to (k + 1) * size of that order; rows that do not fill a batch wait for another epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphir.node import Array

_COUNTER = np.array([0, 0, 0, 3], np.uint64)


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

    @property
    def steps(self) -> int:
        """Iterations an epoch."""
        return self.total // self.size

    @property
    def order_bytes(self) -> int:
        """What `Order` takes at most: words, positions, and what sorting needs."""
        return 3 * 8 * self.total


class Order:
    """The rows of each iteration; the order of the latest epoch is kept."""

    def __init__(self, batch: Minibatch) -> None:
        self._batch = batch
        self._epoch, self._order = -1, np.empty(0, np.intp)

    def rows(self, step: int) -> Array:
        """The rows of an iteration, counted from the beginning of the job."""
        epoch, place = divmod(step, self._batch.steps)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, permutation(self._batch.total, self._batch.seed, epoch)
        return self._order[place * self._batch.size : (place + 1) * self._batch.size]


def permutation(total: int, seed: int | None, epoch: int) -> Array:
    """The order of the rows in an epoch."""
    if seed is None:
        return np.arange(total)
    words = np.random.Philox(counter=_COUNTER, key=np.array([seed, epoch], np.uint64)).random_raw(total)
    return np.argsort(words, kind="stable")
