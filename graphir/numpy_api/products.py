"""numpy's products and norms."""

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

from graphir import linalg, manipulate, products
from graphir.errors import ShapeError
from graphir.expr import NUMPY, Expr, as_expr
from graphir.numpy_api.layout import ravel
from graphir.origin import located


@located
def dot(a: Any, b: Any) -> Expr:
    """The product of matrices and vectors; of more axes the last of a with the last but one of b."""
    left, right = as_expr(a), as_expr(b)
    if left.ndim == 0 or right.ndim == 0:
        return left * right
    if left.ndim <= 2 and right.ndim <= 2:
        return products.matmul(left, right)
    return products.tensordot(left, right, ([-1], [-2 if right.ndim > 1 else -1]))


@located
def inner(a: Any, b: Any) -> Expr:
    """The sum of products over the last axes."""
    left, right = as_expr(a), as_expr(b)
    return left * right if left.ndim == 0 or right.ndim == 0 else products.tensordot(left, right, ([-1], [-1]))


@located
def vdot(a: Any, b: Any) -> Expr:
    """The sum of products of the flattened values."""
    return products.matmul(ravel(a), ravel(b))


@located
def kron(a: Any, b: Any) -> Expr:
    """The Kronecker product."""
    left, right = as_expr(a), as_expr(b)
    rank = max(left.ndim, right.ndim)
    left, right = (manipulate.reshape(v, (1,) * (rank - v.ndim) + tuple(v.shape)) for v in (left, right))
    for axis in range(rank):
        left, right = manipulate.expand_dims(left, 2 * axis + 1), manipulate.expand_dims(right, 2 * axis)
    pairs = left * right
    merged = tuple(products.element_count(pairs.shape[2 * axis : 2 * axis + 2]) for axis in range(rank))
    return manipulate.reshape(pairs, merged)


@located
def multi_dot(arrays: Sequence[Any]) -> Expr:
    """The product of several matrices, in the order that costs least; the first and the last may be vectors."""
    values = [as_expr(a) for a in arrays]
    if len(values) < 2 or any(v.ndim != 2 for v in values[1:-1]) or any(v.ndim not in (1, 2) for v in values):
        raise ShapeError("multi_dot needs two matrices or more, of which the first and the last may be vectors")
    letters = list(ascii_letters[: len(values) + 1])
    terms = [letters[k] + letters[k + 1] for k in range(len(values))]
    if values[0].ndim == 1:
        terms[0] = letters[1]
    if values[-1].ndim == 1:
        terms[-1] = letters[-2]
    kept = (letters[0] if values[0].ndim == 2 else "") + (letters[-1] if values[-1].ndim == 2 else "")
    return products.einsum(f"{','.join(terms)}->{kept}", *values)


@located
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Expr:
    """numpy.linalg.norm: of all elements, of vectors along an axis, or of matrices along two axes."""
    value = as_expr(x)
    if axis is None and ord is None:
        return linalg.vector_norm(value, keepdims=keepdims)
    axes = tuple(range(value.ndim)) if axis is None else tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if len(axes) == 1:
        return linalg.vector_norm(value, axis=axes[0], keepdims=keepdims, ord=2 if ord is None else ord)
    if len(axes) != 2:
        raise ShapeError(f"a norm is over one axis or two, not {axes} of {value.node.type}; name them with axis=")
    last = manipulate.moveaxis(value, axes, (-2, -1))
    found = linalg.matrix_norm(last, ord="fro" if ord is None else ord, keepdims=keepdims)
    return manipulate.moveaxis(found, (-2, -1), axes) if keepdims else found


NUMPY |= {function.__name__: function for function in (dot, inner, vdot, kron)}
NUMPY |= {"linalg.norm": norm, "linalg.multi_dot": multi_dot}
NUMPY |= {f"linalg.{name}": getattr(linalg, name) for name in ("diagonal", "trace", "outer")}
