"""Binding: from the values a user feeds to checked arrays and the numbers behind the named sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir import dims
from graphir.dims import Dim
from graphir.errors import DTypeError, FeedError, ShapeError
from graphir.graph import Graph
from graphir.node import Array
from graphir.types import TensorType, show_shape


@dataclass(frozen=True, slots=True)
class Bound:
    """Arrays for a graph's inputs, by name, and the size of each named dimension."""

    arrays: dict[str, Array]
    sizes: dict[str, int]


def bind(graph: Graph, feeds: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> Bound:
    """Check feeds against the graph's inputs; FeedError, ShapeError or DTypeError that names the input."""
    check_names(graph, feeds)
    arrays = {name: convert(name, feeds[name], node.type) for name, node in graph.inputs.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    return Bound(arrays, bind_sizes(graph, shapes, sizes))


def check_names(graph: Graph, feeds: Mapping[str, Any]) -> None:
    """FeedError unless exactly the graph's inputs are fed."""
    missing = [name for name in graph.inputs if name not in feeds]
    if missing:
        node = graph.inputs[missing[0]]
        raise FeedError(f"input {missing[0]!r} of type {node.type} is not fed; feed all of {list(graph.inputs)}")
    surplus = [name for name in feeds if name not in graph.inputs]
    if surplus:
        raise FeedError(f"{surplus[0]!r} is fed but is not an input; the graph's inputs are {list(graph.inputs)}")


def convert(name: str, value: Any, type_: TensorType) -> Array:
    """The value as an array of the input's dtype: arrays may be widened, Python numbers converted in kind."""
    is_array = isinstance(value, np.ndarray | np.generic)
    array = np.asarray(value, order="C")  # sums follow memory order, so a feed's layout must not matter
    if array.dtype == type_.dtype:
        return array
    casting = "safe" if is_array else "same_kind"
    weak_int = not is_array and array.dtype.kind == "i" and type_.dtype.kind in "iuf"
    if array.dtype.kind not in "biuf" or not (weak_int or np.can_cast(array.dtype, type_.dtype, casting)):  # type: ignore[arg-type]
        raise DTypeError(
            f"input {name!r} is {type_.dtype.name} but is fed {array.dtype}; "
            f"convert the value with .astype('{type_.dtype.name}') or declare the input as {array.dtype}"
        )
    converted = array.astype(type_.dtype)
    if weak_int and type_.dtype.kind in "iu" and not np.array_equal(converted, array):
        raise DTypeError(f"input {name!r} is {type_.dtype.name}, which cannot hold the values fed")
    return converted


def bind_sizes(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The size of every named dimension from the shapes of the feeds (and sizes given beside them)."""
    sizes = dict(given or {})
    source = dict.fromkeys(sizes, "the sizes given")
    pending: list[tuple[str, int, Dim, int]] = []
    for name, node in graph.inputs.items():
        shape = shapes[name]
        if len(shape) != node.type.rank:
            raise ShapeError(
                f"input {name!r} has shape {show_shape(node.type.shape)} but is fed {show_shape(shape)}: "
                f"{node.type.rank} axes are needed"
            )
        pending += [(name, axis, d, shape[axis]) for axis, d in enumerate(node.type.shape)]
    pending.sort(key=lambda item: isinstance(item[2], str) and not item[2].isidentifier())
    for name, axis, d, actual in pending:
        solved = dims.solve(d, actual, sizes)
        if solved is not None:
            sizes[solved[0]] = solved[1]
            source[solved[0]] = f"axis {axis} of input {name!r}"
        elif dims.names(d) <= sizes.keys():
            _check_size(name, axis, d, actual, sizes, source)
        else:
            unknown = sorted(dims.names(d) - sizes.keys())
            raise ShapeError(
                f"axis {axis} of input {name!r} is {actual}, which does not fit '{d}' for any size {unknown}"
            )
    return sizes


def _check_size(name: str, axis: int, d: Dim, actual: int, sizes: dict[str, int], source: dict[str, str]) -> None:
    expected = dims.evaluate(d, sizes)
    if expected != actual:
        because = "; ".join(f"{n} is {sizes[n]} by {source[n]}" for n in sorted(dims.names(d)))
        detail = f"'{d}' = {expected} ({because})" if because else str(expected)
        raise ShapeError(f"axis {axis} of input {name!r} must be {detail}, but is fed {actual}; feed equal sizes")
