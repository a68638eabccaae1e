"""QR, symmetric eigenvalue and singular value decompositions of stacks of matrices.

Each output is a node of its own; the outputs of one decomposition are computed together. Derivatives: QR after Walter
and Lehmann, "On evaluating higher-order derivatives of the QR decomposition of tall matrices with full column rank",
2012; eigh after Giles, 2008; SVD after Townsend, "Differentiating the singular value decomposition", 2016. Those of
vectors need distinct eigenvalues or singular values, and are infinite or NaN otherwise; those of values do not.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.errors import AttributeValueError, ShapeError, SingularMatrixError
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op
from graphir.ops import arithmetic
from graphir.ops.contraction import transpose
from graphir.ops.layout import fill_like
from graphir.ops.linalg import cubic, need_matrix, triangular_solve
from graphir.ops.matrices import (
    columns,
    diagonal_matrix,
    lower,
    off_diagonal,
    product,
    rows,
    symmetric,
)
from graphir.ops.rules import letters
from graphir.types import TensorType

Cotangents = dict[int, Node]


def _check_output(output: int, count: int) -> None:
    if not 0 <= output < count:
        raise AttributeValueError(f"the decomposition has the outputs 0 to {count - 1}, not {output}")


def _axes(types: tuple[TensorType, ...], output_rank: int) -> AxisRule:
    batch = letters(types[0].rank - 2, "b")
    own = ("p", "q")[: output_rank - len(batch)]
    return AxisRule(((*batch, "i", "j"),), (*batch, *own), whole=frozenset("ijpq"))


def _several(decompose: Callable[[Array], Any], what: str) -> Any:
    """The joint kernel of a decomposition."""

    def joint(x: Array, outputs: tuple[int, ...], **attrs: Any) -> list[Array]:
        try:
            found = decompose(x, **attrs)
        except np.linalg.LinAlgError as error:
            raise SingularMatrixError(f"{what} did not converge: {error}; look for NaN or infinities in it") from None
        return [np.asarray(found[k]) for k in outputs]

    return joint


# ---- QR ----


def _infer_qr(x: TensorType, *, output: int) -> TensorType:
    need_matrix(x, square=False)
    _check_output(output, 2)
    m, n = x.shape[-2:]
    if not isinstance(n, int) or (isinstance(m, int) and m < n):
        raise ShapeError(f"QR needs matrices with at least as many rows as columns, and a known number of these: {x}")
    return x if output == 0 else x.with_shape((*x.shape[:-2], n, n))


def _decompose_qr(x: Array) -> Any:
    if x.shape[-2] < x.shape[-1]:
        raise ShapeError(f"QR needs at least as many rows as columns; {x.shape[-2:]} has less: feed more rows")
    return np.linalg.qr(x)


def _vjp_qr(cts: Cotangents, wanted: frozenset[int], x: Node) -> list[Node | None]:
    q, r = qr(x, output=0), qr(x, output=1)
    inner = None
    if 1 in cts:
        inner = product(r, transpose(cts[1]))
    if 0 in cts:
        turned = product(transpose(cts[0]), q)
        inner = arithmetic.negative(turned) if inner is None else arithmetic.subtract(inner, turned)
    assert inner is not None
    even = arithmetic.add(lower(inner), transpose(lower(inner, strict=True)))
    full = product(q, even)
    if 0 in cts:
        full = arithmetic.add(cts[0], full)
    return [transpose(triangular_solve(r, transpose(full), lower=False))]


TALL, WIDE = Sample((4, 3), "float64", -1, 1, diagonal=2), Sample((2, 2, 4), "float64", -1, 1, diagonal=2)
STACK = Sample((2, 4, 3), "float64", -1, 1, diagonal=2)
qr: Op = Op(
    "qr",
    "The factors of x = Q R for matrices with at least as many rows as columns; output 0 is Q, 1 is R.",
    arity=1,
    attrs={"output": "int"},
    infer=_infer_qr,
    kernel=lambda x, output: np.asarray(_decompose_qr(x)[output]),
    joint=_several(_decompose_qr, "the QR decomposition"),
    vjp=_vjp_qr,
    axes=lambda types, attrs: _axes(types, types[0].rank),
    examples=tuple(Example((sample,), {"output": k}) for sample in (TALL, STACK) for k in (0, 1)),
    cost=cubic(4),
)


def _infer_complete(x: TensorType, *, output: int) -> TensorType:
    need_matrix(x, square=False)
    _check_output(output, 2)
    return x if output == 1 else x.with_shape((*x.shape[:-1], x.shape[-2]))


qr_complete: Op = Op(
    "qr_complete",
    "The factors of x = Q R with square Q; output 0 is Q, 1 is R.",
    arity=1,
    attrs={"output": "int"},
    infer=_infer_complete,
    kernel=lambda x, output: np.asarray(np.linalg.qr(x, "complete")[output]),
    joint=_several(lambda x: np.linalg.qr(x, "complete"), "the QR decomposition"),
    vjp="the columns that complete Q are not determined by the matrix",
    axes=lambda types, attrs: _axes(types, types[0].rank),
    examples=tuple(Example((sample,), {"output": k}) for sample in (TALL, STACK) for k in (0, 1)),
    cost=cubic(4),
)

# ---- symmetric eigenvalues ----


def _infer_eigh(x: TensorType, *, output: int) -> TensorType:
    need_matrix(x)
    _check_output(output, 2)
    return x.with_shape(x.shape[:-1]) if output == 0 else x


def _decompose_eigh(x: Array) -> Any:
    return np.linalg.eigh((x + np.swapaxes(x, -1, -2)) / 2)


def _inverse_gaps(values: Node, like: Node) -> Node:
    """1 / (v_j - v_i), 0 on the diagonal."""
    gaps = arithmetic.subtract(columns(values, like), rows(values, like))
    return off_diagonal(arithmetic.divide(fill_like(like, 1), off_diagonal(gaps, 1.0)), 0.0)


def _vjp_eigh(cts: Cotangents, wanted: frozenset[int], x: Node) -> list[Node | None]:
    v = eigh(x, output=1)
    inner = diagonal_matrix(cts[0], x) if 0 in cts else None
    if 1 in cts:
        turned = arithmetic.multiply(_inverse_gaps(eigh(x, output=0), x), product(transpose(v), cts[1]))
        inner = turned if inner is None else arithmetic.add(inner, turned)
    assert inner is not None
    return [symmetric(product(v, inner, transpose(v)))]


eigh: Op = Op(
    "eigh",
    "Eigenvalues in rising order (output 0) and eigenvectors, as columns (1), of (x + x^T) / 2.",
    arity=1,
    attrs={"output": "int"},
    infer=_infer_eigh,
    kernel=lambda x, output: np.asarray(_decompose_eigh(x)[output]),
    joint=_several(_decompose_eigh, "the eigenvalue decomposition"),
    vjp=_vjp_eigh,
    axes=lambda types, attrs: _axes(types, types[0].rank - (attrs["output"] == 0)),
    examples=tuple(
        Example((Sample(shape, "float64", -1, 1),), {"output": k}) for shape in ((3, 3), (2, 3, 3)) for k in (0, 1)
    ),
    cost=cubic(12),
)

# ---- singular values ----


def _infer_svd(x: TensorType, *, output: int) -> TensorType:
    need_matrix(x, square=False)
    _check_output(output, 3)
    *batch, m, n = x.shape
    if not (isinstance(m, int) and isinstance(n, int)):
        raise ShapeError(f"singular values need matrices of known size, not {x}")
    k = min(m, n)
    return x.with_shape(((*batch, m, k), (*batch, k), (*batch, k, n))[output])


def _decompose_svd(x: Array) -> Any:
    return np.linalg.svd(x, full_matrices=False)


def _vjp_svd(cts: Cotangents, wanted: frozenset[int], x: Node) -> list[Node | None]:
    u, s, vh = (svd(x, output=k) for k in range(3))
    square = product(transpose(u), u)  # what has the shape of the singular values as a matrix
    parts = [product(u, diagonal_matrix(cts[1], square), vh)] if 1 in cts else []
    if 0 in cts:
        parts += _left_vectors(cts[0], u, s, vh, square)
    if 2 in cts:
        parts += [transpose(p) for p in _left_vectors(transpose(cts[2]), transpose(vh), s, transpose(u), square)]
    total = parts[0]
    for part in parts[1:]:
        total = arithmetic.add(total, part)
    return [total]


def _left_vectors(ct: Node, u: Node, s: Node, vh: Node, square: Node) -> list[Node]:
    """What the cotangent of the left vectors gives."""
    turned = product(transpose(u), ct)
    odd = arithmetic.subtract(turned, transpose(turned))
    gaps = _inverse_gaps(arithmetic.multiply(s, s), square)
    inner = arithmetic.multiply(arithmetic.multiply(gaps, odd), columns(s, square))
    rest = arithmetic.subtract(ct, product(u, turned))
    return [product(u, inner, vh), product(arithmetic.divide(rest, columns(s, ct)), vh)]


svd: Op = Op(
    "svd",
    "x = U diag(s) V^T with falling s: output 0 is U, 1 is s, 2 is V^T, of the smaller size.",
    arity=1,
    attrs={"output": "int"},
    infer=_infer_svd,
    kernel=lambda x, output: np.asarray(_decompose_svd(x)[output]),
    joint=_several(_decompose_svd, "the singular value decomposition"),
    vjp=_vjp_svd,
    axes=lambda types, attrs: _axes(types, types[0].rank - (attrs["output"] == 1)),
    examples=tuple(Example((sample,), {"output": k}) for sample in (TALL, WIDE) for k in range(3)),
    cost=cubic(20),
)


def _infer_svd_complete(x: TensorType, *, output: int) -> TensorType:
    middle = _infer_svd(x, output=1)
    _check_output(output, 3)
    m, n = x.shape[-2:]
    return (x.with_shape((*x.shape[:-2], m, m)), middle, x.with_shape((*x.shape[:-2], n, n)))[output]


svd_complete: Op = Op(
    "svd_complete",
    "x = U diag(s) V^T with square U and V^T; output 0 is U, 1 is s, 2 is V^T.",
    arity=1,
    attrs={"output": "int"},
    infer=_infer_svd_complete,
    kernel=lambda x, output: np.asarray(np.linalg.svd(x)[output]),
    joint=_several(np.linalg.svd, "the singular value decomposition"),
    vjp="the vectors that complete U and V are not determined by the matrix",
    axes=lambda types, attrs: _axes(types, types[0].rank - (attrs["output"] == 1)),
    examples=tuple(Example((sample,), {"output": k}) for sample in (TALL, WIDE) for k in range(3)),
    cost=cubic(20),
)
