"""Linear algebra on expressions (`gi.linalg`): the extension of the Array API 2024.12, and solve_triangular.

Matrices are the last two axes, float32 or float64 (integers and bool become float64); axes before them are stacks,
which can be cut. Derivatives of the second order and beyond exist where the mathematics has them.
"""

from typing import Any, NamedTuple

import numpy as np

from graphir import arrange, array, elementwise, manipulate, products
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import FUNCTIONS, Expr, as_expr, broadcast_to, cast, match_dtypes
from graphir.ops import factorisations
from graphir.ops import linalg as ops
from graphir.origin import located
from graphir.types import broadcast_shapes, float_for

matmul, matrix_transpose = products.matmul, manipulate.matrix_transpose
outer, tensordot, vecdot = products.outer, products.tensordot, products.vecdot


class QRResult(NamedTuple):
    """Q and R with x = Q R."""

    Q: Expr
    R: Expr


class EighResult(NamedTuple):
    """Eigenvalues in rising order, and eigenvectors as columns."""

    eigenvalues: Expr
    eigenvectors: Expr


class SVDResult(NamedTuple):
    """U, the singular values S in falling order, and Vh with x = U diag(S) Vh."""

    U: Expr
    S: Expr
    Vh: Expr


class SlogdetResult(NamedTuple):
    """The determinant's sign, and the logarithm of its absolute value."""

    sign: Expr
    logabsdet: Expr


def _matrix(x: Any) -> Expr:
    value = as_expr(x)
    value = cast(value, float_for(value.dtype))
    ops.need_matrix(value.node.type, square=False)
    return value


def _square(x: Any) -> Expr:
    value = _matrix(x)
    ops.need_matrix(value.node.type)
    return value


# ---- systems ----


def _system(a: Any, b: Any) -> tuple[Expr, Expr, bool]:
    """Matrices and right sides of equal leading axes, and whether b is one vector."""
    left, right = match_dtypes(as_expr(a), as_expr(b), keep_bool=False)
    left, right = _square(left), cast(right, float_for(right.dtype))
    vector = right.ndim == 1
    if not right.ndim:
        raise ShapeError("the right side of a system is a vector or matrices, not a number")
    if vector:
        right = manipulate.expand_dims(right, axis=1)
    batch = broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (broadcast_to(v, (*batch, *v.shape[-2:])) for v in (left, right))
    return left, right, vector


def _side(x: Expr, vector: bool) -> Expr:
    return manipulate.squeeze(x, axis=-1) if vector else x


@located
def solve(x1: Any, x2: Any, /) -> Expr:
    """x with x1 @ x = x2; x2 is one vector or a stack of matrices. SingularMatrixError where there is none."""
    a, b, vector = _system(x1, x2)
    return _side(Expr(ops.solve(a.node, b.node)), vector)


@located
def solve_triangular(a: Any, b: Any, *, lower: bool = False, trans: bool = False) -> Expr:
    """x with a @ x = b, where only one triangle of a is read; trans: with the transpose of a. As SciPy's."""
    matrix, right, vector = _system(a, b)
    if trans:
        matrix, lower = manipulate.matrix_transpose(matrix), not lower
    return _side(Expr(ops.triangular_solve(matrix.node, right.node, lower=bool(lower))), vector)


@located
def inv(x: Any, /) -> Expr:
    """The inverse of each matrix. SingularMatrixError where there is none."""
    value = _square(x)
    identity = array.eye(value.shape[-1], dtype=value.dtype)
    return Expr(ops.solve(value.node, broadcast_to(identity, value.shape).node))


@located
def pinv(x: Any, /, *, rtol: Any = None) -> Expr:
    """The Moore-Penrose inverse; singular values of at most rtol times the largest count as 0.

    rtol: by default the larger side times the dtype's epsilon.
    """
    value = _matrix(x)
    tolerance = _tolerance(value) if rtol is None else cast(as_expr(rtol), value.dtype)
    return Expr(ops.pinv(value.node, broadcast_to(tolerance, value.shape[:-2]).node))


def _tolerance(x: Expr) -> Expr:
    sides = [array.size(d) if isinstance(d, str) else array.constant(d) for d in x.shape[-2:]]
    return cast(elementwise.maximum(*sides), x.dtype) * array.constant(np.finfo(x.dtype).eps, x.dtype)


# ---- determinants and factors ----


@located
def det(x: Any, /) -> Expr:
    """The determinant of each matrix. Its gradient is right at singular matrices too, its second derivative not."""
    return Expr(ops.det(_square(x).node))


@located
def slogdet(x: Any, /) -> SlogdetResult:
    """Sign and logarithm of the absolute value of each determinant."""
    node = _square(x).node
    return SlogdetResult(Expr(ops.sign_of_det(node)), Expr(ops.logabsdet(node)))


@located
def cholesky(x: Any, /, *, upper: bool = False) -> Expr:
    """The lower factor L of L @ L^T, or the upper one, of symmetric positive definite matrices.

    Of other matrices the symmetric part is taken, and of that the derivative. SingularMatrixError where it is not
    positive definite.
    """
    factor = Expr(ops.cholesky(_square(x).node))
    return manipulate.matrix_transpose(factor) if upper else factor


@located
def qr(x: Any, /, *, mode: str = "reduced") -> QRResult:
    """Orthonormal Q and upper triangular R; mode "complete", with square Q, has no derivative."""
    value = _matrix(x)
    if mode == "complete":
        return QRResult(*(Expr(factorisations.qr_complete(value.node, output=k)) for k in (0, 1)))
    if mode != "reduced":
        raise AttributeValueError(f"the mode of qr is 'reduced' or 'complete', not {mode!r}")
    rows, columns = value.shape[-2:]
    if isinstance(rows, int) and isinstance(columns, int) and rows < columns:
        left = qr(value[..., :rows])
        rest = products.matmul(manipulate.matrix_transpose(left.Q), value[..., rows:])
        return QRResult(left.Q, manipulate.concat([left.R, rest], axis=-1))
    return QRResult(*(Expr(factorisations.qr(value.node, output=k)) for k in (0, 1)))


@located
def eigh(x: Any, /) -> EighResult:
    """Eigenvalues and eigenvectors of symmetric matrices; of others the symmetric part is taken."""
    node = _square(x).node
    return EighResult(*(Expr(factorisations.eigh(node, output=k)) for k in (0, 1)))


@located
def eigvalsh(x: Any, /) -> Expr:
    """The eigenvalues of symmetric matrices, in rising order."""
    return eigh(x).eigenvalues


@located
def svd(x: Any, /, *, full_matrices: bool = True) -> SVDResult:
    """The singular value decomposition.

    full_matrices: complete U and Vh to square matrices, where the matrix is not square; these have no derivative.
    """
    value = _matrix(x)
    op = factorisations.svd_complete if full_matrices and value.shape[-1] != value.shape[-2] else factorisations.svd
    return SVDResult(*(Expr(op(value.node, output=k)) for k in range(3)))


@located
def svdvals(x: Any, /) -> Expr:
    """The singular values, in falling order."""
    return svd(x, full_matrices=False).S


@located
def matrix_rank(x: Any, /, *, rtol: Any = None) -> Expr:
    """The number of singular values over rtol times the largest, as int64."""
    value = _matrix(x)
    values = svdvals(value)
    bound = _tolerance(value) if rtol is None else cast(as_expr(rtol), value.dtype)
    least = broadcast_to(bound, value.shape[:-2]) * array.max(values, axis=-1)
    return arrange.count_nonzero(values > manipulate.expand_dims(least, axis=-1), axis=-1)


@located
def matrix_power(x: Any, n: int, /) -> Expr:
    """The n-th power of each matrix by repeated squaring; of the inverse for negative n."""
    value = as_expr(x)
    if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
        raise ShapeError(f"a square matrix is needed, not {value.node.type}")
    if n < 0:
        return matrix_power(inv(value), -n)
    result = broadcast_to(array.eye(value.shape[-1], dtype=value.dtype), value.shape) if n == 0 else None
    while n:
        if n & 1:
            result = value if result is None else products.matmul(result, value)
        n >>= 1
        value = products.matmul(value, value) if n else value
    assert result is not None
    return result


# ---- parts and norms ----


@located
def diagonal(x: Any, /, *, offset: int = 0) -> Expr:
    """The diagonal of each matrix, `offset` columns right of the main one."""
    value = as_expr(x)
    if value.ndim < 2:
        raise ShapeError(f"a matrix has two axes, {value.node.type} has {value.ndim}")
    rows, columns = value.shape[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        if offset or rows != columns:
            raise ShapeError(f"the length of that diagonal of {value.node.type} is not known")
        return products.einsum("...ii->...i", value)
    length = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    first = (max(-offset, 0), max(offset, 0))
    square = value[..., first[0] : first[0] + length, first[1] : first[1] + length]
    return products.einsum("...ii->...i", square)


@located
def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Expr:
    """The sum of each diagonal."""
    return array.sum(diagonal(x, offset=offset), axis=-1, dtype=dtype)


@located
def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Expr:
    """The cross product of vectors of 3 along an axis; the others broadcast."""
    left, right = match_dtypes(as_expr(x1), as_expr(x2), keep_bool=False)
    if any(not -v.ndim <= axis < v.ndim or v.shape[axis] != 3 for v in (left, right)):
        raise ShapeError(f"cross needs 3 elements along axis {axis}: {left.node.type}, {right.node.type}")
    a, b = ([array.take(v, k, axis=axis) for k in range(3)] for v in (left, right))
    parts = [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return manipulate.stack(parts, axis=axis)


@located
def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Expr:
    """The norm of vectors along axes, all by default: (sum |x|^ord)^(1/ord), or the largest or smallest |x|."""
    value = as_expr(x)
    size = elementwise.abs(cast(value, float_for(value.dtype)))
    along: dict[str, Any] = {"axis": axis, "keepdims": keepdims}
    if ord == 0:
        return cast(arrange.count_nonzero(size, **along), size.dtype)
    if ord in (np.inf, -np.inf):
        return array.max(size, **along) if ord > 0 else array.min(size, **along)
    if ord == 1:
        return array.sum(size, **along)
    if ord == 2:
        return elementwise.sqrt(array.sum(size * size, **along))
    norm: Expr = array.sum(size**ord, **along) ** (1 / ord)
    return norm


@located
def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Expr:
    """The norm of each matrix: "fro", "nuc", 1, -1, 2, -2, inf or -inf."""
    value = _matrix(x)
    if ord == "fro":
        return vector_norm(value, axis=(-2, -1), keepdims=keepdims)
    if ord in (1, -1, np.inf, -np.inf):
        sums = array.sum(elementwise.abs(value), axis=-2 if ord in (1, -1) else -1)
        norm = array.max(sums, axis=-1) if ord > 0 else array.min(sums, axis=-1)
    elif ord in (2, -2, "nuc"):
        values = svdvals(value)
        norm = array.sum(values, axis=-1) if ord == "nuc" else values[..., 0 if ord == 2 else -1]
    else:
        raise AttributeValueError(f"a matrix norm is 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, not {ord!r}")
    return manipulate.expand_dims(norm, axis=(-2, -1)) if keepdims else norm


FUNCTIONS |= {
    function.__name__: function
    for function in (
        cholesky, cross, det, eigh, eigvalsh, inv, matrix_norm, matrix_power, matrix_rank, pinv, qr, slogdet, solve, svd,
        svdvals, vector_norm,
    )
}  # fmt: skip
