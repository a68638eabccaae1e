"""Linear systems, triangular factors, determinants and pseudo-inverses of stacks of matrices.

Derivatives after Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
differentiation", 2008, and Murray, "Differentiation of the Cholesky decomposition", arXiv:1602.07527. Leading axes are
stacks and can be cut; the axes of a matrix cannot. A singular matrix raises SingularMatrixError.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.errors import DTypeError, ShapeError, SingularMatrixError
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op
from graphir.ops import arithmetic, layout
from graphir.ops.contraction import transpose
from graphir.ops.matrices import diagonal_part, identity, lower, product, scaled, symmetric, upper
from graphir.ops.rules import letters
from graphir.types import TensorType, is_float

WELL = Sample((3, 3), "float64", -1, 1, diagonal=4)
STACK = Sample((2, 3, 3), "float64", -1, 1, diagonal=4)
"""Matrices far from singular; also positive definite once symmetric."""
BLOCK = 32
"""Rows of a triangular matrix that are solved at once."""


def need_matrix(x: TensorType, square: bool = True) -> None:
    """DTypeError, ShapeError unless x is a stack of float32 or float64 matrices."""
    if not is_float(x.dtype) or x.dtype.itemsize < 4:
        raise DTypeError(f"linear algebra needs the dtype float32 or float64, not {x}; cast it")
    if x.rank < 2:
        raise ShapeError(f"a matrix has two axes, {x} has {x.rank}; reshape it")
    if square and x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"a square matrix is needed, not {x}")


def infer_square(x: TensorType, **attrs: Any) -> TensorType:
    """A stack of square matrices gives one of the same type."""
    need_matrix(x)
    return x


def infer_number(x: TensorType) -> TensorType:
    """A number for each matrix."""
    need_matrix(x)
    return x.with_shape(x.shape[:-2])


def square_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    """From a stack of matrices to matrices."""
    batch = letters(types[0].rank - 2, "b")
    return AxisRule(((*batch, "i", "j"),), (*batch, "i", "j"), whole=frozenset("ij"))


def cubic(factor: int) -> Callable[..., int]:
    """Work that is a multiple of the matrix's elements times its smaller size."""
    return lambda shape, *rest: factor * min(shape[-2:])


def number_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    """From a stack of matrices to numbers."""
    batch = letters(types[0].rank - 2, "b")
    return AxisRule(((*batch, "i", "j"),), batch, whole=frozenset("ij"))


def singular(matrices: Array, bad: Array, what: str) -> SingularMatrixError:
    """The error that says which matrix of the stack it is."""
    places = np.argwhere(bad)
    where = f"matrix {places[0].tolist()} of the stack" if matrices.ndim > 2 and len(places) else "the matrix"
    return SingularMatrixError(f"{where} is {what}; add a small multiple of the identity, or use gi.linalg.pinv")


# ---- Cholesky ----


def _cholesky_kernel(x: Array) -> Array:
    even = (x + np.swapaxes(x, -1, -2)) / 2
    try:
        return np.linalg.cholesky(even)
    except np.linalg.LinAlgError:
        raise singular(x, np.linalg.eigvalsh(even)[..., 0] <= 0, "not positive definite") from None


def _cholesky_vjp(ct: Node, out: Node, x: Node) -> Node:
    """L^-T P L^-1 made symmetric, P the lower half of L^T ct with half its diagonal."""
    inner = product(transpose(out), ct)
    half = arithmetic.subtract(lower(inner), scaled(diagonal_part(inner), 0.5))
    left = triangular_solve(transpose(out), half, lower=False)
    return symmetric(transpose(triangular_solve(transpose(out), transpose(left), lower=False)))


cholesky: Op = Op(
    "cholesky",
    "The lower factor L of (x + x^T) / 2 = L L^T for positive definite matrices.",
    arity=1,
    infer=infer_square,
    kernel=_cholesky_kernel,
    vjp=(_cholesky_vjp,),
    axes=square_axes,
    examples=(Example((WELL,)), Example((STACK,))),
    cost=cubic(3),
)

# ---- systems ----


def _infer_solve(a: TensorType, b: TensorType, **attrs: Any) -> TensorType:
    need_matrix(a)
    need_matrix(b, square=False)
    if a.dtype != b.dtype:
        raise DTypeError(f"dtypes differ: {a} and {b}; cast one of them")
    if a.shape[:-1] != b.shape[:-1]:
        raise ShapeError(f"a system of matrix {a} needs right sides with as many rows and equal leading axes, not {b}")
    return b


def _solve_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    batch = letters(types[0].rank - 2, "b")
    return AxisRule(((*batch, "i", "j"), (*batch, "i", "k")), (*batch, "j", "k"), whole=frozenset("ij"))


def _solve_kernel(a: Array, b: Array) -> Array:
    try:
        return np.linalg.solve(a, b)
    except np.linalg.LinAlgError:
        with np.errstate(all="ignore"):
            raise singular(a, np.linalg.slogdet(a)[0] == 0, "singular") from None


def _solve_matrix_vjp(ct: Node, out: Node, a: Node, b: Node) -> Node:
    return arithmetic.negative(product(solve(transpose(a), ct), transpose(out)))


solve: Op = Op(
    "solve",
    "x with a x = b.",
    arity=2,
    infer=_infer_solve,
    kernel=_solve_kernel,
    vjp=(_solve_matrix_vjp, lambda ct, out, a, b: solve(transpose(a), ct)),
    axes=_solve_axes,
    examples=(Example((WELL, Sample((3, 2)))), Example((STACK, Sample((2, 3, 4))))),
    cost=3,
)


def _triangular_kernel(a: Array, b: Array, *, lower: bool) -> Array:
    """Substitution by blocks of rows."""
    half = np.tril(a) if lower else np.triu(a)
    zeros = (np.diagonal(a, axis1=-2, axis2=-1) == 0).any(axis=-1)
    if zeros.any():
        raise singular(a, zeros, "triangular with a zero on its diagonal")
    x = np.array(b)
    size = a.shape[-1]
    starts = range(0, size, BLOCK)
    for start in starts if lower else reversed(starts):
        own, stop = slice(start, start + BLOCK), min(start + BLOCK, size)
        rest = slice(0, start) if lower else slice(stop, size)
        if rest.start != rest.stop:
            x[..., own, :] -= half[..., own, rest] @ x[..., rest, :]
        x[..., own, :] = np.linalg.solve(half[..., own, own], x[..., own, :])
    return x


def _triangular_side(ct: Node, out: Node, a: Node, b: Node, *, lower: bool) -> Node:
    return triangular_solve(transpose(a), ct, lower=not lower)


def _triangular_matrix(ct: Node, out: Node, a: Node, b: Node, **attrs: bool) -> Node:
    full = arithmetic.negative(product(_triangular_side(ct, out, a, b, **attrs), transpose(out)))
    return lower(full) if attrs["lower"] else upper(full)


triangular_solve: Op = Op(
    "triangular_solve",
    "x with a x = b, where only the lower or the upper triangle of a is read.",
    arity=2,
    attrs={"lower": "bool"},
    infer=_infer_solve,
    kernel=_triangular_kernel,
    vjp=(_triangular_matrix, _triangular_side),
    axes=_solve_axes,
    examples=(
        Example((WELL, Sample((3, 2))), {"lower": True}),
        Example((STACK, Sample((2, 3, 4))), {"lower": False}),
    ),
    cost=2,
)

# ---- determinants ----


def _each(numbers: Node, like: Node) -> Node:
    """A number for each matrix as a matrix."""
    return layout.broadcast(numbers, shape=like.type.shape, axes=tuple(range(numbers.type.rank)))


WELL_CONDITIONED = 1e6
"""Condition number up to which cofactors come from the inverse."""


def _cofactor_kernel(x: Array) -> Array:
    """det x x^-T; by singular values where that is inaccurate or does not exist."""
    try:
        inverse = np.linalg.inv(x)
    except np.linalg.LinAlgError:
        return _cofactor_by_svd(x)
    norms = [np.sqrt((m * m).sum(axis=(-1, -2))) for m in (x, inverse)]
    found: Array = np.linalg.det(x)[..., None, None] * np.swapaxes(inverse, -1, -2)
    poor = ~(norms[0] * norms[1] < WELL_CONDITIONED)
    return np.where(poor[..., None, None], _cofactor_by_svd(x), found) if poor.any() else found


def _cofactor_by_svd(x: Array) -> Array:
    u, s, vh = np.linalg.svd(x)
    one = np.ones_like(s[..., :1])
    before = np.cumprod(np.concatenate([one, s[..., :-1]], axis=-1), axis=-1)
    after = np.cumprod(np.concatenate([one, s[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
    signs = np.linalg.det(u) * np.linalg.det(vh)
    found: Array = signs[..., None, None] * ((u * (before * after)[..., None, :]) @ vh)
    return found


def _cofactor_vjp(ct: Node, out: Node, x: Node) -> Node:
    """(<ct, C> C - C ct^T C) / det x; infinite or NaN at a singular x."""
    rank = x.type.rank
    inner = layout.reduce_sum(arithmetic.multiply(ct, out), axes=(rank - 2, rank - 1))
    full = arithmetic.subtract(arithmetic.multiply(_each(inner, x), out), product(out, transpose(ct), out))
    return arithmetic.divide(full, _each(det(x), x))


cofactor: Op = Op(
    "cofactor",
    "The matrix of cofactors: the derivative of the determinant, at singular matrices too.",
    arity=1,
    infer=infer_square,
    kernel=_cofactor_kernel,
    vjp=(_cofactor_vjp,),
    axes=square_axes,
    examples=(Example((WELL,)), Example((STACK,))),
    cost=cubic(4),
)
det: Op = Op(
    "det",
    "The determinant of each matrix; its second derivative exists where it is not 0.",
    arity=1,
    infer=infer_number,
    kernel=np.linalg.det,
    vjp=(lambda ct, out, x: arithmetic.multiply(_each(ct, x), cofactor(x)),),
    axes=number_axes,
    examples=(Example((WELL,)), Example((STACK,))),
    cost=cubic(2),
)


def _logabsdet_vjp(ct: Node, out: Node, x: Node) -> Node:
    return arithmetic.multiply(_each(ct, x), solve(transpose(x), identity(x)))


logabsdet: Op = Op(
    "logabsdet",
    "The logarithm of the absolute value of each determinant; -inf for a singular matrix.",
    arity=1,
    infer=infer_number,
    kernel=lambda x: np.asarray(np.linalg.slogdet(x)[1]),
    vjp=(_logabsdet_vjp,),
    axes=number_axes,
    examples=(Example((WELL,)), Example((STACK,))),
    cost=cubic(2),
)
sign_of_det: Op = Op(
    "sign_of_det",
    "The sign of each determinant: -1, 0 or 1.",
    arity=1,
    infer=infer_number,
    kernel=lambda x: np.asarray(np.linalg.slogdet(x)[0]),
    vjp="a sign is constant wherever it has a derivative",
    axes=number_axes,
    examples=(Example((WELL,)), Example((STACK,))),
    cost=cubic(2),
)

# ---- pseudo-inverse ----


def _infer_pinv(x: TensorType, rtol: TensorType) -> TensorType:
    need_matrix(x, square=False)
    if rtol != x.with_shape(x.shape[:-2]):
        raise ShapeError(f"the tolerance is one number for each matrix of {x}, not {rtol}")
    return x.with_shape((*x.shape[:-2], x.shape[-1], x.shape[-2]))


def _pinv_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    batch = letters(types[0].rank - 2, "b")
    return AxisRule(((*batch, "i", "j"), batch), (*batch, "j", "i"), whole=frozenset("ij"))


def _pinv_vjp(ct: Node, out: Node, x: Node, rtol: Node) -> Node:
    """Golub and Pereyra, SIAM Journal on Numerical Analysis 10, 1973, for a change that keeps the rank."""
    outt, ctt = transpose(out), transpose(ct)
    left = product(ctt, out, outt)
    right = product(outt, out, ctt)
    grown = arithmetic.add(
        arithmetic.subtract(left, product(x, out, left)), arithmetic.subtract(right, product(right, out, x))
    )
    return arithmetic.subtract(grown, product(outt, ct, outt))


pinv: Op = Op(
    "pinv",
    "The Moore-Penrose inverse of each matrix; singular values of at most rtol times the largest count as 0.",
    arity=2,
    infer=_infer_pinv,
    kernel=lambda x, rtol: np.linalg.pinv(x, rtol),
    vjp=(_pinv_vjp, None),
    axes=_pinv_axes,
    examples=(
        Example((Sample((4, 3), "float64", -1, 1, diagonal=2), Sample((), "float64", 1e-15, 1e-14))),
        Example((Sample((2, 3, 4), "float64", -1, 1, diagonal=2), Sample((2,), "float64", 1e-15, 1e-14))),
    ),
    cost=cubic(20),
)
