"""Random numbers (`gi.random`): functions of a key, as in jax.random; a key that is used twice gives the same numbers.

Numbers belong to positions of the whole array, so cutting, retrying and batching change none. Draws of 64 bits are
those of NumPy's Philox: `uniform(key(7), (5,))` is `numpy.random.Generator(numpy.random.Philox(key=7)).random(5)`.
"""

import math
from typing import Any

import numpy as np

from graphir import arrange, array, dims, elementwise, manipulate
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import Expr, as_expr, broadcast_to, cast
from graphir.ops import layout
from graphir.ops import random as ops
from graphir.ops.sources import iota
from graphir.origin import located
from graphir.types import as_dtype, as_shape, is_float

_WORD = (1 << 64) - 1


@located
def key(seed: Any) -> Expr:
    """A key, uint64[2], from a seed: a number below 2**128, as Philox in NumPy takes, or an integer expression."""
    if isinstance(seed, int | np.integer):
        if not 0 <= int(seed) < 1 << 128:
            raise AttributeValueError(f"a seed is a number from 0 to 2**128 - 1, not {seed}")
        return array.constant(np.array([int(seed) & _WORD, int(seed) >> 64], "uint64"))
    low = _number(seed, "a seed")
    return manipulate.stack([low, array.zeros_like(low)])


@located
def fold_in(key: Any, data: Any) -> Expr:
    """A new key from a key and one integer, such as the number of the step."""
    return Expr(ops.random_key(_key(key).node, _number(data, "what is folded in").node, domain=1))


@located
def split(key: Any, num: int = 2) -> Expr:
    """`num` new keys, uint64[num, 2]; they can be unpacked: `k1, k2 = split(key)`."""
    numbers = cast(Expr(iota(shape=(num,))), np.dtype("uint64"))
    keys = layout.broadcast(_key(key).node, shape=(num, 2), axes=(1,))
    return Expr(ops.random_key(keys, numbers.node, domain=2))


@located
def bits(key: Any, shape: Any = ()) -> Expr:
    """64 random bits an element, uint64[shape]."""
    full = as_shape(shape)
    return Expr(ops.random_bits(_key(key).node, shape=full, whole=full))


@located
def uniform(key: Any, shape: Any = (), dtype: Any = "float64", minval: Any = 0.0, maxval: Any = 1.0) -> Expr:
    """Numbers from [minval, maxval) with equal probability, in steps of 2**-53 (float32 2**-24, float16 2**-11).

    With bounds other than 0 and 1 the sum is rounded, which can give maxval itself.
    """
    type_ = _float(dtype)
    digits = np.finfo(type_).nmant + 1
    shifted = elementwise.bitwise_right_shift(bits(key, shape), array.constant(64 - digits, "uint64"))
    unit = cast(shifted, type_) * array.constant(2.0**-digits, type_)
    if _is(minval, 0.0) and _is(maxval, 1.0):
        return unit
    low, high = (cast(as_expr(bound), type_) for bound in (minval, maxval))
    return low + unit * (high - low)


@located
def normal(key: Any, shape: Any = (), dtype: Any = "float64") -> Expr:
    """Numbers of the standard normal distribution.

    One of each pair of Box and Muller, "A note on the generation of random normal deviates", Annals of Mathematical
    Statistics 29, 1958, computed in float64; the largest is 8.5.
    """
    type_ = _float(dtype)
    pair = uniform(key, (*as_shape(shape), 2))
    radius = elementwise.sqrt(-2.0 * elementwise.log1p(-pair[..., 0]))
    return cast(radius * elementwise.cos((2 * math.pi) * pair[..., 1]), type_)


@located
def bernoulli(key: Any, p: Any = 0.5, shape: Any = None) -> Expr:
    """True with probability p; bool of the given shape, by default that of p."""
    if isinstance(p, int | float) and not 0 <= p <= 1:
        raise AttributeValueError(f"p is a probability, from 0 to 1, not {p}")
    chance = cast(as_expr(p), np.dtype("float64"))
    full = chance.shape if shape is None else as_shape(shape)
    return uniform(key, full) < broadcast_to(chance, full)


@located
def randint(key: Any, shape: Any, minval: Any, maxval: Any, dtype: Any = "int64") -> Expr:
    """Integers from [minval, maxval); one of them is at most 2**-64 (maxval - minval) more likely than another."""
    type_ = as_dtype(dtype)
    if type_.kind not in "iu":
        raise DTypeError(f"randint gives integers, not {type_.name}")
    if isinstance(minval, int) and isinstance(maxval, int) and minval >= maxval:
        raise AttributeValueError(f"randint has nothing to draw from [{minval}, {maxval}); maxval must be greater")
    low, high = (cast(as_expr(bound), np.dtype("int64")) for bound in (minval, maxval))
    span = broadcast_to(cast(high - low, np.dtype("uint64")), as_shape(shape))
    return cast(low + cast(elementwise.remainder(bits(key, shape), span), np.dtype("int64")), type_)


@located
def exponential(key: Any, shape: Any = (), dtype: Any = "float64") -> Expr:
    """Numbers of the exponential distribution of mean 1."""
    return cast(-elementwise.log1p(-uniform(key, shape)), _float(dtype))


@located
def gumbel(key: Any, shape: Any = (), dtype: Any = "float64") -> Expr:
    """Numbers of the standard Gumbel distribution."""
    half = uniform(key, shape) + 2.0**-54  # never 0
    return cast(-elementwise.log(-elementwise.log(half)), _float(dtype))


@located
def categorical(key: Any, logits: Any, axis: int = -1) -> Expr:
    """Classes with the probabilities softmax(logits); int64, shaped as the logits without the axis."""
    scores = as_expr(logits)
    return array.argmax(scores + gumbel(key, scores.shape, scores.dtype), axis=axis)


@located
def permutation(key: Any, x: Any, axis: int = 0) -> Expr:
    """The slices of x along an axis in a random order; for a number n, of 0 ... n - 1."""
    values = Expr(iota(shape=(dims.dim(x),))) if isinstance(x, int | str) else as_expr(x)
    at = array.normal_axis(axis, values.ndim)
    order = arrange.argsort(bits(key, (values.shape[at],)))
    return array.take(values, order, axis=at)


def _key(value: Any) -> Expr:
    found = as_expr(value)
    if found.dtype != np.dtype("uint64"):
        raise DTypeError(f"a key is uint64[2], not {found.node.type}; make one with gi.random.key(seed)")
    if found.shape != (2,):
        raise ShapeError(f"a key is uint64[2], not {found.node.type}; take one of several, or use gi.vmap")
    return found


def _number(value: Any, what: str) -> Expr:
    found = as_expr(value)
    if found.dtype.kind not in "iu" or found.ndim:
        raise DTypeError(f"{what} is one integer, not {found.node.type}")
    return cast(found, np.dtype("uint64"))


def _float(dtype: Any) -> Any:
    found = as_dtype(dtype)
    if not is_float(found):
        raise DTypeError(f"these numbers are floats, not {found.name}")
    return found


def _is(value: Any, number: float) -> bool:
    return isinstance(value, int | float) and value == number
