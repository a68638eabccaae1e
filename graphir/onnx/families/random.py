"""Random operators, drawn by `graphir.random`: the same model gives the same numbers each time.

An operator without a seed has one made from the name of its output. Each turn of a loop and each call of a function
draws the same numbers again: feed them as inputs where that is not wanted.
"""

import hashlib
import struct
from typing import Any

import numpy as np

from graphir import array, random
from graphir.expr import Expr, broadcast_to
from graphir.onnx.call import Call, reads, scalar
from graphir.onnx.dtypes import element_dtype
from graphir.types import DType

_FLOAT = 1
"""ONNX's code of float32."""


def _key(call: Call, seed: Any = None) -> Expr:
    given = call.attr("seed", seed)
    if given is not None:
        return random.key(int.from_bytes(struct.pack("<d", float(given)), "little"))
    return random.key(int.from_bytes(hashlib.sha256(call.node.output[0].encode()).digest()[:8], "little"))


def _like(call: Call) -> tuple[tuple[Any, ...], DType]:
    """The shape and dtype of what is drawn."""
    if call.node.op_type.endswith("Like"):
        return call[0].shape, element_dtype(call.attributes["dtype"]) if "dtype" in call.attributes else call[0].dtype
    return tuple(call.need("shape")), element_dtype(call.attr("dtype", _FLOAT))


@reads("RandomUniform", "RandomUniformLike")
def _uniform(call: Call) -> Expr:
    shape, dtype = _like(call)
    low, high = call.attr("low", 0.0), call.attr("high", 1.0)
    return random.uniform(
        _key(call), shape, dtype, scalar(low, array.zeros((), dtype)), scalar(high, array.zeros((), dtype))
    )


@reads("RandomNormal", "RandomNormalLike")
def _normal(call: Call) -> Expr:
    shape, dtype = _like(call)
    drawn = random.normal(_key(call), shape, dtype)
    return drawn * scalar(call.attr("scale", 1.0), drawn) + scalar(call.attr("mean", 0.0), drawn)


@reads("Bernoulli")
def _bernoulli(call: Call) -> Expr:
    p = call[0]
    dtype = element_dtype(call.attributes["dtype"]) if "dtype" in call.attributes else p.dtype
    return random.bernoulli(_key(call), p).astype(dtype)


@reads("Multinomial")
def _multinomial(call: Call) -> Expr:
    """Classes from unnormalised log probabilities [batch, classes]: [batch, sample_size]."""
    logits, count = call[0], int(call.attr("sample_size", 1))
    wide = broadcast_to(logits[:, None, :], (logits.shape[0], count, logits.shape[1]))
    return random.categorical(_key(call), wide).astype(element_dtype(call.attr("dtype", 6)))


@reads("Dropout")
def _dropout(call: Call) -> list[Expr | None]:
    """The value itself, as at inference, or in training mode what a mask leaves, and the mask."""
    x = call[0]
    training = bool(call.numbers(2).reshape(())) if call.has(2) else False
    ratio = float(call.numbers(1).reshape(())) if call.has(1) else float(call.attr("ratio", 0.5))
    if not training or ratio == 0.0:
        return [x, array.full(x.shape, True, "bool")]
    kept = random.bernoulli(_key(call), 1.0 - ratio, x.shape)
    scale = 1 / (1 - ratio) if ratio < 1 else 0.0
    return [array.where(kept, x * np.asarray(scale, x.dtype), array.zeros_like(x)), kept]
