"""Sparse Jacobians and Hessians by colouring, as one batched graph and a SciPy CSR matrix.

Columns that share no row may be computed together (Curtis, Powell, Reid 1974): greedy colouring, largest first
(Coleman, More 1983), by columns with jvp or by rows with vjp, whichever needs fewer colours. The coloured products
are one batched graph; picking their elements gives the values of the matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

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
    the value by elements of the variable, row-major. colours: how many products are computed; by: "columns" or "rows".
    """

    data: Expr
    indices: Array
    indptr: Array
    shape: tuple[int, int]
    colours: int
    by: str

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
    found = pattern(target, source) if sparsity is None else sp.csr_matrix(sparsity).astype(bool)
    shape = tuple(int(np.prod(node.type.bind({}), dtype=np.int64)) for node in (target, source))
    if found.shape != shape:
        raise ShapeError(f"the sparsity has shape {found.shape}; the jacobian has {shape}").at(describe(target))
    found.sort_indices()
    columns, rows = colouring(found), colouring(sp.csr_matrix(found.T))
    by_columns = columns.max(initial=-1) <= rows.max(initial=-1)
    colour = columns if by_columns else rows
    with made_by(target):
        products = _products(target, source, colour, by_columns)
        data = _pick(products, found, colour, by_columns)
    count = int(colour.max(initial=-1)) + 1
    return SparseMatrix(data, found.indices, found.indptr, found.shape, count, "columns" if by_columns else "rows")


def sparse_hessian(of: Expr, wrt: Expr, sparsity: Any = None) -> SparseMatrix:
    """The Hessian of a scalar by one variable: the sparse jacobian of its gradient."""
    (gradient,) = grad(of, [wrt])
    return sparse_jacobian(gradient, wrt, sparsity)


def colouring(matrix: sp.csr_matrix) -> Array:
    """A colour for each column such that columns of one colour share no row; columns without entries get 0."""
    rows, columns = matrix, sp.csc_matrix(matrix)
    order = np.argsort(-np.diff(columns.indptr), kind="stable")
    colour = np.full(matrix.shape[1], -1, np.int64)
    for column in order.tolist():
        touched = columns.indices[columns.indptr[column] : columns.indptr[column + 1]]
        near = [rows.indices[rows.indptr[row] : rows.indptr[row + 1]] for row in touched]
        taken = set(colour[np.concatenate(near)].tolist()) if near else set()
        free = 0
        while free in taken:
            free += 1
        colour[column] = free
    return colour


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


def _pick(products: Node, found: sp.csr_matrix, colour: Array, by_columns: bool) -> Expr:
    rows = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
    columns = found.indices.astype(np.int64)
    which, element = (colour[columns], rows) if by_columns else (colour[rows], columns)
    return Expr(gather.take_at(products, literal(which, "int64"), literal(element, "int64"), axes=(0, 1)))
