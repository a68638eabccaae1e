"""Running sums, running products, first-order linear recurrences and delays along one axis.

They are closed under differentiation: the adjoint of a running sum is a running sum from the other end, that of a
linear recurrence is a linear recurrence, and that of a running product is a recurrence times a running product. None
of them divides, so derivatives of any order are exact where elements are zero. Every kernel goes along the axis in
order, one element after the other.
"""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.dims import Dim
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op, Rule
from graphir.ops.arithmetic import multiply
from graphir.ops.layout import broadcast, flip
from graphir.ops.rules import FLOATS, NUMBERS, letters, need_axis, need_kind, need_same
from graphir.ops.sources import literal
from graphir.types import TensorType


def along_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    """The rule of an op that keeps the shape of its inputs and needs the whole of `axis`."""
    names = letters(types[0].rank)
    return AxisRule((names,) * len(types), names, None, frozenset({names[attrs["axis"]]}))


def full_at(x: Node, axis: int, size: Dim, value: float) -> Node:
    """A constant like x, of `size` along the axis."""
    shape = (*x.type.shape[:axis], size, *x.type.shape[axis + 1 :])
    return broadcast(literal(value, x.type.dtype), shape=shape, axes=())


def _infer_scan(x: TensorType, *, axis: int) -> TensorType:
    need_kind(x, NUMBERS, "cast bool to an integer first")
    need_axis(x, axis)
    return x


# ---- sums ----

cumulative_sum: Op = Op(
    "cumulative_sum",
    "The sums of the first 1, 2, ... elements along one axis, in the input's dtype.",
    arity=1,
    attrs={"axis": "int"},
    infer=_infer_scan,
    kernel=lambda x, *, axis: np.cumsum(x, axis=axis, dtype=x.dtype),
    vjp=(lambda ct, out, x, *, axis: flip(cumulative_sum(flip(ct, axis=axis), axis=axis), axis=axis),),
    axes=along_axes,
    examples=(
        Example((Sample((3, 4)),), {"axis": 1}),
        Example((Sample((5, 2)),), {"axis": 0}),
        Example((Sample((0,), "float32"),), {"axis": 0}),
        Example((Sample((6,), "int32", -5, 5),), {"axis": 0}),
    ),
    linear=True,
)

# ---- linear recurrences ----


def _infer_delay(x: TensorType, *, axis: int, first: int) -> TensorType:
    need_kind(x, NUMBERS)
    need_axis(x, axis)
    return x


def _delay_kernel(x: Array, *, axis: int, first: int) -> Array:
    out = np.full_like(x, first)
    before = (slice(None),) * axis
    out[(*before, slice(1, None))] = x[(*before, slice(-1))]
    return out


def _hasten(x: Node, axis: int) -> Node:
    """Each element moved one place back along the axis; 0 comes in."""
    return flip(delay(flip(x, axis=axis), axis=axis, first=0), axis=axis)


delay: Op = Op(
    "delay",
    "Each element moved one place on along one axis; `first` comes in, the last element goes out.",
    arity=1,
    attrs={"axis": "int", "first": "int"},
    infer=_infer_delay,
    kernel=_delay_kernel,
    vjp=(lambda ct, out, x, *, axis, first: _hasten(ct, axis),),
    axes=along_axes,
    examples=(
        Example((Sample((3, 4)),), {"axis": 1, "first": 0}),
        Example((Sample((5, 2)),), {"axis": 0, "first": 1}),
        Example((Sample((0,), "float32"),), {"axis": 0, "first": 1}),
        Example((Sample((6,), "int32", -5, 5),), {"axis": 0, "first": -1}),
    ),
)


def _infer_recurrence(factors: TensorType, terms: TensorType, *, axis: int) -> TensorType:
    need_kind(terms, FLOATS)
    need_same((factors, terms))
    need_axis(terms, axis)
    return terms


def _recurrence_kernel(lag: int) -> Rule:
    """s[k] = factors[k - lag] * s[k - 1] + terms[k]"""

    def kernel(factors: Array, terms: Array, *, axis: int) -> Array:
        a, b = np.moveaxis(factors, axis, 0), np.moveaxis(terms, axis, 0)
        out = np.array(b)
        for k in range(1, len(out)):
            out[k] += a[k - lag] * out[k - 1]
        return np.moveaxis(out, 0, axis)

    return kernel


def _recurrence(name: str, doc: str, lag: int, by_factors: Rule, by_terms: Rule) -> Op:
    return Op(
        name,
        doc,
        arity=2,
        attrs={"axis": "int"},
        infer=_infer_recurrence,
        kernel=_recurrence_kernel(lag),
        vjp=(by_factors, by_terms),
        axes=along_axes,
        examples=(
            Example((Sample((3, 4)), Sample((3, 4))), {"axis": 1}),
            Example((Sample((5,)), Sample((5,))), {"axis": 0}),
            Example((Sample((0, 2), "float32"), Sample((0, 2), "float32")), {"axis": 0}),
        ),
        cost=2,
    )


def _from_the_end(recurrence: Op, factors: Node, ct: Node, axis: int) -> Node:
    return flip(recurrence(flip(factors, axis=axis), flip(ct, axis=axis), axis=axis), axis=axis)


def _linear_back(ct: Node, out: Node, factors: Node, terms: Node, *, axis: int) -> Node:
    """u[k] = ct[k] + factors[k + 1] * u[k + 1]"""
    return _from_the_end(delayed_recurrence, factors, ct, axis)


def _delayed_back(ct: Node, out: Node, factors: Node, terms: Node, *, axis: int) -> Node:
    """u[k] = ct[k] + factors[k] * u[k + 1]"""
    return _from_the_end(linear_recurrence, factors, ct, axis)


linear_recurrence: Op = _recurrence(
    "linear_recurrence",
    "s[k] = factors[k] * s[k - 1] + terms[k] along one axis, begun with s[0] = terms[0].",
    0,
    lambda ct, out, f, t, *, axis: multiply(_linear_back(ct, out, f, t, axis=axis), delay(out, axis=axis, first=0)),
    _linear_back,
)
delayed_recurrence: Op = _recurrence(
    "delayed_recurrence",
    "s[k] = factors[k - 1] * s[k - 1] + terms[k] along one axis, begun with s[0] = terms[0].",
    1,
    lambda ct, out, f, t, *, axis: multiply(out, _hasten(_delayed_back(ct, out, f, t, axis=axis), axis)),
    _delayed_back,
)

# ---- products ----


def _product_vjp(ct: Node, out: Node, x: Node, *, axis: int) -> Node:
    """What comes before an element, times the sum over j from it on of ct[j] and the elements between."""
    return multiply(exclusive_prod(x, axis=axis), _from_the_end(delayed_recurrence, x, ct, axis))


cumulative_prod: Op = Op(
    "cumulative_prod",
    "The products of the first 1, 2, ... elements along one axis, in the input's dtype.",
    arity=1,
    attrs={"axis": "int"},
    infer=_infer_scan,
    kernel=lambda x, *, axis: np.cumprod(x, axis=axis, dtype=x.dtype),
    vjp=(_product_vjp,),
    axes=along_axes,
    examples=(
        Example((Sample((3, 4)),), {"axis": 1}),
        Example((Sample((5, 2)),), {"axis": 0}),
        Example((Sample((0,), "float32"),), {"axis": 0}),
        Example((Sample((6,), "int32", -5, 5),), {"axis": 0}),
    ),
)


def _exclusive_kernel(x: Array, *, axis: int) -> Array:
    out = np.ones_like(x)
    before, after = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
    np.cumprod(x[before], axis=axis, dtype=x.dtype, out=out[after])
    return out


def _exclusive_vjp(ct: Node, out: Node, x: Node, *, axis: int) -> Node:
    """The same without the element's own ct."""
    return multiply(out, _hasten(_from_the_end(linear_recurrence, x, ct, axis), axis))


exclusive_prod: Op = Op(
    "exclusive_prod",
    "The products of the elements before each along one axis, in the input's dtype; 1 for the first.",
    arity=1,
    attrs={"axis": "int"},
    infer=_infer_scan,
    kernel=_exclusive_kernel,
    vjp=(_exclusive_vjp,),
    axes=along_axes,
    examples=(
        Example((Sample((3, 4)),), {"axis": 1}),
        Example((Sample((5, 2)),), {"axis": 0}),
        Example((Sample((0,), "float32"),), {"axis": 0}),
        Example((Sample((6,), "int32", -5, 5),), {"axis": 0}),
    ),
)


def other_products(x: Node, axis: int) -> Node:
    """For each element the product of all others along the axis: those before times those behind, no division."""
    behind = flip(exclusive_prod(flip(x, axis=axis), axis=axis), axis=axis)
    return multiply(exclusive_prod(x, axis=axis), behind)
