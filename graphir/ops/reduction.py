"""Reductions other than the sum, and softmax. `mean`, `var` and the like are built from these in `graphir.array`."""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op, Rule
from graphir.ops.arithmetic import divide, multiply, subtract, tie_share
from graphir.ops.few import one_by_one
from graphir.ops.layout import (
    element_count,
    infer_reduction,
    inverse,
    permute,
    reduce_sum,
    reduction_axes,
    reshape,
    spread,
)
from graphir.ops.rules import NUMBERS, letters, need_axis, need_kind
from graphir.ops.scans import other_products
from graphir.ops.select import stop_gradient
from graphir.ops.transcendental import exp, finite_or_zero
from graphir.types import INT64, TensorType

_MATRIX = Sample((3, 4))


def _reduction(name: str, doc: str, kernel: Rule, combine: str, kinds: str, vjp: Any, **more: Any) -> Op:
    def infer(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
        need_kind(x, kinds)
        return infer_reduction(x, axes=axes)

    sample = Sample((3, 4), "bool") if kinds == "b" else _MATRIX
    cube = Sample((2, 3, 4), "bool") if kinds == "b" else Sample((2, 3, 4), "float64", 0.5, 2.0)
    return Op(
        name,
        doc,
        arity=1,
        attrs={"axes": "ints"},
        infer=infer,
        kernel=kernel,
        vjp=vjp,
        axes=reduction_axes(combine),
        examples=(Example((sample,), {"axes": (0,)}), Example((cube,), {"axes": (0, 2)})),
        **more,
    )


def _extremum_vjp(ct: Node, out: Node, x: Node, *, axes: tuple[int, ...]) -> Node:
    """Shared evenly among the elements that are extremal, which tie with the result."""
    shares = tie_share(x, spread(out, x, axes)) if out.op is reduce_max else tie_share(spread(out, x, axes), x)
    return multiply(spread(divide(ct, reduce_sum(shares, axes=axes)), x, axes), shares)


def _prod_vjp(ct: Node, out: Node, x: Node, *, axes: tuple[int, ...]) -> Node:
    """The products of the other elements, by running products from both ends: exact to any order at zeros."""
    order = (*(axis for axis in range(x.type.rank) if axis not in axes), *axes)
    last = permute(x, axes=order)
    kept = last.type.shape[: x.type.rank - len(axes)]
    rows = reshape(last, shape=(*kept, element_count(last.type.shape[len(kept) :])))
    others = reshape(other_products(rows, len(kept)), shape=last.type.shape)
    return multiply(spread(ct, x, axes), permute(others, axes=inverse(order)))


def _logsumexp_kernel(x: Array, *, axes: tuple[int, ...]) -> Array:
    top = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, np.zeros((), x.dtype))
    with np.errstate(divide="ignore"):
        total = np.log(np.sum(np.exp(x - top), axis=axes, keepdims=True))
    return np.asarray(np.squeeze(total + top, axis=axes), x.dtype)


def _extremum(two: np.ufunc) -> Rule:
    def kernel(x: Array, *, axes: tuple[int, ...]) -> Array:
        found = one_by_one(x, axes, two)
        return np.asarray(two.reduce(x, axis=axes)) if found is None else found

    return kernel


reduce_max: Op = _reduction(
    "max",
    "The largest element over axes; NaN if one is.",
    _extremum(np.maximum),
    "max",
    NUMBERS,
    (_extremum_vjp,),
)
reduce_min: Op = _reduction(
    "min",
    "The smallest element over axes; NaN if one is.",
    _extremum(np.minimum),
    "min",
    NUMBERS,
    (_extremum_vjp,),
)
reduce_prod: Op = _reduction(
    "prod",
    "The product over axes, in the input's dtype.",
    lambda x, *, axes: np.asarray(np.prod(x, axis=axes, dtype=x.dtype)),
    "prod",
    NUMBERS,
    (_prod_vjp,),
)
reduce_all: Op = _reduction(
    "all",
    "Whether all elements hold.",
    lambda x, *, axes: np.asarray(np.all(x, axis=axes)),
    "all",
    "b",
    "bool carries no derivative",
)
reduce_any: Op = _reduction(
    "any",
    "Whether any element holds.",
    lambda x, *, axes: np.asarray(np.any(x, axis=axes)),
    "any",
    "b",
    "bool carries no derivative",
)
logsumexp: Op = _reduction(
    "logsumexp",
    "log(sum(exp(x))) over axes without overflow.",
    _logsumexp_kernel,
    "logaddexp",
    "f",
    (
        lambda ct, out, x, *, axes: multiply(
            spread(ct, x, axes), exp(subtract(x, spread(finite_or_zero(out), x, axes)))
        ),
    ),
    cost=12,
)

# ---- softmax ----


def _infer_softmax(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    need_kind(x, "f")
    infer_reduction(x, axes=axes)
    return x


def _softmax_kernel(x: Array, *, axes: tuple[int, ...]) -> Array:
    powers = np.exp(x - np.max(x, axis=axes, keepdims=True))
    return np.asarray(powers / np.sum(powers, axis=axes, keepdims=True))


def _softmax_vjp(ct: Node, out: Node, x: Node, *, axes: tuple[int, ...]) -> Node:
    along = spread(reduce_sum(multiply(ct, out), axes=axes), x, axes)
    return multiply(out, subtract(ct, along))


def _softmax_from_sums(x: Node, *, axes: tuple[int, ...]) -> Node:
    powers = exp(subtract(x, spread(stop_gradient(reduce_max(x, axes=axes)), x, axes)))
    return divide(powers, spread(reduce_sum(powers, axes=axes), x, axes))


def _softmax_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names = letters(types[0].rank)
    return AxisRule((names,), names, None, frozenset(names[axis] for axis in attrs["axes"]))


softmax: Op = Op(
    "softmax",
    "exp(x) / sum(exp(x)) over axes, without overflow.",
    arity=1,
    attrs={"axes": "ints"},
    infer=_infer_softmax,
    kernel=_softmax_kernel,
    vjp=(_softmax_vjp,),
    axes=_softmax_axes,
    examples=(Example((_MATRIX,), {"axes": (1,)}), Example((_MATRIX,), {"axes": (0, 1)})),
    decompose=_softmax_from_sums,
    cost=12,
)

# ---- positions ----


def _arg(name: str, doc: str, kernel: Rule) -> Op:
    def infer(x: TensorType, *, axis: int) -> TensorType:
        need_kind(x, NUMBERS)
        need_axis(x, axis)
        return infer_reduction(x, axes=(axis,)).with_dtype(INT64)

    def axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
        names = letters(types[0].rank)
        gone = names[attrs["axis"]]
        return AxisRule((names,), tuple(n for n in names if n != gone), None, frozenset({gone}))

    return Op(
        name,
        doc,
        arity=1,
        attrs={"axis": "int"},
        infer=infer,
        kernel=lambda x, *, axis: np.asarray(kernel(x, axis=axis), np.int64),
        vjp="a position: it carries no derivative",
        axes=axes,
        examples=(Example((_MATRIX,), {"axis": 0}), Example((_MATRIX,), {"axis": 1})),
    )


argmax: Op = _arg("argmax", "The position of the first largest element along an axis.", np.argmax)
argmin: Op = _arg("argmin", "The position of the first smallest element along an axis.", np.argmin)
