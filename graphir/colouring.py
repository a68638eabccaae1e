"""Colourings that let one product compute many columns of a sparse matrix (Gebremedhin, Manne, Pothen,
"What color is your Jacobian?", SIAM Review 47, 2005). Greedy, in the order of falling degree.

A pattern is the pair (starts, items) of compressed sparse rows: the columns of row r are items[starts[r]:starts[r+1]].
"""

from typing import TypeAlias

import numpy as np

from graphir.node import Array

Pattern: TypeAlias = tuple[Array, Array]


def apart(rows: Pattern, columns: Pattern) -> Array:
    """A colour for each column such that columns of one colour share no row (Curtis, Powell, Reid 1974)."""
    touched = _lists(columns)
    taken: list[set[int]] = [set() for _ in range(len(rows[0]) - 1)]
    colour = np.zeros(len(touched), np.int64)
    for column in _order(columns):
        used: set[int] = set().union(*(taken[row] for row in touched[column]))
        colour[column] = free = _smallest_outside(used)
        for row in touched[column]:
            taken[row].add(free)
    return colour


def star(pattern: Pattern) -> Array:
    """A colour for each column of a symmetric pattern such that every path of four has three colours.

    Then each element beside the diagonal is alone with its colour in its row or in its mirror's row (Coleman, More,
    "Estimation of sparse Hessian matrices and graph coloring problems", 1984, theorem 2.1).
    """
    near = _lists(pattern)
    stars = _Stars(near)
    for vertex in _order(pattern):
        stars.colour(vertex)
    return np.array(stars.colours, np.int64)


class _Stars:
    """Colours given so far, and which colours would close a path of four in two colours."""

    def __init__(self, near: list[list[int]]) -> None:
        self.near = [[other for other in others if other != vertex] for vertex, others in enumerate(near)]
        self.colours = [-1] * len(near)
        self.first: list[dict[int, int]] = [{} for _ in near]
        """For each vertex and each colour beside it, one neighbour of that colour."""
        self.repeated: list[set[int]] = [set() for _ in near]
        """For each vertex the colours that two or more neighbours have."""
        self.closing: list[set[int]] = [set() for _ in near]
        """For each vertex the colours of those neighbours that have another neighbour of the vertex's own colour."""

    def colour(self, vertex: int) -> None:
        """Give a vertex the smallest colour that closes no path, and note what follows for its neighbours."""
        used: set[int] = set()
        for other in self.near[vertex]:
            given = self.colours[other]
            if given >= 0:
                used.add(given)
                used |= self.closing[other]
                if given in self.repeated[vertex]:
                    used |= self.first[other].keys()
        self.colours[vertex] = new = _smallest_outside(used)
        for other in self.near[vertex]:
            self._note(vertex, other, new)

    def _note(self, vertex: int, other: int, new: int) -> None:
        given = self.colours[other]
        if given >= 0 and given in self.repeated[vertex]:
            self.closing[other].add(new)
        known = self.first[other].setdefault(new, vertex)
        if known != vertex:
            self.repeated[other].add(new)
            if given >= 0:
                self.closing[known].add(given)
                self.closing[vertex].add(given)


def _lists(pattern: Pattern) -> list[list[int]]:
    starts, items = pattern
    values = items.tolist()
    return [values[a:b] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]


def _order(pattern: Pattern) -> list[int]:
    order: list[int] = np.argsort(-np.diff(pattern[0]), kind="stable").tolist()
    return order


def _smallest_outside(used: set[int]) -> int:
    free = 0
    while free in used:
        free += 1
    return free
