"""Linear moves of elements, and the sum, which is the adjoint of a broadcast. Each vjp is an op of this file."""

import itertools
from typing import Any

import numpy as np

from graphir import dims
from graphir.axes import AxisRule
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op
from graphir.ops.few import one_by_one
from graphir.ops.rules import NUMBERS, letters, need_axis, need_kind
from graphir.ops.sources import literal
from graphir.types import Shape, TensorType, show_shape

_MATRIX = (Sample((3, 4)),)

# ---- reshape ----


def _groups(source: Shape, target: Shape) -> list[tuple[range, range]]:
    """Runs of source axes and of target axes with equal products, finest first."""
    left, right = _first_at(source), _first_at(target)
    common = [product for product in left if product in right]
    return [(range(left[a], left[b]), range(right[a], right[b])) for a, b in itertools.pairwise(common) if b != 0]


def _first_at(shape: Shape) -> dict[Dim, int]:
    """For each product of leading sizes: the number of axes that first makes it."""
    total: Dim = 1
    found: dict[Dim, int] = {1: 0}
    for axis, d in enumerate(shape):
        total = dims.multiply(total, d)
        found.setdefault(total, axis + 1)
    return found


def element_count(shape: Shape) -> Dim:
    """The product of sizes."""
    total: Dim = 1
    for d in shape:
        total = dims.multiply(total, d)
    return total


def _infer_reshape(x: TensorType, *, shape: Shape) -> TensorType:
    if element_count(x.shape) != element_count(shape):
        raise ShapeError(
            f"cannot reshape {x} to {show_shape(shape)}: {element_count(x.shape)} elements do not make {element_count(shape)}"
        )
    return x.with_shape(shape)


def _reshape_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    """The first axis longer than 1 on either side of each group is one factor; the others are whole."""
    source, target = types[0].shape, attrs["shape"]
    left, right = list(letters(len(source), "x")), list(letters(len(target), "y"))
    for number, (from_axes, to_axes) in enumerate(_groups(source, target)):
        i = next(axis for axis in from_axes if source[axis] != 1)
        j = next(axis for axis in to_axes if target[axis] != 1)
        if _divides(source[i], target[j]):
            left[i] = right[j] = f"g{number}"
    whole = frozenset(name for name in (*left, *right) if not name.startswith("g"))
    return AxisRule((tuple(left),), tuple(right), None, whole)


def _divides(a: Dim, b: Dim) -> bool:
    """Whether cutting the smaller of two leading axes at any point cuts the other at a whole point."""
    return dims.exact_quotient(a, b) is not None or dims.exact_quotient(b, a) is not None


reshape: Op = Op(
    "reshape",
    "The same elements in row-major order under another shape.",
    arity=1,
    attrs={"shape": "dims"},
    infer=_infer_reshape,
    kernel=lambda x, *, shape: np.reshape(x, shape),
    vjp=(lambda ct, out, x, *, shape: reshape(ct, shape=x.type.shape),),
    axes=_reshape_axes,
    examples=(
        Example((Sample((6, 4)),), {"shape": (6, 2, 2)}),
        Example((Sample((3, 2, 4)),), {"shape": (6, 4)}),
        Example((Sample((12,)),), {"shape": (3, 1, 4)}),
        Example((Sample((2, 6)),), {"shape": (3, 4)}),
    ),
    linear=True,
    cheap=True,
)

# ---- permute ----


def _infer_permute(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    if sorted(axes) != list(range(x.rank)):
        raise ShapeError(f"axes {axes} are not a permutation of the {x.rank} axes of {x}")
    return x.with_shape(tuple(x.shape[axis] for axis in axes))


def _permute_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names = letters(types[0].rank)
    return AxisRule((names,), tuple(names[axis] for axis in attrs["axes"]))


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `axes`."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


permute: Op = Op(
    "permute",
    "Axes in another order: axis k of the output is axis axes[k] of the input.",
    arity=1,
    attrs={"axes": "ints"},
    infer=_infer_permute,
    kernel=lambda x, *, axes: np.transpose(x, axes),
    vjp=(lambda ct, out, x, *, axes: permute(ct, axes=inverse(axes)),),
    axes=_permute_axes,
    examples=(Example(_MATRIX, {"axes": (1, 0)}), Example((Sample((2, 3, 4)),), {"axes": (2, 0, 1)})),
    linear=True,
    cheap=True,
)

# ---- broadcast and sum ----


def _infer_broadcast(x: TensorType, *, shape: Shape, axes: tuple[int, ...]) -> TensorType:
    if len(axes) != x.rank or list(axes) != sorted(set(axes)) or any(not 0 <= axis < len(shape) for axis in axes):
        raise ShapeError(f"broadcast needs increasing output axes, one for each axis of {x}; got {axes}")
    wrong = [k for k, axis in enumerate(axes) if x.shape[k] != shape[axis]]
    if wrong:
        raise ShapeError(f"cannot broadcast {x} to {show_shape(shape)} along axes {axes}: axis {wrong[0]} differs")
    return x.with_shape(shape)


def _broadcast_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names = letters(len(attrs["shape"]))
    return AxisRule((tuple(names[axis] for axis in attrs["axes"]),), names)


def _broadcast_kernel(x: Array, *, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    kept = dict(zip(axes, x.shape, strict=True))
    return np.broadcast_to(x.reshape([kept.get(axis, 1) for axis in range(len(shape))]), shape)


def _new_axes(x: Node, shape: Shape, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(shape)) if axis not in axes)


broadcast: Op = Op(
    "broadcast",
    "Repeat along new axes: axis k of the input becomes axis axes[k] of the output, with the same size.",
    arity=1,
    attrs={"shape": "dims", "axes": "ints"},
    infer=_infer_broadcast,
    kernel=_broadcast_kernel,
    vjp=(lambda ct, out, x, *, shape, axes: reduce_sum(ct, axes=_new_axes(x, shape, axes)),),
    axes=_broadcast_axes,
    examples=(
        Example((Sample((4,)),), {"shape": (3, 4), "axes": (1,)}),
        Example((Sample(()),), {"shape": (2, 3), "axes": ()}),
        Example((Sample((3, 2)),), {"shape": (3, 5, 2), "axes": (0, 2)}),
    ),
    linear=True,
    cheap=True,
)


def infer_reduction(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    """The input without `axes`, which must be distinct, increasing and not empty."""
    if list(axes) != sorted(set(axes)):
        raise ShapeError(f"axes {axes} must be distinct and increasing")
    for axis in axes:
        need_axis(x, axis)
    return x.with_shape(tuple(d for axis, d in enumerate(x.shape) if axis not in axes))


def reduction_axes(combine: str) -> Any:
    """The axis rule of a reduction: reduced factors are combined by an operator."""

    def axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
        names = letters(types[0].rank)
        return AxisRule((names,), tuple(n for axis, n in enumerate(names) if axis not in attrs["axes"]), combine)

    return axes


def spread(value: Node, like: Node, axes: tuple[int, ...]) -> Node:
    """Broadcast the result of a reduction of `like` over `axes` back to its shape."""
    kept = tuple(axis for axis in range(like.type.rank) if axis not in axes)
    return broadcast(value, shape=like.type.shape, axes=kept)


def _sum_kernel(x: Array, *, axes: tuple[int, ...]) -> Array:
    found = one_by_one(x, axes, np.add)
    return np.asarray(np.sum(x, axis=axes, dtype=x.dtype)) if found is None else found


def _infer_sum(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    need_kind(x, NUMBERS, "cast bool to an integer first")
    return infer_reduction(x, axes=axes)


reduce_sum: Op = Op(
    "sum",
    "Sum over axes, in the input's dtype.",
    arity=1,
    attrs={"axes": "ints"},
    infer=_infer_sum,
    kernel=_sum_kernel,
    vjp=(lambda ct, out, x, *, axes: spread(ct, x, axes),),
    axes=reduction_axes("sum"),
    examples=(
        Example(_MATRIX, {"axes": (0,)}),
        Example(_MATRIX, {"axes": (0, 1)}),
        Example((Sample((2, 3, 4)),), {"axes": (1,)}),
        Example((Sample((3, 4), "int32", -5, 5),), {"axes": (1,)}),
    ),
    linear=True,
)

# ---- slice and its adjoint, place ----


def slice_length(start: Dim, stop: Dim, step: int) -> Dim:
    """How many elements start:stop:step takes."""
    return dims.floordiv(dims.add(dims.subtract(stop, start), step - 1), step)


def _infer_slice(x: TensorType, *, axis: int, start: Dim, stop: Dim, step: int) -> TensorType:
    need_axis(x, axis)
    size = x.shape[axis]
    if step < 1 or (isinstance(start, int) and start < 0):
        raise AttributeValueError(f"a slice needs step >= 1 and start >= 0, not {start}:{stop}:{step}")
    if isinstance(size, int) and isinstance(stop, int) and stop > size:
        raise ShapeError(f"slice {start}:{stop} ends after axis {axis} of {x}")
    if isinstance(start, int) and isinstance(stop, int) and start > stop:
        raise ShapeError(f"slice {start}:{stop} starts after it ends")
    return x.with_shape((*x.shape[:axis], slice_length(start, stop, step), *x.shape[axis + 1 :]))


def _slice_kernel(x: Array, *, axis: int, start: int, stop: int, step: int) -> Array:
    if not 0 <= start <= stop <= x.shape[axis]:
        raise ShapeError(f"slice {start}:{stop} does not fit axis {axis} of size {x.shape[axis]}")
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


def _one_axis(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    """All axes but `axis` are kept; that one may not be cut."""
    names, axis = letters(types[0].rank), attrs["axis"]
    out = (*names[:axis], "y", *names[axis + 1 :])
    return AxisRule((names,), out, None, frozenset({names[axis], "y"}))


slice_: Op = Op(
    "slice",
    "Elements start:stop:step of one axis; start >= 0, step >= 1.",
    arity=1,
    attrs={"axis": "int", "start": "dim", "stop": "dim", "step": "int"},
    infer=_infer_slice,
    kernel=_slice_kernel,
    vjp=(
        lambda ct, out, x, *, axis, start, stop, step: place(
            ct, axis=axis, size=x.type.shape[axis], start=start, step=step
        ),
    ),
    axes=_one_axis,
    examples=(
        Example(_MATRIX, {"axis": 1, "start": 1, "stop": 3, "step": 1}),
        Example((Sample((7, 2)),), {"axis": 0, "start": 1, "stop": 7, "step": 3}),
    ),
    linear=True,
    cheap=True,
)


def _infer_place(x: TensorType, *, axis: int, size: Dim, start: Dim, step: int) -> TensorType:
    need_axis(x, axis)
    end = dims.add(start, dims.multiply(step, x.shape[axis]))
    if isinstance(end, int) and isinstance(size, int) and end - step + 1 > size and x.shape[axis]:
        raise ShapeError(f"{x} does not fit into size {size} of axis {axis} from {start} in steps of {step}")
    return x.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :]))


def _place_kernel(x: Array, *, axis: int, size: int, start: int, step: int) -> Array:
    out = np.zeros((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)
    stop = start + (x.shape[axis] - 1) * step + 1 if x.shape[axis] else start
    if stop > size:
        raise ShapeError(f"{x.shape[axis]} elements from {start} in steps of {step} do not fit into size {size}")
    out[(slice(None),) * axis + (slice(start, stop, step),)] = x
    return out


def _place_vjp(ct: Node, out: Node, x: Node, *, axis: int, size: Dim, start: Dim, step: int) -> Node:
    stop = dims.add(dims.add(start, dims.multiply(dims.subtract(x.type.shape[axis], 1), step)), 1)
    return slice_(ct, axis=axis, start=start, stop=stop if x.type.shape[axis] != 0 else start, step=step)


place: Op = Op(
    "place",
    "Zeros of `size` along one axis with the input written at start, start + step, ...: the adjoint of slice.",
    arity=1,
    attrs={"axis": "int", "size": "dim", "start": "dim", "step": "int"},
    infer=_infer_place,
    kernel=_place_kernel,
    vjp=(_place_vjp,),
    axes=_one_axis,
    examples=(
        Example(_MATRIX, {"axis": 1, "size": 9, "start": 1, "step": 2}),
        Example(_MATRIX, {"axis": 0, "size": 5, "start": 0, "step": 1}),
    ),
    linear=True,
)

# ---- flip, concat ----


def _infer_flip(x: TensorType, *, axis: int) -> TensorType:
    need_axis(x, axis)
    return x


flip: Op = Op(
    "flip",
    "One axis in reverse order.",
    arity=1,
    attrs={"axis": "int"},
    infer=_infer_flip,
    kernel=lambda x, *, axis: np.flip(x, axis),
    vjp=(lambda ct, out, x, *, axis: flip(ct, axis=axis),),
    axes=_one_axis,
    examples=(Example(_MATRIX, {"axis": 1}),),
    linear=True,
    cheap=True,
)


def _infer_concat(*types: TensorType, axis: int) -> TensorType:
    if not types:
        raise ShapeError("concat needs at least one value")
    need_axis(types[0], axis)
    total: Dim = 0
    for type_ in types:
        rest = type_.shape[:axis] + type_.shape[axis + 1 :]
        if (
            type_.rank != types[0].rank
            or type_.dtype != types[0].dtype
            or rest != types[0].shape[:axis] + types[0].shape[axis + 1 :]
        ):
            raise ShapeError(f"cannot concatenate {types[0]} and {type_} along axis {axis}: the other axes must agree")
        total = dims.add(total, type_.shape[axis])
    return types[0].with_shape((*types[0].shape[:axis], total, *types[0].shape[axis + 1 :]))


def _concat_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names, axis = letters(types[0].rank), attrs["axis"]
    own = [f"x{k}" for k in range(len(types))]
    inputs = tuple((*names[:axis], own[k], *names[axis + 1 :]) for k in range(len(types)))
    return AxisRule(inputs, (*names[:axis], "y", *names[axis + 1 :]), None, frozenset({*own, "y"}))


def _concat_vjp(position: int, ct: Node, out: Node, *inputs: Node, axis: int) -> Node:
    start: Dim = 0
    for before in inputs[:position]:
        start = dims.add(start, before.type.shape[axis])
    return slice_(ct, axis=axis, start=start, stop=dims.add(start, inputs[position].type.shape[axis]), step=1)


concat: Op = Op(
    "concat",
    "Values joined along an existing axis.",
    arity=None,
    attrs={"axis": "int"},
    infer=_infer_concat,
    kernel=lambda *xs, axis: np.concatenate(xs, axis),
    vjp=_concat_vjp,
    axes=_concat_axes,
    examples=(
        Example((Sample((3, 2)), Sample((3, 4)), Sample((3, 1))), {"axis": 1}),
        Example((Sample((2, 3)),), {"axis": 0}),
    ),
    linear=True,
)

# ---- values like another ----


def fill_like(x: Node, value: float | bool) -> Node:
    """A constant with the type of `x`, broadcast from a 0-d constant."""
    scalar = literal(value, x.type.dtype)
    return scalar if not x.type.shape else broadcast(scalar, shape=x.type.shape, axes=())
