"""What is asked of a job before it is accepted: feeds that fit the graph, and options that name what is there."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphir.dataset import Dataset
from graphir.errors import FeedError, ShapeError
from graphir.feeds import bind_sizes, check_names, convert
from graphir.graph import Graph
from graphir.node import Array
from scheduler.driver.pool import Feeds
from scheduler.job.spec import SpecError
from workers import backends
from workers.data import open_source, take


def ready(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, Array | Dataset]:
    """The feeds with arrays of the inputs' dtypes; datasets are checked by their headers."""
    check_names(graph, feeds)
    found: dict[str, Array | Dataset] = {}
    for name, node in graph.inputs.items():
        value = feeds[name]
        if isinstance(value, Dataset):
            value = take(value)
            convert(name, np.empty(0, open_source(value).dtype), node.type)
        found[name] = value if isinstance(value, Dataset) else convert(name, value, node.type)
    return found


def sizes_of(graph: Graph, feeds: Feeds) -> dict[str, int]:
    """The size of every named dimension."""
    shapes = {n: open_source(v).shape if isinstance(v, Dataset) else v.shape for n, v in feeds.items()}
    return bind_sizes(graph, shapes)


def bytes_of(feeds: Feeds) -> int:
    """The bytes of the arrays that are fed."""
    return sum(value.nbytes for value in feeds.values() if not isinstance(value, Dataset))


def check_options(graph: Graph, feeds: Feeds, options: Mapping[str, Any]) -> None:
    """SpecError and the like where options do not fit the graph."""
    for name in options.get("fetch") or ():
        if name not in graph.outputs:
            raise SpecError(f"fetch names {name!r}; the graph's outputs are {list(graph.outputs)}")
    for name, output in options.get("carry", {}).items():
        _check_carry(graph, feeds, name, output)
    backends.check(options.get("backend", "numpy"), graph)


def with_backend(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a back-end's name for "auto": what a job keeps, so that its bits do not depend on what is installed later."""
    given = dict(options)
    if "backend" in given:
        given["backend"] = backends.resolved(given["backend"])
    return given


def _check_carry(graph: Graph, feeds: Feeds, name: str, output: str) -> None:
    if name not in graph.inputs:
        raise SpecError(f"carry names input {name!r}; the graph's inputs are {list(graph.inputs)}")
    if output not in graph.outputs:
        raise SpecError(f"carry names output {output!r}; the graph's outputs are {list(graph.outputs)}")
    source, target = graph.outputs[output].type, graph.inputs[name].type
    if source != target:
        raise ShapeError(f"carry feeds output {output!r} of type {source} to input {name!r} of type {target}")
    if isinstance(feeds[name], Dataset):
        raise FeedError(f"input {name!r} is carried and so needs an array to begin with, not a dataset")
