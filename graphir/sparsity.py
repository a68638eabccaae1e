"""Structural sparsity: which elements of a value can depend on which elements of an input, from the graph alone.

The pattern of each node is a boolean CSR matrix, elements of the node by elements of the input. An op that moves
elements is asked by running its kernel on positions; any other by its axis rule: an output element depends on the
input elements with the same index in the factors that both have. So a pattern may have too much, never too little.
"""

from collections.abc import Iterable
from math import prod

import numpy as np
import scipy.sparse as sp

from graphir import walk
from graphir.errors import ShapeError
from graphir.interpret import bound_attributes
from graphir.node import Array, Node, describe
from graphir.reverse import carries

MOVES = frozenset({"reshape", "permute", "broadcast", "slice", "place", "flip", "concat"})
"""Ops whose output elements are input elements, or nothing."""

LARGEST_RULE = 50_000_000
"""Most index points that one op's axis rule may visit."""


def pattern(of: Node, wrt: Node) -> sp.csr_matrix:
    """The elements of `of` (rows, row-major) that can depend on the elements of `wrt` (columns)."""
    for node in (of, wrt):
        if not all(isinstance(d, int) for d in node.type.shape):
            raise ShapeError("sparsity needs sizes that are numbers; declare the input with them").at(describe(node))
    count = _size(wrt)
    nodes = walk.ancestors([of])
    last = walk.last_uses(nodes)
    found: dict[Node, sp.csr_matrix] = {wrt: sp.identity(count, dtype=bool, format="csr")}
    for position, node in enumerate(nodes):
        if node not in found:
            parts = [
                _through(node, k) @ found[source]
                for k, source in enumerate(node.inputs)
                if source in found and carries(node, k)
            ]
            if parts:
                found[node] = _union(parts)
        for source in node.inputs:
            if last[source] == position and source is not of:
                found.pop(source, None)
    return found.get(of, sp.csr_matrix((_size(of), count), dtype=bool))


def _size(node: Node) -> int:
    return prod(node.type.bind({}))


def _union(parts: Iterable[sp.csr_matrix]) -> sp.csr_matrix:
    first, *rest = parts
    for part in rest:
        first = first + part
    result = sp.csr_matrix(first.astype(bool))
    result.sum_duplicates()
    return result


def _through(node: Node, position: int) -> sp.csr_matrix:
    """The elements of the node by the elements of its input at `position`."""
    source = node.inputs[position]
    if node.op.name in MOVES:
        rows, columns = _moved(node, position)
    elif source.type.shape == node.type.shape and _is_elementwise(node, position):
        return sp.identity(_size(node), dtype=bool, format="csr")
    else:
        rows, columns = _by_rule(node, position)
    ones = np.ones(len(rows), bool)
    return sp.csr_matrix((ones, (rows, columns)), shape=(_size(node), _size(source)))


def _is_elementwise(node: Node, position: int) -> bool:
    rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
    return rule is not None and rule.inputs[position] == rule.output and not rule.whole


def _moved(node: Node, position: int) -> tuple[Array, Array]:
    """Run the kernel on positions counted from 1, so that 0 marks what no element was moved to."""
    given = []
    for k, source in enumerate(node.inputs):
        shape = source.type.bind({})
        positions = np.arange(1, prod(shape) + 1) if k == position else np.zeros(prod(shape), np.int64)
        given.append(positions.reshape(shape))
    out = np.asarray(node.op.kernel(*given, **bound_attributes(node, {}))).reshape(-1)
    rows = np.flatnonzero(out)
    return rows, out[rows] - 1


def _by_rule(node: Node, position: int) -> tuple[Array, Array]:
    """All pairs of elements with equal indices in the factors that both have."""
    rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
    source = node.inputs[position].type.bind({})
    target = node.type.bind({})
    if rule is None:
        left, right = tuple(f"s{k}" for k in range(len(source))), tuple(f"t{k}" for k in range(len(target)))
    else:
        left = tuple(f"s{f}" if f in rule.whole else f for f in rule.inputs[position])
        right = tuple(f"t{f}" if f in rule.whole else f for f in rule.output)
    sizes = {**dict(zip(left, source, strict=True)), **dict(zip(right, target, strict=True))}
    if prod(sizes.values()) > LARGEST_RULE:
        raise ShapeError(f"the dependencies of {node.op.name} are too many to list; use a dense jacobian").at(
            describe(node)
        )
    names = list(sizes)
    grid = dict(zip(names, np.indices(tuple(sizes.values())).reshape(len(names), -1), strict=True)) if names else {}
    points = prod(sizes.values())
    return _flat(right, target, grid, points), _flat(left, source, grid, points)


def _flat(factors: tuple[str, ...], shape: tuple[int, ...], grid: dict[str, Array], points: int) -> Array:
    if not shape:
        return np.zeros(points, np.int64)
    return np.asarray(np.ravel_multi_index([grid[f] for f in factors], shape))
