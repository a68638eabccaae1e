"""Reductions of a few elements for each of many results: NumPy's loop over so few costs more than what it computes."""

from math import prod

import numpy as np

from graphir.node import Array

MOST_ELEMENTS, LEAST_RESULTS = 16, 1 << 10


def one_by_one(x: Array, axes: tuple[int, ...], two: np.ufunc) -> Array | None:
    """The reduction over the last axis and perhaps others, one element of all results after the other; None where it is no such."""
    count = prod([x.shape[axis] for axis in axes])
    if x.ndim - 1 not in axes or not 1 < count <= MOST_ELEMENTS or x.size < count * LEAST_RESULTS:
        return None
    if x.dtype.itemsize < 4 and two is np.add:  # NumPy adds narrow floats in wider ones
        return None
    front = np.moveaxis(x, axes, range(len(axes)))
    places = np.ndindex(front.shape[: len(axes)])
    out = two(front[next(places)], front[next(places)])
    for place in places:
        two(out, front[place], out=out)
    return np.asarray(out, order="C")
