"""The traversals of graphs, all iterative: a chain of a million nodes must not recurse.

`Columns` are a graph as arrays of numbers: passes over a million nodes ask about each *kind* of node once and do the rest on these.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphir.node import Kind, Node, make

Column: TypeAlias = NDArray[np.int64]

inputs_of, kind_of, _serial = attrgetter("inputs"), attrgetter("kind"), attrgetter("serial")


def ancestors(roots: Iterable[Node], seen: set[Node] | None = None, stop: frozenset[Node] = frozenset()) -> list[Node]:
    """The roots and all they depend on, in creation order, without what is in `seen` (which is extended).

    Nodes in `stop` are included but not walked through.
    """
    seen = set() if seen is None else seen
    found: list[Node] = []
    stack = [root for root in roots if root not in seen]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        found.append(node)
        if node not in stop:
            stack.extend(node.inputs)
    found.sort(key=_serial)
    return found


def reaches(nodes: Sequence[Node], targets: Iterable[Node]) -> set[Node]:
    """Those of topologically ordered `nodes` that depend on a target, targets included."""
    reached = set(targets)
    for node in nodes:
        for source in node.inputs:
            if source in reached:
                reached.add(node)
                break
    return reached


def consumers(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    """For each node that is used: the nodes that use it, once each, in order."""
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        for source in dict.fromkeys(node.inputs):
            users.setdefault(source, []).append(node)
    return users


def last_uses(nodes: Sequence[Node]) -> dict[Node, int]:
    """For each node that is used: the position of the last node that uses it."""
    return {source: position for position, node in enumerate(nodes) for source in node.inputs}


def rebuild(nodes: Iterable[Node], replace: Callable[[Node, tuple[Node, ...]], Node | None]) -> dict[Node, Node]:
    """Map every node of a topological order to its image.

    `replace(node, new_inputs)` gives the image, or None for "the same op on the new inputs".
    """
    image: dict[Node, Node] = {}
    for node in nodes:
        inputs = tuple([image[i] for i in node.inputs])
        new = replace(node, inputs)
        if new is None:
            new = node if inputs == node.inputs else make(node.op, inputs, node.attrs, node.raw_origin)
        image[node] = new
    return image


def substitute(nodes: Iterable[Node], values: Mapping[Node, Node]) -> dict[Node, Node]:
    """Map every node to what it is with some nodes replaced; `nodes` need not hold what is below those."""
    image = dict(values)
    for node in nodes:
        if node not in image:
            inputs = tuple([image[i] for i in node.inputs])
            image[node] = node if inputs == node.inputs else make(node.op, inputs, node.attrs, node.raw_origin)
    return image


def siblings(nodes: Iterable[Node]) -> dict[Node, tuple[Node, ...]]:
    """The first of each group of nodes that are outputs of one application of an op, with the whole group."""
    groups: dict[Any, list[Node]] = {}
    for node in nodes:
        if node.op.joint is not None:
            shared = tuple([pair for pair in node.attrs if pair[0] != "output"])
            groups.setdefault((node.op.name, node.inputs, shared), []).append(node)
    return {group[0]: tuple(group) for group in groups.values()}


@dataclass(frozen=True)
class Links:
    """Who reads whom. sources: the numbers of all inputs, node after node; counts: how many inputs each node has.

    None of the arrays may be changed.
    """

    sources: Column
    counts: Column

    @cached_property
    def starts(self) -> Column:
        """Where in `sources` the inputs of each node begin, and after the last one where they end."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def readers(self) -> Column:
        """For each entry of `sources` the position of the node that reads it."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def last(self) -> Column:
        """The position of the last node that reads each node; -1 where nobody does."""
        last = np.full(len(self.counts), -1)
        np.maximum.at(last, self.sources, self.readers)
        return last

    @cached_property
    def users(self) -> "Links":
        """The same turned round: who reads each node, in order."""
        order = np.argsort(self.sources, kind="stable")
        return Links(self.readers[order], np.bincount(self.sources, minlength=len(self.counts)))


@dataclass(frozen=True)
class Columns(Links):
    """nodes: the rows. kinds: each once; codes: the number of each node's kind. index: the position of each node."""

    nodes: Sequence[Node]
    index: dict[Node, int]
    kinds: tuple[Kind, ...]
    codes: Column

    @cached_property
    def examples(self) -> tuple[Node, ...]:
        """The first node of each kind."""
        return tuple([self.nodes[k] for k in np.unique(self.codes, return_index=True)[1].tolist()])

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
    return Columns(sources, counts, nodes, index, tuple(kinds), codes)
