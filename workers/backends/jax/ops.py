"""Each op in jax.numpy or lax, with the meaning of its NumPy kernel. Control flow is in `control`.

A function takes the arrays and the bound attributes. What NumPy's kernels refuse by looking at values is told to a `Guard`, since a
compiled program cannot raise: `guard(bad, error, message)`.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from graphir.errors import EvaluationError, ShapeError, SingularMatrixError
from workers.backends.jax.windows import (
    conv,
    conv_input,
    conv_kernel,
    unwindows,
    window_max,
    window_max_share,
    windows,
)

Guard = Callable[[Any, type[Exception], str], None]
HIGHEST = lax.Precision.HIGHEST

# ---- elementwise ----


def _floor_divide(x: Any, y: Any) -> Any:
    if x.dtype.kind == "f":
        return jnp.where(y == 0, x / y, jnp.floor_divide(x, y))
    return jnp.where(y == 0, jnp.zeros_like(x), jnp.floor_divide(x, jnp.where(y == 0, jnp.ones_like(y), y)))


def _remainder(x: Any, y: Any) -> Any:
    if x.dtype.kind == "f":
        return jnp.remainder(x, y)
    return jnp.where(y == 0, jnp.zeros_like(x), jnp.remainder(x, jnp.where(y == 0, jnp.ones_like(y), y)))


def _whole(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A rounding, which leaves integers as they are."""
    return lambda x: function(x) if x.dtype.kind == "f" else x


def _tie_share(x: Any, y: Any) -> Any:
    return jnp.where(x > y, 1, jnp.where(x == y, 0.5, 0)).astype(x.dtype)


def _of_floats(function: Callable[[Any], Any], otherwise: bool) -> Callable[[Any], Any]:
    """A question about floats, with its answer for integers."""
    return lambda x: function(x) if x.dtype.kind == "f" else jnp.full(x.shape, otherwise)


def _signbit(x: Any) -> Any:
    return jnp.signbit(x) if x.dtype.kind == "f" else x < 0


def _pow(guard: Guard, x: Any, y: Any) -> Any:
    if x.dtype.kind == "i":
        guard((y < 0).any(), EvaluationError, "the kernel of pow failed: integers to negative integer powers")
    return jnp.power(x, y)


def _logaddexp(x: Any, y: Any) -> Any:
    return jnp.logaddexp(x, y)


def _bitcast(x: Any, *, dtype: str) -> Any:
    if x.dtype == bool:
        x = x.astype("uint8")
    return x.astype(bool) if dtype == "bool" else lax.bitcast_convert_type(x, dtype)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": jnp.abs, "acos": jnp.arccos, "acosh": jnp.arccosh, "add": jnp.add, "asin": jnp.arcsin, "asinh": jnp.arcsinh,
    "atan": jnp.arctan, "atan2": jnp.arctan2, "atanh": jnp.arctanh, "bitcast": _bitcast, "bitwise_and": jnp.bitwise_and,
    "bitwise_invert": jnp.invert, "bitwise_left_shift": jnp.left_shift, "bitwise_or": jnp.bitwise_or,
    "bitwise_right_shift": jnp.right_shift, "bitwise_xor": jnp.bitwise_xor, "cast": lambda x, *, dtype: x.astype(dtype),
    "ceil": _whole(jnp.ceil), "copysign": jnp.copysign, "cos": jnp.cos, "cosh": jnp.cosh, "divide": jnp.divide,
    "equal": jnp.equal, "erf": lax.erf, "exp": jnp.exp, "expm1": jnp.expm1, "floor": _whole(jnp.floor),
    "floor_divide": _floor_divide, "greater": jnp.greater, "greater_equal": jnp.greater_equal, "hypot": jnp.hypot,
    "isfinite": _of_floats(jnp.isfinite, True), "isinf": _of_floats(jnp.isinf, False), "isnan": _of_floats(jnp.isnan, False),
    "less": jnp.less, "less_equal": jnp.less_equal, "log": jnp.log, "log10": jnp.log10, "log1p": jnp.log1p, "log2": jnp.log2,
    "logaddexp": _logaddexp, "logical_and": jnp.logical_and, "logical_not": jnp.logical_not, "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor, "maximum": jnp.maximum, "minimum": jnp.minimum, "multiply": jnp.multiply,
    "negative": jnp.negative, "nextafter": lax.nextafter, "not_equal": jnp.not_equal, "positive": lambda x: x,
    "reciprocal": jnp.reciprocal, "remainder": _remainder, "round": jnp.round, "sign": jnp.sign, "signbit": _signbit,
    "sin": jnp.sin, "sinh": jnp.sinh, "sqrt": jnp.sqrt, "square": jnp.square, "stop_gradient": lambda x: x,
    "subtract": jnp.subtract, "tan": jnp.tan, "tanh": jnp.tanh, "tie_share": _tie_share, "trunc": _whole(jnp.trunc),
    "where": jnp.where,
}  # fmt: skip

# ---- layout ----


def _broadcast(x: Any, *, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    return lax.broadcast_in_dim(x, shape, axes)


def _slice(x: Any, *, axis: int, start: int, stop: int, step: int) -> Any:
    if not 0 <= start <= stop <= x.shape[axis]:
        raise ShapeError(f"slice {start}:{stop} does not fit axis {axis} of size {x.shape[axis]}")
    return lax.slice_in_dim(x, start, stop, step, axis)


def _place(x: Any, *, axis: int, size: int, start: int, step: int) -> Any:
    stop = start + (x.shape[axis] - 1) * step + 1 if x.shape[axis] else start
    if stop > size:
        raise ShapeError(f"{x.shape[axis]} elements from {start} in steps of {step} do not fit into size {size}")
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (start, size - stop, step - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _delay(x: Any, *, axis: int, first: int) -> Any:
    if not x.shape[axis]:
        return x
    head = jnp.full_like(lax.slice_in_dim(x, 0, 1, 1, axis), first)
    return jnp.concatenate([head, lax.slice_in_dim(x, 0, x.shape[axis] - 1, 1, axis)], axis)


# ---- reductions and running values ----


def _logsumexp(x: Any, *, axes: tuple[int, ...]) -> Any:
    top = jnp.max(x, axis=axes, keepdims=True, initial=-jnp.inf)
    top = jnp.where(jnp.isfinite(top), top, jnp.zeros((), x.dtype))
    total = jnp.log(jnp.sum(jnp.exp(x - top), axis=axes, keepdims=True))
    return jnp.squeeze(total + top, axis=axes).astype(x.dtype)


def _softmax(x: Any, *, axes: tuple[int, ...]) -> Any:
    powers = jnp.exp(x - jnp.max(x, axis=axes, keepdims=True))
    return powers / jnp.sum(powers, axis=axes, keepdims=True)


def _exclusive_prod(x: Any, *, axis: int) -> Any:
    return jnp.cumprod(_delay(x, axis=axis, first=1), axis=axis, dtype=x.dtype)


def _recurrence(lag: int) -> Callable[..., Any]:
    """s[k] = factors[k - lag] * s[k - 1] + terms[k], one element after the other."""

    def run(factors: Any, terms: Any, *, axis: int) -> Any:
        if terms.shape[axis] < 2:
            return terms
        a, b = jnp.moveaxis(factors, axis, 0), jnp.moveaxis(terms, axis, 0)
        given = (a[1 - lag : a.shape[0] - lag], b[1:])

        def step(before: Any, pair: Any) -> Any:
            after = pair[0] * before + pair[1]
            return after, after

        rest = lax.scan(step, b[0], given)[1]
        return jnp.moveaxis(jnp.concatenate([b[:1], rest]), 0, axis)

    return run


def _sorted(x: Any, *, axis: int, descending: bool) -> Any:
    return jnp.flip(jnp.sort(jnp.flip(x, axis), axis), axis) if descending else jnp.sort(x, axis)


def _argsorted(x: Any, *, axis: int, descending: bool) -> Any:
    if not descending:
        return jnp.argsort(x, axis, stable=True).astype("int64")
    order = jnp.argsort(jnp.flip(x, axis), axis, stable=True)
    return (x.shape[axis] - 1 - jnp.flip(order, axis)).astype("int64")


def _fourier(x: Any, *, axis: int, inverse: bool, scaled: bool) -> Any:
    if not x.size:
        return x
    wide = x.astype(jnp.promote_types(x.dtype, "float32"))
    function = jnp.fft.ifft if inverse else jnp.fft.fft
    values = lax.complex(wide[..., 0], wide[..., 1])
    found = function(values, axis=axis, norm="backward" if inverse == scaled else "forward")
    return jnp.stack([found.real, found.imag], -1).astype(x.dtype)


# ---- positions ----


def _checked(guard: Guard, indices: Any, size: int) -> Any:
    """The positions counted from the beginning; those out of range are told, and 0."""
    wide = indices.astype("int64")
    bad = (wide < -size) | (wide >= size)
    if indices.dtype == "uint64":
        bad = bad | (indices >= jnp.uint64(size))
    guard(bad.any(), ShapeError, f"an index is out of range for an axis of size {size}")
    return jnp.where(bad, 0, jnp.where(wide < 0, wide + size, wide))


def _take(guard: Guard, x: Any, indices: Any, *, axis: int) -> Any:
    return jnp.take(x, _checked(guard, indices, x.shape[axis]), axis, mode="clip")


def _take_along_axis(guard: Guard, x: Any, indices: Any, *, axis: int) -> Any:
    return jnp.take_along_axis(x, _checked(guard, indices, x.shape[axis]), axis, mode="clip")


def _take_at(guard: Guard, x: Any, *indices: Any, axes: tuple[int, ...]) -> Any:
    places = tuple(_checked(guard, index, x.shape[axis]) for index, axis in zip(indices, axes, strict=True))
    return jnp.moveaxis(x, axes, range(len(axes)))[places]


def _scatter_add(guard: Guard, updates: Any, indices: Any, *, axis: int, size: int) -> Any:
    places = _checked(guard, indices, size)
    zeros = jnp.zeros((*updates.shape[:axis], size, *updates.shape[axis + indices.ndim :]), updates.dtype)
    return zeros.at[(*(slice(None),) * axis, places)].add(updates)


def _scatter_add_along_axis(guard: Guard, updates: Any, indices: Any, *, axis: int, size: int) -> Any:
    zeros = jnp.zeros((*updates.shape[:axis], size, *updates.shape[axis + 1 :]), updates.dtype)
    where = [lax.broadcasted_iota("int64", indices.shape, k) for k in range(indices.ndim)]
    where[axis] = _checked(guard, indices, size)
    return zeros.at[tuple(where)].add(updates)


def _scatter_add_at(guard: Guard, updates: Any, *indices: Any, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Any:
    places = tuple(_checked(guard, index, size) for index, size in zip(indices, sizes, strict=True))
    zeros = jnp.zeros((*sizes, *updates.shape[indices[0].ndim :]), updates.dtype)
    return jnp.moveaxis(zeros.at[places].add(updates), range(len(axes)), axes)


# ---- matrices ----

_ADVICE = "add a small multiple of the identity, or use gi.linalg.pinv"


def _swapped(x: Any) -> Any:
    return jnp.swapaxes(x, -1, -2)


def _broken(*found: Any) -> Any:
    """Whether LAPACK gave something that is no number."""
    bad = jnp.zeros((), bool)
    for array in found:
        bad = bad | ~jnp.isfinite(array).all()
    return bad


def _cholesky(guard: Guard, x: Any) -> Any:
    found = jnp.linalg.cholesky((x + _swapped(x)) / 2)
    guard(_broken(found), SingularMatrixError, f"the matrix is not positive definite; {_ADVICE}")
    return jnp.tril(found)


def _solve(guard: Guard, a: Any, b: Any) -> Any:
    singular = (jnp.linalg.slogdet(a)[0] == 0).any()
    guard(singular, SingularMatrixError, f"the matrix is singular; {_ADVICE}")
    return jnp.linalg.solve(a, b)


def _triangular_solve(guard: Guard, a: Any, b: Any, *, lower: bool) -> Any:
    zeros = (jnp.diagonal(a, axis1=-2, axis2=-1) == 0).any()
    guard(zeros, SingularMatrixError, f"the matrix is triangular with a zero on its diagonal; {_ADVICE}")
    return lax.linalg.triangular_solve(a, b, left_side=True, lower=lower)


def _cofactor(x: Any) -> Any:
    """By singular values, at singular matrices too."""
    u, s, vh = jnp.linalg.svd(x)
    one = jnp.ones_like(s[..., :1])
    before = jnp.cumprod(jnp.concatenate([one, s[..., :-1]], -1), -1)
    after = jnp.cumprod(jnp.concatenate([one, s[..., :0:-1]], -1), -1)[..., ::-1]
    signs = jnp.linalg.det(u) * jnp.linalg.det(vh)
    return signs[..., None, None] * jnp.matmul(u * (before * after)[..., None, :], vh, precision=HIGHEST)


def _pinv(guard: Guard, x: Any, rtol: Any) -> Any:
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    guard(
        _broken(s), SingularMatrixError, "the singular value decomposition did not converge; look for NaN or infinities"
    )
    kept = s > rtol[..., None] * s.max(-1, keepdims=True)
    inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)
    return jnp.matmul(_swapped(vh), inverse[..., None] * _swapped(u), precision=HIGHEST)


def _several(decompose: Callable[[Any], Any], what: str) -> Callable[..., Any]:
    """Several outputs of a decomposition."""

    def joint(guard: Guard, x: Any, *, outputs: tuple[int, ...]) -> list[Any]:
        found = [decompose(x)[k] for k in outputs]
        guard(_broken(*found), SingularMatrixError, f"{what} did not converge; look for NaN or infinities in it")
        return found

    return joint


def _qr(x: Any) -> Any:
    if x.shape[-2] < x.shape[-1]:
        raise ShapeError(f"QR needs at least as many rows as columns; {x.shape[-2:]} has less: feed more rows")
    return jnp.linalg.qr(x)


JOINT: dict[str, Callable[..., Any]] = {
    "qr": _several(_qr, "the QR decomposition"),
    "qr_complete": _several(lambda x: jnp.linalg.qr(x, "complete"), "the QR decomposition"),
    "eigh": _several(
        lambda x: jnp.linalg.eigh((x + _swapped(x)) / 2, symmetrize_input=False), "the eigenvalue decomposition"
    ),
    "svd": _several(lambda x: jnp.linalg.svd(x, full_matrices=False), "the singular value decomposition"),
    "svd_complete": _several(jnp.linalg.svd, "the singular value decomposition"),
}

# ---- random bits ----

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def _high_half(x: Any, multiplier: int) -> Any:
    """The upper 64 bits of a product."""
    half, mask = jnp.uint64(32), jnp.uint64(0xFFFFFFFF)
    a, b = x >> half, x & mask
    c, d = jnp.uint64(multiplier >> 32), jnp.uint64(multiplier & 0xFFFFFFFF)
    cross = a * d + ((b * d) >> half)
    middle = b * c + (cross & mask)
    return a * c + (cross >> half) + (middle >> half)


def philox(counter: tuple[Any, ...], key: tuple[Any, Any]) -> tuple[Any, ...]:
    """Philox4x64-10 of four words of counter and two of key, as in graphir.ops.random."""
    a, b, c, d = counter
    first, second = key
    for turn in range(10):
        if turn:
            first, second = first + jnp.uint64(_WEYL[0]), second + jnp.uint64(_WEYL[1])
        highs = [_high_half(x, m) for x, m in zip((a, c), _MULTIPLIERS, strict=True)]
        lows = [x * jnp.uint64(m) for x, m in zip((a, c), _MULTIPLIERS, strict=True)]
        a, b, c, d = highs[1] ^ b ^ first, lows[1], highs[0] ^ d ^ second, lows[0]
    return a, b, c, d


def _random_key(key: Any, data: Any, *, domain: int) -> Any:
    zero = jnp.zeros_like(data)
    found = philox((data, zero, zero, zero + jnp.uint64(domain)), (key[..., 0], key[..., 1]))
    return jnp.stack(found[:2], -1)


def _random_bits(key: Any, *, shape: tuple[int, ...], whole: tuple[int, ...], offset: Any) -> Any:
    """Each element's block of four words by its position in the whole, and the word that is its own."""
    batch = key.ndim - 1
    own = shape[batch:]
    position = jnp.zeros(own, "uint64")
    for axis in range(len(own)):
        stride = prod(whole[batch + axis + 1 :])
        places = lax.broadcasted_iota("int64", own, axis) + offset[batch + axis]
        position = position + places.astype("uint64") * jnp.uint64(stride)
    block, word = position // jnp.uint64(4) + jnp.uint64(1), position % jnp.uint64(4)
    words = [key[..., k].reshape(key.shape[:-1] + (1,) * len(own)) for k in range(2)]
    zero = jnp.zeros_like(block)
    found = philox((block, zero, zero, zero), (words[0], words[1]))
    picked = found[3]
    for k in range(3):
        picked = jnp.where(word == k, found[k], picked)
    return jnp.broadcast_to(picked, shape)


PLAIN: dict[str, Callable[..., Any]] = ELEMENTWISE | {
    "all": lambda x, *, axes: jnp.all(x, axes), "any": lambda x, *, axes: jnp.any(x, axes),
    "argmax": lambda x, *, axis: jnp.argmax(x, axis).astype("int64"),
    "argmin": lambda x, *, axis: jnp.argmin(x, axis).astype("int64"),
    "argsort": _argsorted, "broadcast": _broadcast, "cofactor": _cofactor,
    "concat": lambda *xs, axis: jnp.concatenate(xs, axis), "conv": conv, "conv_input": conv_input, "conv_kernel": conv_kernel,
    "cumulative_prod": lambda x, *, axis: jnp.cumprod(x, axis, dtype=x.dtype),
    "cumulative_sum": lambda x, *, axis: jnp.cumsum(x, axis, dtype=x.dtype),
    "custom_vjp": lambda value, *arguments, rule: value, "delay": _delay, "delayed_recurrence": _recurrence(1),
    "det": jnp.linalg.det,
    "einsum": lambda *xs, subscripts: jnp.einsum(subscripts, *xs, precision=HIGHEST),
    "exclusive_prod": _exclusive_prod, "flip": lambda x, *, axis: jnp.flip(x, axis), "fourier": _fourier,
    "iota": lambda *, shape, offset: jnp.arange(shape[0], dtype="int64") + offset[0],
    "linear_recurrence": _recurrence(0), "logabsdet": lambda x: jnp.linalg.slogdet(x)[1], "logsumexp": _logsumexp,
    "matmul": lambda x, y: jnp.matmul(x, y, precision=HIGHEST), "max": lambda x, *, axes: jnp.max(x, axes),
    "min": lambda x, *, axes: jnp.min(x, axes), "permute": lambda x, *, axes: jnp.transpose(x, axes), "place": _place,
    "prod": lambda x, *, axes: jnp.prod(x, axes, dtype=x.dtype), "random_bits": _random_bits, "random_key": _random_key,
    "reshape": lambda x, *, shape: jnp.reshape(x, shape),
    "searchsorted": lambda ordered, values, *, side: jnp.searchsorted(ordered, values, side).astype("int64"),
    "sign_of_det": lambda x: jnp.linalg.slogdet(x)[0], "size": lambda *, dim: jnp.asarray(dim, "int64"), "slice": _slice,
    "softmax": _softmax, "sort": _sorted, "sum": lambda x, *, axes: jnp.sum(x, axes, dtype=x.dtype),
    "unwindows": unwindows, "window_max": window_max, "window_max_share": window_max_share, "windows": windows,
}  # fmt: skip
"""Ops of one output that never refuse a value."""

GUARDED: dict[str, Callable[..., Any]] = {
    "cholesky": _cholesky, "pinv": _pinv, "pow": _pow, "scatter_add": _scatter_add,
    "scatter_add_along_axis": _scatter_add_along_axis, "scatter_add_at": _scatter_add_at, "solve": _solve, "take": _take,
    "take_along_axis": _take_along_axis, "take_at": _take_at, "triangular_solve": _triangular_solve,
}  # fmt: skip
"""Ops of one output whose values may be refused: they take a Guard first."""
