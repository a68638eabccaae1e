"""The convolution and its two adjoints. Each is linear in both inputs, and each one's derivatives are the other two.

x: [batch, channels, sizes...], w: [filters, channels / groups, kernel...], y: [batch, filters, outputs...]. Window o of a
spatial axis begins at o * stride - before; what a window has outside the array counts as zero.
"""

from typing import Any

from graphir import dims
from graphir.axes import AxisRule
from graphir.dims import Dim
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Op
from graphir.ops.correlate import Ints, Windows, correlate, correlate_input, correlate_kernel
from graphir.ops.rules import NUMBERS, letters, need_kind
from graphir.types import TensorType

_ATTRS = {"strides": "ints", "dilations": "ints", "before": "ints", "groups": "dim"}


def _checked(a: TensorType, b: TensorType, groups: Dim, *lists: Ints) -> int:
    """The number of spatial axes; typed errors unless types and attributes fit one another in that."""
    need_kind(a, NUMBERS)
    if a.dtype != b.dtype:
        raise DTypeError(f"dtypes differ: {a} and {b}; cast one of them")
    rank = a.rank - 2
    if rank < 1 or a.rank != b.rank or any(isinstance(d, str) for d in (*a.shape[2:], *b.shape[2:])):
        raise ShapeError(
            f"a convolution needs two values with equally many axes, of known size from axis 2 on: {a}, {b}"
        )
    strides, dilations, _, sizes = lists
    if any(len(values) != rank for values in lists) or min(*strides, *dilations) < 1 or min(sizes) < 0:
        raise AttributeValueError(
            f"strides, dilations, before and sizes {lists} must have {rank} numbers that make sense"
        )
    if isinstance(groups, int) and groups < 1:
        raise AttributeValueError(f"groups {groups} must be at least 1")
    return rank


def _share(total: Dim, groups: Dim, what: str) -> Dim:
    """The part of one group."""
    share = dims.exact_quotient(total, groups)
    if share is None:
        raise ShapeError(f"{total} {what} do not divide into {groups} groups")
    return share


def _need(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise ShapeError(f"{what} must be {wanted}, not {found}")


def _infer_conv(
    x: TensorType, w: TensorType, *, strides: Ints, dilations: Ints, before: Ints, outputs: Ints, groups: Dim
) -> TensorType:
    _checked(x, w, groups, strides, dilations, before, outputs)
    _need(w.shape[1], _share(x.shape[1], groups, "channels"), "axis 1 of the kernels")
    _share(w.shape[0], groups, "filters")
    return x.with_shape((x.shape[0], w.shape[0], *outputs))


def _infer_input(
    y: TensorType, w: TensorType, *, strides: Ints, dilations: Ints, before: Ints, sizes: Ints, groups: Dim
) -> TensorType:
    _checked(y, w, groups, strides, dilations, before, sizes)
    _need(w.shape[0], y.shape[1], "axis 0 of the kernels")
    _share(w.shape[0], groups, "filters")
    return y.with_shape((y.shape[0], dims.multiply(groups, w.shape[1]), *sizes))


def _infer_kernel(
    x: TensorType, y: TensorType, *, strides: Ints, dilations: Ints, before: Ints, kernel: Ints, groups: Dim
) -> TensorType:
    _checked(x, y, groups, strides, dilations, before, kernel)
    _need(y.shape[0], x.shape[0], "axis 0 of the second value")
    _share(y.shape[1], groups, "filters")
    return x.with_shape((y.shape[1], _share(x.shape[1], groups, "channels"), *kernel))


# ---- kernels ----


def _conv(x: Array, w: Array, *, strides: Ints, dilations: Ints, before: Ints, outputs: Ints, groups: int) -> Array:
    return correlate(x, w, Windows(w.shape[2:], strides, dilations, before, outputs), groups)


def _input(y: Array, w: Array, *, strides: Ints, dilations: Ints, before: Ints, sizes: Ints, groups: int) -> Array:
    return correlate_input(y, w, Windows(w.shape[2:], strides, dilations, before, y.shape[2:]), sizes, groups)


def _kernel(x: Array, y: Array, *, strides: Ints, dilations: Ints, before: Ints, kernel: Ints, groups: int) -> Array:
    return correlate_kernel(x, y, Windows(kernel, strides, dilations, before, y.shape[2:]), groups)


# ---- axes ----


def _axes(operands: str, types: tuple[TensorType, ...], groups: Dim) -> AxisRule:
    """operands: which of x, w, y the two inputs and the output are. With groups neither channels nor filters are cut."""
    rank = types[0].rank - 2
    s, k, o = (letters(rank, letter) for letter in "sko")
    parts = {"x": ("n", "c" if groups == 1 else "g", *s), "w": ("f", "c", *k), "y": ("n", "f", *o)}
    whole = frozenset((*s, *k, *o)) if groups == 1 else frozenset((*s, *k, *o, "c", "g", "f"))
    first, second, out = (parts[operand] for operand in operands)
    return AxisRule((first, second), out, "sum", whole, frozenset((*k, *o, "c", "f")))


# ---- examples: strides, padding, dilations, groups, one to three axes ----


def _attrs(last: str, sizes: Ints, strides: Ints, dilations: Ints, before: Ints, groups: int = 1) -> dict[str, Any]:
    return {"strides": strides, "dilations": dilations, "before": before, last: sizes, "groups": groups}


_CASES: tuple[tuple[Ints, Ints, Ints, tuple[Ints, Ints, Ints], int], ...] = (
    ((2, 2, 4, 5), (3, 2, 2, 3), (2, 3, 3, 4), ((1, 1), (1, 1), (0, 1)), 1),
    ((2, 4, 6), (4, 2, 2), (2, 4, 3), ((2,), (2,), (1,)), 2),
    ((1, 1, 3, 2, 3), (2, 1, 2, 2, 1), (1, 2, 2, 1, 3), ((1, 1, 1), (1, 1, 1), (0, 0, 0)), 1),
)
"""Shapes of x, w and y; strides, dilations and before; groups."""


def _examples(operands: str, last: str) -> tuple[Example, ...]:
    made = []
    for x, w, y, windows, groups in _CASES:
        shapes = {"x": x, "w": w, "y": y}
        first, second, out = (shapes[operand] for operand in operands)
        made.append(Example((Sample(first), Sample(second)), _attrs(last, out[2:], *windows, groups)))
    return tuple(made)


conv: Op = Op(
    "conv",
    "The cross-correlation of [batch, channels, sizes...] with [filters, channels / groups, kernel...].",
    arity=2,
    attrs={**_ATTRS, "outputs": "ints"},
    infer=_infer_conv,
    kernel=_conv,
    vjp=(
        lambda ct, out, x, w, *, outputs, **attrs: conv_input(ct, w, sizes=x.type.shape[2:], **attrs),
        lambda ct, out, x, w, *, outputs, **attrs: conv_kernel(x, ct, kernel=w.type.shape[2:], **attrs),
    ),
    axes=lambda types, attrs: _axes("xwy", types, attrs["groups"]),
    examples=_examples("xwy", "outputs"),
    cost=2,
)

conv_input: Op = Op(
    "conv_input",
    "The adjoint of conv with respect to its first input, of `sizes`.",
    arity=2,
    attrs={**_ATTRS, "sizes": "ints"},
    infer=_infer_input,
    kernel=_input,
    vjp=(
        lambda ct, out, y, w, *, sizes, **attrs: conv(ct, w, outputs=y.type.shape[2:], **attrs),
        lambda ct, out, y, w, *, sizes, **attrs: conv_kernel(ct, y, kernel=w.type.shape[2:], **attrs),
    ),
    axes=lambda types, attrs: _axes("ywx", types, attrs["groups"]),
    examples=_examples("ywx", "sizes"),
    cost=2,
)

conv_kernel: Op = Op(
    "conv_kernel",
    "The adjoint of conv with respect to its kernels, of sizes `kernel`.",
    arity=2,
    attrs={**_ATTRS, "kernel": "ints"},
    infer=_infer_kernel,
    kernel=_kernel,
    vjp=(
        lambda ct, out, x, y, *, kernel, **attrs: conv_input(y, ct, sizes=x.type.shape[2:], **attrs),
        lambda ct, out, x, y, *, kernel, **attrs: conv(x, ct, outputs=y.type.shape[2:], **attrs),
    ),
    axes=lambda types, attrs: _axes("xyw", types, attrs["groups"]),
    examples=_examples("xyw", "kernel"),
    cost=2,
)
