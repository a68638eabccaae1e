"""linear, embedding, dropout and attention."""

import math
from typing import Any

from graphir import array, manipulate, random
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import Expr, as_expr
from graphir.nn.activation import softmax
from graphir.origin import located
from graphir.products import matmul


@located
def linear(x: Any, weight: Any, bias: Any = None) -> Expr:
    """x @ weight^T + bias, weight [outputs, inputs] as in torch.nn.functional.linear."""
    value, matrix = as_expr(x), as_expr(weight)
    if not value.ndim or matrix.ndim != 2 or value.shape[-1] != matrix.shape[1]:
        raise ShapeError(f"linear needs weight [outputs, inputs] for {value.node.type}, not {matrix.node.type}")
    product = matmul(value, manipulate.matrix_transpose(matrix))
    return product if bias is None else product + bias


@located
def embedding(indices: Any, table: Any) -> Expr:
    """The rows of a table [count, width] at integer positions; the result is [*indices' shape, width].

    Negative positions count from the end, as in indexing. DTypeError, ShapeError.
    """
    positions, rows = as_expr(indices), as_expr(table)
    if positions.dtype.kind not in "iu":
        raise DTypeError(f"embedding needs integer positions, not {positions.node.type}; cast them")
    if rows.ndim != 2:
        raise ShapeError(f"embedding needs a table [count, width], not {rows.node.type}; reshape it")
    return array.take(rows, positions, axis=0)


@located
def dropout(x: Any, key: Any, p: float = 0.5, *, training: bool = True) -> Expr:
    """x with each element set to 0 with probability p and the others divided by 1 - p (Srivastava and others, 2014).

    key: of gi.random; by position, so that a cut changes nothing. training=False: x itself.
    """
    value = as_expr(x)
    if not 0 <= p <= 1:
        raise AttributeValueError(f"p is a probability, not {p}")
    if not training or p == 0:
        return value
    kept = random.bernoulli(key, 1 - p, value.shape)
    return array.where(kept, value * (1 / (1 - p) if p < 1 else 0.0), array.zeros_like(value))


@located
def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, mask: Any = None, *, causal: bool = False, scale: float | None = None
) -> Expr:
    """softmax(query key^T scale + mask) value (Vaswani and others, NeurIPS 2017).

    query [..., heads, n, width], key [..., heads', m, width], value [..., heads', m, width']; heads' divides heads
    (grouped queries). mask: bool, True where attention is allowed, or numbers to add. causal: query i sees keys up
    to i. scale: 1 / sqrt(width) by default. A query that may see no key gives zeros. ShapeError.
    """
    q, k, v = as_expr(query), as_expr(key), as_expr(value)
    if q.ndim < 2 or k.ndim != q.ndim or v.ndim != q.ndim or q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"attention needs queries and keys of one width: {q.node.type}, {k.node.type}, {v.node.type}")
    if q.ndim > 2 and q.shape[-3] != k.shape[-3]:
        k, v = _repeated(k, q), _repeated(v, q)
    width = q.shape[-1]
    if scale is None:
        if not isinstance(width, int):
            raise ShapeError(f"the width of {q.node.type} is not a number; pass scale=")
        scale = 1 / math.sqrt(width)
    scores = matmul(q * scale, manipulate.matrix_transpose(k))
    if causal:
        n, m = (array.arange(d) for d in scores.shape[-2:])
        scores = _masked(scores, manipulate.expand_dims(n, 1) >= m)
    if mask is not None:
        given = as_expr(mask)
        scores = _masked(scores, given) if given.dtype.kind == "b" else scores + given
        seen = array.any(scores != -math.inf, axis=-1, keepdims=True)
        shares = softmax(array.where(seen, scores, array.zeros_like(scores)), axis=-1)
        return matmul(array.where(seen, shares, array.zeros_like(shares)), v)
    return matmul(softmax(scores, axis=-1), v)


def _masked(scores: Expr, allowed: Expr) -> Expr:
    return array.where(allowed, scores, array.constant(-math.inf, scores.dtype))


def _repeated(x: Expr, like: Expr) -> Expr:
    """Each head as often as there are queries for it."""
    heads, wanted = x.shape[-3], like.shape[-3]
    if not (isinstance(heads, int) and isinstance(wanted, int)) or wanted % heads:
        raise ShapeError(f"{wanted} heads of queries cannot share the {heads} heads of {x.node.type}")
    wide = manipulate.expand_dims(x, x.ndim - 2)
    shape = (*x.shape[:-3], heads, wanted // heads, *x.shape[-2:])
    return manipulate.reshape(manipulate.broadcast_to(wide, shape), (*x.shape[:-3], wanted, *x.shape[-2:]))
