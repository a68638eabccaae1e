"""Small pieces that the derivative rules of linear algebra share, on nodes."""

from graphir.node import Node
from graphir.ops import arithmetic, layout, select
from graphir.ops.contraction import matmul, transpose
from graphir.ops.layout import fill_like
from graphir.ops.sources import iota, literal
from graphir.types import TensorType


def number(value: float, like: TensorType) -> Node:
    """An array of one number."""
    return layout.broadcast(literal(value, like.dtype), shape=like.shape, axes=())


def scaled(x: Node, factor: float) -> Node:
    """x times a number."""
    return arithmetic.multiply(x, number(factor, x.type))


def product(*factors: Node) -> Node:
    """The matrix product of several matrices."""
    result = factors[0]
    for factor in factors[1:]:
        result = matmul(result, factor)
    return result


def symmetric(x: Node) -> Node:
    """(x + x^T) / 2"""
    return scaled(arithmetic.add(x, transpose(x)), 0.5)


def _numbers(x: Node, axis: int) -> Node:
    """The row or column number of each element."""
    counted = iota(shape=(x.type.shape[axis],))
    return layout.broadcast(counted, shape=x.type.shape, axes=(x.type.rank + axis,))


def lower(x: Node, strict: bool = False) -> Node:
    """x with zeros above the diagonal, or on it too."""
    compare = select.less if strict else select.less_equal
    return select.where(compare(_numbers(x, -1), _numbers(x, -2)), x, fill_like(x, 0))


def upper(x: Node) -> Node:
    """x with zeros below the diagonal."""
    return select.where(select.less_equal(_numbers(x, -2), _numbers(x, -1)), x, fill_like(x, 0))


def _on_diagonal(x: Node) -> Node:
    return select.equal(_numbers(x, -2), _numbers(x, -1))


def off_diagonal(x: Node, instead: float) -> Node:
    """x with a number on the diagonal."""
    return select.where(_on_diagonal(x), fill_like(x, instead), x)


def diagonal_part(x: Node) -> Node:
    """x with zeros off the diagonal."""
    return select.where(_on_diagonal(x), x, fill_like(x, 0))


def columns(v: Node, like: Node) -> Node:
    """A vector for each matrix of `like`, as the number of each column."""
    rank = like.type.rank
    return layout.broadcast(v, shape=like.type.shape, axes=(*range(rank - 2), rank - 1))


def rows(v: Node, like: Node) -> Node:
    """A vector for each matrix of `like`, as the number of each row."""
    rank = like.type.rank
    return layout.broadcast(v, shape=like.type.shape, axes=(*range(rank - 2), rank - 2))


def diagonal_matrix(v: Node, like: Node) -> Node:
    """Matrices like `like` with the vectors on their diagonals."""
    return diagonal_part(columns(v, like))


def identity(like: Node) -> Node:
    """Identity matrices like `like`."""
    return diagonal_part(number(1.0, like.type))
