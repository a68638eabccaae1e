"""Sweeps: many points of one graph as one graph over a new leading dimension, made by `vmap`.

Inputs that are alike at all points are passed once; the others are stacked, and so are those that are carried, for their next
values differ. Points are alike in shape; a group of them is as large as MAX_BYTES of stacked feeds and outputs allow.
Each point's values are those of a run of its own up to the rounding of products, which a batch may sum in another order.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from graphir.batch import vmap
from graphir.dataset import Dataset
from graphir.errors import FeedError
from graphir.feeds import bind_sizes, check_names, convert
from graphir.graph import Graph

Array = np.ndarray[Any, Any]
MAX_BYTES = 1 << 28
"""The most that the stacked feeds and the outputs of one group of points may take together."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A graph over several points, its feeds, and the name and size of the new dimension."""

    graph: Graph
    feeds: dict[str, Any]
    dim: str
    size: int

    def point(self, outputs: Mapping[str, Array], number: int) -> dict[str, Array]:
        """The outputs of one point."""
        return {name: value[number, ...].copy() for name, value in outputs.items()}


def groups(graph: Graph, points: Sequence[Mapping[str, Any]], carried: Collection[str]) -> Iterator[list[int]]:
    """Which points may go together: those whose feeds have the same shapes, as many as memory allows."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, point in enumerate(points):
        check_names(graph, point)
        alike.setdefault(tuple(_form(point[name]) for name in graph.inputs), []).append(number)
    for numbers in alike.values():
        first = points[numbers[0]]
        own = [n for n in graph.inputs if n in carried or any(points[k][n] is not first[n] for k in numbers)]
        most = max(1, MAX_BYTES // max(1, _bytes(graph, first, own)))
        yield from (numbers[k : k + most] for k in range(0, len(numbers), most))


def sweep(graph: Graph, points: Sequence[Mapping[str, Any]], carried: Collection[str]) -> Sweep:
    """One graph for all points; GraphError if there is none."""
    if all(isinstance(value, Dataset) for value in points[0].values()):
        raise FeedError("the points differ in no array, only in datasets, and files cannot be stacked")
    over, feeds = [], {}
    for name, node in graph.inputs.items():
        values = [point[name] for point in points]
        if name not in carried and _same(values):
            feeds[name] = values[0]
            continue
        if any(isinstance(value, Dataset) for value in values):
            raise FeedError(f"input {name!r} is another dataset at other points, and files cannot be stacked")
        over.append(name)
        feeds[name] = np.stack([convert(name, value, node.type) for value in values])
    if not over:  # all points are one
        over = [next(name for name in graph.inputs if not isinstance(feeds[name], Dataset))]
        feeds |= {name: np.stack([feeds[name]] * len(points)) for name in over}
    dim = "point"
    while dim in graph.sizes:
        dim += "_"
    return Sweep(vmap(graph, over, dim), feeds, dim, len(points))


def _form(value: Any) -> tuple[Any, ...]:
    return ("dataset", value) if isinstance(value, Dataset) else ("array", np.shape(value))


def _same(values: Sequence[Any]) -> bool:
    first = values[0]
    if all(value is first for value in values[1:]):
        return True
    if any(isinstance(value, Dataset) for value in values):
        return all(value == first for value in values)
    one = np.asarray(first)
    return all(_equal(one, np.asarray(value)) for value in values[1:])


def _equal(one: Array, other: Array) -> bool:
    """Bit for bit, so that zeros keep their signs."""
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(_raw(one), _raw(other))


def _raw(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _bytes(graph: Graph, point: Mapping[str, Any], own: Collection[str]) -> int:
    """What one point takes: its own arrays, and its outputs where arrays tell their sizes."""
    arrays: dict[str, tuple[int, ...]] = {
        name: np.shape(value) for name, value in point.items() if not isinstance(value, Dataset)
    }
    fed = sum(prod(shape) * graph.inputs[name].type.dtype.itemsize for name, shape in arrays.items() if name in own)
    if len(arrays) < len(point):
        return fed
    sizes = bind_sizes(graph, arrays)
    return fed + sum(prod(node.type.bind(sizes)) * node.type.dtype.itemsize for node in graph.outputs.values())
