"""Shapes and indexing on expressions: the Array API's manipulation functions, and `x[...]`.

Indexing follows numpy: ints, slices, None, ... and integer arrays, which broadcast against one another. A mask is
refused, for the size of what it picks depends on values.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphir import dims
from graphir.array import normal_axis
from graphir.dims import Dim
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import FUNCTIONS, Expr, as_expr, cast
from graphir.expr import broadcast_to as _broadcast_to
from graphir.node import Node
from graphir.ops import gather, indexing, layout
from graphir.origin import located
from graphir.types import INT64, as_shape, broadcast_shapes, promote


@located
def broadcast_to(x: Any, /, shape: Any) -> Expr:
    """x broadcast by numpy's rule."""
    return _broadcast_to(as_expr(x), as_shape(shape))


@located
def broadcast_arrays(*arrays: Any) -> list[Expr]:
    """All values broadcast to their common shape."""
    values = [as_expr(a) for a in arrays]
    shape: tuple[Dim, ...] = ()
    for value in values:
        shape = broadcast_shapes(shape, value.shape)
    return [_broadcast_to(value, shape) for value in values]


@located
def reshape(x: Any, /, shape: Any) -> Expr:
    """The same elements in row-major order; one entry may be -1 and is worked out, also symbolically."""
    value = as_expr(x)
    wanted = list(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else [shape]
    unknown = [axis for axis, d in enumerate(wanted) if isinstance(d, int | np.integer) and d == -1]
    if len(unknown) > 1:
        raise ShapeError(f"reshape can work out one -1, not {len(unknown)}, in {tuple(wanted)}")
    if unknown:
        rest = as_shape([d for axis, d in enumerate(wanted) if axis != unknown[0]])
        quotient = dims.exact_quotient(_product(value.shape), _product(rest)) if _product(rest) != 0 else None
        if quotient is None:
            raise ShapeError(f"cannot reshape {value.node.type} to {tuple(wanted)}: the -1 has no whole answer")
        wanted[unknown[0]] = quotient
    target = as_shape(wanted)
    return value if target == value.shape else Expr(layout.reshape(value.node, shape=target))


def _product(shape: tuple[Dim, ...]) -> Dim:
    total: Dim = 1
    for d in shape:
        total = dims.multiply(total, d)
    return total


@located
def expand_dims(x: Any, /, axis: Any = 0) -> Expr:
    """x with new axes of size 1, at these places of the result."""
    value = as_expr(x)
    several = axis if isinstance(axis, Sequence) else (axis,)
    new = [normal_axis(a, value.ndim + len(several)) for a in several]
    if len(set(new)) != len(new):
        raise ShapeError(f"axis {axis} names an axis twice")
    shape = list(value.shape)
    for at in sorted(new):
        shape.insert(at, 1)
    return reshape(value, tuple(shape))


@located
def squeeze(x: Any, /, axis: Any) -> Expr:
    """x without axes of size 1."""
    value = as_expr(x)
    gone = {normal_axis(a, value.ndim) for a in (axis if isinstance(axis, Sequence) else (axis,))}
    wrong = [a for a in gone if value.shape[a] != 1]
    if wrong:
        raise ShapeError(f"cannot squeeze axis {wrong[0]} of {value.node.type}: its size is not 1")
    return reshape(value, tuple(d for a, d in enumerate(value.shape) if a not in gone))


@located
def permute_dims(x: Any, /, axes: Sequence[int]) -> Expr:
    """Axes in another order."""
    value = as_expr(x)
    return Expr(layout.permute(value.node, axes=tuple(normal_axis(a, value.ndim) for a in axes)))


@located
def transpose(x: Any, /, axes: Sequence[int] | None = None) -> Expr:
    """numpy's transpose: the axes reversed, or in the order given."""
    value = as_expr(x)
    return permute_dims(value, tuple(reversed(range(value.ndim))) if axes is None else axes)


@located
def matrix_transpose(x: Any, /) -> Expr:
    """The last two axes exchanged."""
    return as_expr(x).mT


@located
def moveaxis(x: Any, source: Any, destination: Any, /) -> Expr:
    """One axis, or several, moved to other places; the others keep their order."""
    value = as_expr(x)
    pairs = []
    for given in (source, destination):
        several = given if isinstance(given, Sequence) else (given,)
        pairs.append([normal_axis(a, value.ndim) for a in several])
    start, end = pairs
    if len(start) != len(end) or len(set(start)) != len(start) or len(set(end)) != len(end):
        raise ShapeError(f"moveaxis needs as many places as axes, each once; got {source} to {destination}")
    order = [a for a in range(value.ndim) if a not in start]
    for place, axis in sorted(zip(end, start, strict=True)):
        order.insert(place, axis)
    return permute_dims(value, order)


@located
def flip(x: Any, /, axis: Any = None) -> Expr:
    """Axes in reverse order."""
    node = as_expr(x).node
    rank = node.type.rank
    for a in range(rank) if axis is None else axis if isinstance(axis, Sequence) else (axis,):
        node = layout.flip(node, axis=normal_axis(a, rank))
    return Expr(node)


@located
def concat(arrays: Sequence[Any], /, axis: int | None = 0) -> Expr:
    """Values joined along an axis; with axis=None flattened first."""
    values = [as_expr(a) for a in arrays]
    if not values:
        raise ShapeError("concat needs at least one value")
    if axis is None:
        values, axis = [reshape(v, (-1,)) for v in values], 0
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = promote(dtype, value.dtype)
    at = normal_axis(axis, values[0].ndim)
    return Expr(layout.concat(*[cast(v, dtype).node for v in values], axis=at))


@located
def stack(arrays: Sequence[Any], /, axis: int = 0) -> Expr:
    """Values of one shape joined along a new axis."""
    values = [as_expr(a) for a in arrays]
    different = [v for v in values if v.shape != values[0].shape]
    if different:
        raise ShapeError(f"cannot stack {values[0].node.type} and {different[0].node.type}: the shapes must be equal")
    return concat([expand_dims(v, axis) for v in values], axis)


@located
def unstack(x: Any, /, axis: int = 0) -> tuple[Expr, ...]:
    """The slices along an axis of known size."""
    return tuple(moveaxis(x, axis, 0))


# ---- x[...] ----


def getitem(x: Expr, key: Any) -> Expr:
    """x[key] as in numpy; named sizes keep slices symbolic."""
    keys = _expanded(x, key)
    if any(type(k) is Expr for k in keys):
        return _pick_at(x, keys)
    result, axis, shape = x, 0, []
    for k in keys:
        if k is None:
            shape.append(dims.dim(1))
            continue
        if isinstance(k, slice):
            result = _slice(result, axis, k)
            shape.append(result.shape[axis])
        else:
            result = _pick(result, axis, k)
        axis += 1
    return reshape(result, tuple(shape))


def _expanded(x: Expr, key: Any) -> list[Any]:
    """One key for each axis of x, and the Nones between them."""
    keys = [_checked(x, k) for k in (key if isinstance(key, tuple) else (key,))]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > x.ndim:
        raise ShapeError(f"too many indices for {x.node.type}: {used} for {x.ndim} axes")
    dots = [position for position, k in enumerate(keys) if k is Ellipsis]
    if len(dots) > 1:
        raise AttributeValueError("an index has at most one ...")
    at = dots[0] if dots else len(keys)
    keys[at : at + 1] = [slice(None)] * (x.ndim - used)
    return keys


def _checked(x: Expr, k: Any) -> Any:
    """A key as an int, a slice, None, ... or an expression of integers; typed errors for anything else."""
    if k is None or k is Ellipsis or isinstance(k, slice):
        return k
    if isinstance(k, np.ndarray) and k.ndim == 0:
        k = k[()]
    if isinstance(k, list | np.ndarray):
        k = as_expr(k if len(k) else np.asarray(k, np.int64))
    if isinstance(k, bool | np.bool_) or (type(k) is Expr and k.dtype.kind == "b"):
        raise DTypeError(
            f"cannot index {x.node.type} with a mask: the size of the result would depend on values; "
            "use gi.where(mask, x, other)"
        )
    if type(k) is Expr:
        if k.dtype.kind not in "iu":
            raise DTypeError(f"indices are integers, not {k.node.type}; cast them")
        return cast(k, INT64)
    if isinstance(k, int | np.integer):
        return int(k)
    raise AttributeValueError(
        f"cannot index {x.node.type} with {k!r:.60}; use ints, slices, None, ... and arrays of integers"
    )


def _pick(x: Expr, axis: int, k: int) -> Expr:
    """The slice of length 1 at one position; the caller drops the axis."""
    if x.shape[axis] == 1 and k in (0, -1):
        return x
    _need_position(x, axis, k, k)
    start = _bound(k, x.shape[axis])
    return Expr(layout.slice_(x.node, axis=axis, start=start, stop=dims.add(start, 1), step=1))


def _need_position(x: Expr, axis: int, least: int, most: int) -> None:
    """ShapeError if the axis has a known size and a position is outside it."""
    size = x.shape[axis]
    if isinstance(size, int) and not -size <= least <= most < size:
        bad = most if most >= size else least
        raise ShapeError(f"index {bad} is out of range for axis {axis} of {x.node.type}")


def _pick_at(x: Expr, keys: list[Any]) -> Expr:
    """Integer arrays among the keys; ints beside them count as arrays.

    The arrays' common axes stand in the place of the arrays where these are neighbours, otherwise in front.
    """
    picked = [position for position, k in enumerate(keys) if isinstance(k, int) or type(k) is Expr]
    together = picked[-1] - picked[0] + 1 == len(picked)
    result, axis = x, 0
    arrays: dict[int, Expr] = {}
    for k in keys:
        if isinstance(k, slice):
            result = _slice(result, axis, k)
        elif k is not None:
            arrays[axis] = _positions(x, axis, k)
        axis += k is not None
    indices = broadcast_arrays(*arrays.values())
    first = min(arrays) if together else 0
    common = indices[0].shape
    node = _gathered(result, tuple(arrays), indices, first)
    rest = iter([d for a, d in enumerate(result.shape) if a not in arrays])
    shape: list[Dim] = [] if together else [*common]
    for position, k in enumerate(keys):
        if k is None:
            shape.append(1)
        elif isinstance(k, slice):
            shape.append(next(rest))
        elif together and position == picked[0]:
            shape.extend(common)
    return reshape(Expr(node), tuple(shape))


def _positions(x: Expr, axis: int, k: int | Expr) -> Expr:
    index = as_expr(np.asarray(k, np.int64)) if isinstance(k, int) else k
    if index.node.op.name == "constant":
        array = index.node.attr("value").array
        if array.size:
            _need_position(x, axis, int(array.min()), int(array.max()))
    return index


def _gathered(x: Expr, axes: tuple[int, ...], indices: list[Expr], first: int) -> Node:
    """The picked elements, with the indices' axes from place `first` on."""
    if len(axes) == 1:
        return indexing.take(x.node, indices[0].node, axis=axes[0])
    node = gather.take_at(x.node, *[index.node for index in indices], axes=axes)
    front = range(indices[0].ndim)
    rest = range(len(front), node.type.rank)
    order = (*rest[:first], *front, *rest[first:])
    return layout.permute(node, axes=order) if first else node


def _slice(x: Expr, axis: int, k: slice) -> Expr:
    if k == slice(None):
        return x
    size, step = x.shape[axis], 1 if k.step is None else int(k.step)
    if step == 0:
        raise AttributeValueError("a slice's step cannot be 0")
    known = isinstance(size, int) and not isinstance(k.start, str) and not isinstance(k.stop, str)
    if step < 0:
        return _slice_back(x, axis, k, known)
    if known:
        start, stop, step = k.indices(int(size))
        return Expr(layout.slice_(x.node, axis=axis, start=start, stop=max(start, stop), step=step))
    first = 0 if k.start is None else _bound(k.start, size)
    last = size if k.stop is None else _bound(k.stop, size)
    return Expr(layout.slice_(x.node, axis=axis, start=first, stop=last, step=step))


def _slice_back(x: Expr, axis: int, k: slice, known: bool) -> Expr:
    """A slice with a negative step: the same elements forwards, then in reverse order."""
    if k.start is None and k.stop is None:
        return _slice(flip(x, axis), axis, slice(None, None, -k.step))
    if not known:
        raise AttributeValueError(
            f"a slice of axis {axis} of {x.node.type} with a negative step takes the whole axis, for its size is not "
            "a number; slice first, then [::-1]"
        )
    taken = range(*k.indices(int(x.shape[axis])))[::-1]
    return flip(_slice(x, axis, slice(taken[0], taken[-1] + 1, taken.step) if taken else slice(0, 0)), axis)


def _bound(k: Any, size: Dim) -> Dim:
    """A position from the front: negative ones count from the end, named ones are taken as they are."""
    if isinstance(k, str):
        return dims.dim(k)
    return int(k) if k >= 0 else dims.subtract(size, -int(k))


FUNCTIONS |= {
    function.__name__: function
    for function in (
        broadcast_to, broadcast_arrays, reshape, expand_dims, squeeze, permute_dims, transpose, matrix_transpose,
        moveaxis, flip, concat, stack, unstack, getitem,
    )
}  # fmt: skip
