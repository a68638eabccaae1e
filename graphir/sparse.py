"""Sparse Jacobians and Hessians by colouring, as one batched graph and a SciPy CSR matrix.

Columns that share no row are computed together, by columns with jvp or by rows with vjp, whichever needs fewer
colours. A Hessian is symmetric, so a star colouring will do, in which each element or its mirror is alone. The coloured
products are one batched graph; picking their elements gives the values of the matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from graphir import colouring
from graphir.batch import batch_values
from graphir.errors import ShapeError
from graphir.expr import Expr
from graphir.grad import grad, vjp
from graphir.graph import Graph, as_node
from graphir.interpret import evaluate
from graphir.jacobian import jvp, stand_in
from graphir.node import Array, Node, describe, made_by
from graphir.ops import gather, layout
from graphir.ops.sources import literal
from graphir.sparsity import pattern


@dataclass(frozen=True, slots=True)
class SparseMatrix:
    """A symbolic matrix with a known pattern.

    data: the values, an expression of shape (nnz,) in CSR order. indices, indptr: the pattern. shape: elements of
    the value by elements of the variable, row-major. colours: how many products are computed; by: "columns", "rows",
    or "star" for a symmetric matrix, of which a product gives columns up to elements that their mirrors give.
    """

    data: Expr
    indices: Array
    indptr: Array
    shape: tuple[int, int]
    colours: int
    by: str

    def __repr__(self) -> str:
        rows, columns = self.shape
        saved = f"{self.colours} colours by {self.by}"
        return f"<SparseMatrix {rows} x {columns}, {len(self.indices)} elements, {saved}>"

    def to_csr(self, values: Array) -> sp.csr_matrix:
        """The matrix for evaluated `data`."""
        return sp.csr_matrix((values, self.indices, self.indptr), self.shape)

    def evaluate(self, feeds: Mapping[str, Any]) -> sp.csr_matrix:
        """The matrix for fed inputs; surplus feeds are left out."""
        graph = Graph({"data": self.data})
        needed = {name: value for name, value in feeds.items() if name in graph.inputs}
        return self.to_csr(evaluate(graph, needed)["data"])


def sparse_jacobian(of: Expr, wrt: Expr, sparsity: Any = None) -> SparseMatrix:
    """The Jacobian of `of` by one variable. sparsity: a SciPy matrix of its pattern, found from the graph if None."""
    target, source = as_node(of), as_node(wrt)
    found = _pattern(target, source, sparsity)
    rows, columns = _lists(found), _lists(found.T)
    widest = [int(np.diff(starts).max(initial=0)) for starts, _ in (rows, columns)]
    by_columns = widest[0] <= widest[1]  # begin where fewer colours may do: a dense row needs one for each column
    colour = colouring.apart(rows, columns) if by_columns else colouring.apart(columns, rows)
    if _count(colour) > max(widest[by_columns], 1):
        other = colouring.apart(columns, rows) if by_columns else colouring.apart(rows, columns)
        if _count(other) < _count(colour):
            by_columns, colour = not by_columns, other
    with made_by(target):
        products = _products(target, source, colour, by_columns)
        column, row = found.indices.astype(np.int64), _rows(found)
        data = _pick(products, colour, *((column, row) if by_columns else (row, column)))
    return SparseMatrix(
        data, found.indices, found.indptr, found.shape, _count(colour), "columns" if by_columns else "rows"
    )


def sparse_hessian(of: Expr, wrt: Expr, sparsity: Any = None) -> SparseMatrix:
    """The Hessian of a scalar by one variable. sparsity: a SciPy matrix whose pattern and its mirror hold all elements.

    Elements above the diagonal and their mirrors are read from the same place, so the matrix is symmetric to the bit.
    """
    (gradient,) = grad(of, [wrt])
    target, source = as_node(gradient), as_node(wrt)
    found = _pattern(target, source, sparsity)
    found = sp.csr_matrix(found + found.T)
    found.sort_indices()
    colour = colouring.star(_lists(found))
    with made_by(target):
        products = _products(target, source, colour, by_columns=False)
        data = _pick(products, colour, *_alone(found, colour))
    return SparseMatrix(data, found.indices, found.indptr, found.shape, _count(colour), "star")


def _pattern(target: Node, source: Node, sparsity: Any) -> sp.csr_matrix:
    found = pattern(target, source) if sparsity is None else sp.csr_matrix(sparsity).astype(bool)
    shape = tuple(int(np.prod(node.type.bind({}), dtype=np.int64)) for node in (target, source))
    if found.shape != shape:
        raise ShapeError(f"the sparsity has shape {found.shape}; the derivative has {shape}").at(describe(target))
    found.sort_indices()
    return found


def _lists(matrix: Any) -> colouring.Pattern:
    rows = sp.csr_matrix(matrix)
    return rows.indptr, rows.indices


def _rows(found: sp.csr_matrix) -> Array:
    return np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))


def _count(colour: Array) -> int:
    return int(colour.max(initial=-1)) + 1


def _alone(found: sp.csr_matrix, colour: Array) -> tuple[Array, Array]:
    """For each element the column whose product has it, and the row in that: its own, or its mirror's if it is not
    alone with its colour in its row."""
    rows, columns = _rows(found), found.indices.astype(np.int64)
    row, column = np.minimum(rows, columns), np.maximum(rows, columns)
    keys, count = rows * _count(colour) + colour[columns], _count(colour)
    sharing = np.bincount(keys, minlength=found.shape[0] * count)
    swap = sharing[row * count + colour[column]] > 1
    return np.where(swap, row, column), np.where(swap, column, row)


def _products(target: Node, source: Node, colour: Array, by_columns: bool) -> Node:
    """For each colour the sum of the matrix's columns (or rows) of that colour: shape (colours, elements)."""
    varied = source if by_columns else target
    other = target if by_columns else source
    count = int(colour.max(initial=0)) + 1
    seeds = (colour[None, :] == np.arange(count)[:, None]).reshape(count, *varied.type.bind({}))
    direction = stand_in(varied)
    if by_columns:
        (product,) = jvp([Expr(target)], [Expr(source)], [Expr(direction)])
    else:
        (product,) = vjp([Expr(target)], [Expr(source)], [Expr(direction)], disconnected="zero")
    (found,) = batch_values([product.node], {direction: literal(seeds, varied.type.dtype)}, count)
    return layout.reshape(found, shape=(count, int(np.prod(other.type.bind({}), dtype=np.int64))))


def _pick(products: Node, colour: Array, varied: Array, element: Array) -> Expr:
    """Elements of the products: of the one with the colour of each `varied`, the value at its `element`."""
    which = literal(colour[varied], "int64")
    return Expr(gather.take_at(products, which, literal(element, "int64"), axes=(0, 1)))
