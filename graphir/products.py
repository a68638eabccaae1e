"""Products on expressions: matmul by the Array API's rules, and einsum by numpy's subscripts."""

from typing import Any

from graphir import dims
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import Expr, as_expr, broadcast_to, cast, match_dtypes
from graphir.ops import contraction, layout
from graphir.origin import located
from graphir.types import BOOL, Shape, broadcast_shapes, promote


def element_count(shape: Shape) -> dims.Dim:
    """The number of elements of a shape."""
    number: dims.Dim = 1
    for d in shape:
        number = dims.multiply(number, d)
    return number


@located
def matmul(x1: Any, x2: Any, /) -> Expr:
    """The matrix product with the standard's rules for vectors and broadcast leading axes."""
    left, right = match_dtypes(as_expr(x1), as_expr(x2), keep_bool=False)
    if left.ndim == 0 or right.ndim == 0:
        raise ShapeError(f"cannot multiply {left.node.type} and {right.node.type}: use * for scalars")
    if left.ndim == 1:
        return _drop(matmul(_insert(left, 0), right), -2 if right.ndim > 1 else 0)
    if right.ndim == 1:
        return _drop(matmul(left, _insert(right, 1)), -1)
    if left.ndim > 2 and right.ndim == 2:
        rows = Expr(layout.reshape(left.node, shape=(element_count(left.shape[:-1]), left.shape[-1])))
        product = contraction.matmul(rows.node, right.node)
        return Expr(layout.reshape(product, shape=(*left.shape[:-1], right.shape[-1])))
    batch = broadcast_shapes(left.shape[:-2], right.shape[:-2])
    grown = [broadcast_to(v, (*batch, *v.shape[-2:])).node for v in (left, right)]
    return Expr(contraction.matmul(*grown))


def _insert(x: Expr, axis: int) -> Expr:
    return Expr(layout.reshape(x.node, shape=(*x.shape[:axis], 1, *x.shape[axis:])))


def _drop(x: Expr, axis: int) -> Expr:
    at = axis % x.ndim
    return Expr(layout.reshape(x.node, shape=(*x.shape[:at], *x.shape[at + 1 :])))


@located
def einsum(subscripts: str, /, *operands: Any) -> Expr:
    """A sum of products by numpy's subscripts: 'ij,jk->ik'; an index occurs at most once in an operand."""
    values = [as_expr(operand) for operand in operands]
    if not values:
        raise AttributeValueError("einsum needs at least one operand")
    text = subscripts.replace(" ", "")
    if "->" not in text:
        letters = text.replace(",", "")
        text += "->" + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = promote(dtype, value.dtype)
    if dtype == BOOL:
        raise DTypeError("einsum needs numbers, not bool; cast the operands")
    return Expr(contraction.einsum(*[cast(value, dtype).node for value in values], subscripts=text))
