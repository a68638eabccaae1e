"""Products of matrices on several threads: parts of the larger side, one BLAS thread each.

BLAS's own threads wait for one another in a loop, and where other programs want the processors too, a product takes many times as long as with
one thread. Where parts begin depends on sizes alone.
"""

from collections.abc import Callable
from itertools import pairwise
from math import prod

import numpy as np

from graphir.node import Array
from workers import blas
from workers.crew import share

THREADED = 1 << 18
"""Multiplications from which on BLAS would use more than one thread."""
WORTH = 1 << 22
"""Multiplications that are worth another thread: some 80 microseconds of one."""
PART = 512
"""Rows or columns of a part, if there are enough: each part packs the other factor anew."""
MOST_PARTS = 16


class Product:
    """The kernel of a product, with a back-end's kernel for what is not large."""

    def __init__(self, kernel: Callable[..., Array], threads: int) -> None:
        self._kernel, self._threads = kernel, threads

    def __call__(self, x: Array, y: Array) -> Array:
        """The product of two stacks of matrices."""
        work = prod(x.shape) * y.shape[-1]
        if self._threads == 1 or work <= THREADED:
            return self._kernel(x, y)
        with blas.threads(1):
            if work < WORTH or x.dtype != y.dtype:
                return self._kernel(x, y)
            if x.ndim == 2 and min(x.shape[0], y.shape[1]) >= PART // 16:
                return self._in_parts(x, y)
            if x.ndim > 2 and x.shape[:-2] == y.shape[:-2]:
                return self._stacked(x, y)
            return self._kernel(x, y)

    def _in_parts(self, x: Array, y: Array) -> Array:
        out = np.empty((x.shape[0], y.shape[1]), x.dtype)
        by_rows = out.shape[0] >= out.shape[1]
        ends = borders(max(out.shape))

        def run(number: int) -> None:
            begin, end = ends[number]
            if by_rows:
                np.matmul(x[begin:end], y, out=out[begin:end])
            else:
                np.matmul(x, y[:, begin:end], out=out[:, begin:end])

        share(len(ends), self._threads, run)
        return out

    def _stacked(self, x: Array, y: Array) -> Array:
        """Matrices of a stack are shared, or their rows where the stack has few."""
        out = np.empty((*x.shape[:-1], y.shape[-1]), x.dtype)
        axis = max(range(x.ndim - 2), key=lambda axis: x.shape[axis])
        rows = x.shape[axis] in (1, 3)
        size = x.shape[-2] if rows else x.shape[axis]
        parts = min(size, 2 if rows else 4)
        before = (slice(None),) * (x.ndim - 2 if rows else axis)

        def run(number: int) -> None:
            part = (*before, slice(size * number // parts, size * (number + 1) // parts))
            np.matmul(x[part], y if rows else y[part], out=out[part])

        share(parts, self._threads, run)
        return out


class Contraction:
    """The kernel of an einsum; of two operands without a letter that both share with the result, it is a product of matrices."""

    def __init__(self, kernel: Callable[..., Array], threads: int) -> None:
        self._kernel, self._threads, self._product = kernel, threads, Product(np.matmul, threads)

    def __call__(self, *arrays: Array, subscripts: str) -> Array:
        """The result in C order, as einsum's kernel gives it."""
        operands, _, result = subscripts.partition("->")
        letters = operands.split(",")
        if self._threads == 1 or len(arrays) != 2:
            return self._kernel(*arrays, subscripts=subscripts)
        summed = [letter for letter in letters[0] if letter in letters[1] and letter not in result]
        own = [[letter for letter in names if letter not in summed] for names in letters]
        if not summed or sorted(own[0] + own[1]) != sorted(result):
            return self._kernel(*arrays, subscripts=subscripts)
        left = arrays[0].transpose([letters[0].index(letter) for letter in (*own[0], *summed)])
        right = arrays[1].transpose([letters[1].index(letter) for letter in (*summed, *own[1])])
        shape = left.shape[: len(own[0])] + right.shape[len(summed) :]
        terms = prod(right.shape[: len(summed)])
        product = self._product(
            left.reshape(prod(shape[: len(own[0])]), terms), right.reshape(terms, prod(shape[len(own[0]) :]))
        )
        order = [(own[0] + own[1]).index(letter) for letter in result]
        return np.ascontiguousarray(product.reshape(shape).transpose(order))


MADE: dict[str, Callable[[Callable[..., Array], int], Callable[..., Array]]] = {
    "matmul": Product, "einsum": Contraction,
}  # fmt: skip
"""By op, what makes of a back-end's kernel one for several threads."""


def borders(size: int) -> list[tuple[int, int]]:
    """Where the parts of a side begin and end: two or more, of whole blocks of BLAS's but for the last."""
    parts = max(2, min(MOST_PARTS, size // PART))
    length = -(-size // parts // 16) * 16
    return list(pairwise([*range(0, size, length), size]))
