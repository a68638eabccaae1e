"""Random bits as a function of a key and of each element's position in the whole array.

Philox4x64-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a keyed bijection
of 256-bit counters. Nothing is stored between draws, so cutting, retrying and batching change no number. The last
word of the counter keeps three uses of a key apart: 0 for draws, 1 for folding numbers in, 2 for splitting.
"""

from math import prod
from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.dims import Dim
from graphir.errors import DTypeError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Op
from graphir.ops.rules import letters
from graphir.types import TensorType, tensor_type

WORDS = 4
"""Numbers that one counter gives."""
ROUNDS = 10
_UINT64 = np.dtype("uint64")
MULTIPLIERS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], _UINT64)
WEYL = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], _UINT64)
_NO_DERIVATIVE = "bits are integers: they carry no derivative"


def _check_key(key: TensorType) -> None:
    if key.dtype != _UINT64:
        raise DTypeError(f"a key is uint64[2], not {key}; make one with gi.random.key(seed)")
    if not key.rank or key.shape[-1] != 2:
        raise ShapeError(f"a key is uint64[2], not {key}; make one with gi.random.key(seed)")


# ---- draws ----


def _infer_bits(key: TensorType, *, shape: tuple[Dim, ...], whole: tuple[Dim, ...]) -> TensorType:
    _check_key(key)
    batch = key.shape[:-1]
    if shape[: len(batch)] != batch or len(whole) != len(shape):
        raise ShapeError(f"bits of shape {shape} do not fit the whole shape {whole} and a key of type {key}")
    return tensor_type(_UINT64, shape)


def _bits_kernel(
    key: Array, *, shape: tuple[int, ...], whole: tuple[int, ...], offset: tuple[int, ...] | None = None
) -> Array:
    """Row-major positions in the whole; runs of consecutive ones come from numpy's own generator."""
    batch = key.ndim - 1
    start = (0,) * len(shape) if offset is None else offset
    out = np.empty(shape, _UINT64)
    for index in np.ndindex(shape[:batch]):
        _draw(key[index], out[(*index, ...)], whole[batch:], start[batch:])
    return out


def _draw(key: Array, out: Array, whole: tuple[int, ...], start: tuple[int, ...]) -> None:
    """Fill `out`, the block of `whole` that begins at `start`."""
    if not out.size:
        return
    split = out.ndim  # the last axes that are all there, and the one before them, make one run
    while split and out.shape[split - 1] == whole[split - 1]:
        split -= 1
    split = max(split - 1, 0)
    strides = [prod(whole[axis + 1 :]) for axis in range(out.ndim)]
    for index in np.ndindex(out.shape[:split]):
        place = [*(i + s for i, s in zip(index, start, strict=False)), *start[split:]]
        first = sum(i * stride for i, stride in zip(place, strides, strict=True))
        run = out[(*index, ...)]
        run[...] = stream(key, first, run.size).reshape(run.shape)


def stream(key: Array, first: int, count: int) -> Array:
    """Numbers first, first + 1, ... of the stream that np.random.Philox(key=key) has."""
    skipped = first % WORDS
    generator = np.random.Philox(key=key, counter=first // WORDS)
    found: Array = generator.random_raw(skipped + count)[skipped:]
    return found


def _bits_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    own = letters(len(attrs["shape"]))
    return AxisRule(((*own[: types[0].rank - 1], "key"),), own, whole=frozenset({"key"}))


random_bits: Op = Op(
    "random_bits",
    "64 random bits an element, by a key and the element's position in the whole array.",
    arity=1,
    attrs={"shape": "dims", "whole": "dims"},
    infer=_infer_bits,
    kernel=_bits_kernel,
    vjp=_NO_DERIVATIVE,
    axes=_bits_axes,
    examples=(
        Example((Sample((2,), "uint64", 0, 9),), {"shape": (3, 5), "whole": (3, 5)}),
        Example((Sample((2, 2), "uint64", 0, 9),), {"shape": (2, 3), "whole": (2, 3)}),
        Example((Sample((2,), "uint64", 0, 9),), {"shape": (), "whole": ()}),
    ),
    cost=20,
    offset=True,
)


# ---- keys from keys ----


def _infer_fold(key: TensorType, data: TensorType, *, domain: int) -> TensorType:
    _check_key(key)
    if data.dtype != _UINT64 or data.shape != key.shape[:-1]:
        raise ShapeError(f"what is folded into a key of type {key} is uint64 of shape {key.shape[:-1]}, not {data}")
    return key


def _fold_kernel(key: Array, data: Array, *, domain: int) -> Array:
    counter = np.zeros((*data.shape, WORDS), _UINT64)
    counter[..., 0], counter[..., 3] = data, domain
    return philox(counter, key)[..., :2]


def philox(counter: Array, key: Array) -> Array:
    """Philox4x64-10 of counters uint64[..., 4] with keys uint64[..., 2]."""
    state, words = counter, key
    for turn in range(ROUNDS):
        if turn:
            words = words + WEYL
        even = state[..., 0::2]
        high, low = _high_half(even), even * MULTIPLIERS
        mixed = high[..., ::-1] ^ state[..., 1::2] ^ words
        state = np.stack([mixed[..., 0], low[..., 1], mixed[..., 1], low[..., 0]], axis=-1)
    return state


def _high_half(x: Array) -> Array:
    """The upper 64 bits of the products with the multipliers."""
    half, mask = _UINT64.type(32), _UINT64.type(0xFFFFFFFF)
    a, b = x >> half, x & mask
    c, d = MULTIPLIERS >> half, MULTIPLIERS & mask
    cross = a * d + ((b * d) >> half)
    middle = b * c + (cross & mask)
    high: Array = a * c + (cross >> half) + (middle >> half)
    return high


random_key: Op = Op(
    "random_key",
    "A new key from a key and a number; `domain` is 1 for folding in, 2 for splitting.",
    arity=2,
    attrs={"domain": "int"},
    infer=_infer_fold,
    kernel=_fold_kernel,
    vjp=_NO_DERIVATIVE,
    axes=lambda types, attrs: AxisRule(
        ((*letters(types[1].rank), "key"), letters(types[1].rank)),
        (*letters(types[1].rank), "key"),
        whole=frozenset({"key"}),
    ),
    examples=(
        Example((Sample((2,), "uint64", 0, 9), Sample((), "uint64", 0, 9)), {"domain": 1}),
        Example((Sample((3, 2), "uint64", 0, 9), Sample((3,), "uint64", 0, 9)), {"domain": 2}),
    ),
    cost=200,
)
