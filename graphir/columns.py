"""A graph as columns of numbers: for each node, by its position, the number of its kind and the positions of its inputs.

Passes over a million nodes ask about each *kind* of node once and do the rest on these arrays. They hold for any sequence of
nodes that has all that its nodes read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphir.node import Kind, Node

Column: TypeAlias = NDArray[np.int64]

inputs_of, kind_of, _serial = attrgetter("inputs"), attrgetter("kind"), attrgetter("serial")


@dataclass(frozen=True)
class Columns:
    """nodes: the rows. kinds: each once; codes: the number of each node's kind. index: the position of each node.

    sources: the positions of all inputs, node after node; counts: how many inputs each node has. None of the arrays may be changed.
    """

    nodes: Sequence[Node]
    index: dict[Node, int]
    kinds: tuple[Kind, ...]
    codes: Column
    sources: Column
    counts: Column

    @cached_property
    def starts(self) -> Column:
        """Where in `sources` the inputs of each node begin, and after the last one where they end."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def readers(self) -> Column:
        """For each entry of `sources` the position of the node that reads it."""
        return np.repeat(np.arange(len(self.nodes)), self.counts)

    @cached_property
    def last(self) -> Column:
        """The position of the last node that reads each node; -1 where nobody does."""
        last = np.full(len(self.nodes), -1)
        np.maximum.at(last, self.sources, self.readers)
        return last

    @cached_property
    def ordered(self) -> bool:
        """Whether each node comes once, and after its inputs."""
        return len(self.index) == len(self.nodes) and bool((self.sources < self.readers).all())

    @cached_property
    def by_age(self) -> bool:
        """Whether the nodes are in the order in which they were made."""
        serials = np.fromiter(map(_serial, self.nodes), np.int64, len(self.nodes))
        return bool((np.diff(serials) > 0).all())

    def by_kind(self, facts: Sequence[Any], dtype: Any) -> NDArray[Any]:
        """A fact about each kind as a column."""
        return np.array(facts, dtype)[self.codes]

    def any_source(self, facts: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """For each node whether a fact, given as a column, holds for one of its inputs."""
        found = np.zeros(len(self.nodes), bool)
        found[self.readers[facts[self.sources]]] = True
        return found


def columns(nodes: Sequence[Node]) -> Columns:
    """The columns of nodes; KeyError if one reads what is not among them, or was not made by `make`."""
    count = len(nodes)
    index = dict(zip(nodes, range(count), strict=True))
    kinds = dict.fromkeys(map(kind_of, nodes))
    numbers = dict(zip(kinds, range(len(kinds)), strict=True))
    if None in kinds:
        raise KeyError(None)
    codes = np.fromiter(map(numbers.__getitem__, map(kind_of, nodes)), np.int64, count)
    counts = np.fromiter(map(len, map(inputs_of, nodes)), np.int64, count)
    flat = chain.from_iterable(map(inputs_of, nodes))
    sources = np.fromiter(map(index.__getitem__, flat), np.int64, int(counts.sum()))
    return Columns(nodes, index, tuple(kinds), codes, sources, counts)
