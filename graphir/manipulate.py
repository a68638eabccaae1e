"""Shapes and indexing on expressions: the Array API's manipulation functions, and `x[...]`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphir import dims
from graphir.array import normal_axis
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.expr import FUNCTIONS, Expr, as_expr, cast
from graphir.expr import broadcast_to as _broadcast_to
from graphir.ops import layout
from graphir.origin import located
from graphir.types import as_shape, broadcast_shapes, promote


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
def expand_dims(x: Any, /, axis: int = 0) -> Expr:
    """x with a new axis of size 1."""
    value = as_expr(x)
    at = normal_axis(axis, value.ndim + 1)
    return reshape(value, (*value.shape[:at], 1, *value.shape[at:]))


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
def moveaxis(x: Any, source: int, destination: int, /) -> Expr:
    """One axis moved to another place."""
    value = as_expr(x)
    order = [a for a in range(value.ndim) if a != normal_axis(source, value.ndim)]
    order.insert(normal_axis(destination, value.ndim), normal_axis(source, value.ndim))
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
    """Basic indexing: ints, slices, None and ... as in numpy; named sizes keep slices symbolic."""
    keys = list(key) if isinstance(key, tuple) else [key]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > x.ndim:
        raise ShapeError(f"too many indices for {x.node.type}: {used} for {x.ndim} axes")
    fill = [slice(None)] * (x.ndim - used)
    at = next((position for position, k in enumerate(keys) if k is Ellipsis), len(keys))
    keys[at : at + 1] = fill
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


def _pick(x: Expr, axis: int, k: Any) -> Expr:
    """The slice of length 1 at one position; the caller drops the axis."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise AttributeValueError(
            f"cannot index {x.node.type} with {k!r:.60}; use ints, slices, None and ..., or gi.take for arrays of positions"
        )
    if x.shape[axis] == 1 and k in (0, -1):
        return x
    start = _bound(int(k), x.shape[axis])
    if isinstance(start, int) and isinstance(x.shape[axis], int) and not 0 <= start < int(x.shape[axis]):
        raise ShapeError(f"index {k} is out of range for axis {axis} of {x.node.type}")
    return Expr(layout.slice_(x.node, axis=axis, start=start, stop=dims.add(start, 1), step=1))


def _slice(x: Expr, axis: int, k: slice) -> Expr:
    if k == slice(None):
        return x
    size, step = x.shape[axis], 1 if k.step is None else int(k.step)
    if step == 0:
        raise AttributeValueError("a slice's step cannot be 0")
    if step < 0:
        if k.start is not None or k.stop is not None:
            raise AttributeValueError(
                "a slice with a negative step takes the whole axis here; slice first, then [::-1]"
            )
        return _slice(flip(x, axis), axis, slice(None, None, -step))
    if isinstance(size, int) and not isinstance(k.start, str) and not isinstance(k.stop, str):
        start, stop, step = k.indices(size)
        return Expr(layout.slice_(x.node, axis=axis, start=start, stop=max(start, stop), step=step))
    first = 0 if k.start is None else _bound(k.start, size)
    last = size if k.stop is None else _bound(k.stop, size)
    return Expr(layout.slice_(x.node, axis=axis, start=first, stop=last, step=step))


def _bound(k: Any, size: Dim) -> Dim:
    """A position from the front: negative ones count from the end, named ones are taken as they are."""
    if isinstance(k, str):
        return dims.dim(k)
    return int(k) if k >= 0 else dims.subtract(size, -int(k))


FUNCTIONS |= {
    function.__name__: function
    for function in (
        broadcast_to, reshape, expand_dims, squeeze, permute_dims, transpose, moveaxis, flip, concat, stack, getitem,
    )
}  # fmt: skip
