"""numpy's statistics, and its elementwise functions that the standard does not have."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from graphir import arrange, array, manipulate
from graphir.array import constant, floating, normal_axis, where
from graphir.elementwise import abs as absolute
from graphir.elementwise import floor_divide, isnan, maximum, minimum, pow, remainder, sign, sin, trunc
from graphir.errors import AttributeValueError
from graphir.expr import NUMPY, Expr, as_expr, cast, match_dtypes
from graphir.numpy_api.layout import known, ravel
from graphir.origin import located

# ---- statistics ----


@located
def var(a: Any, axis: Any = None, *, ddof: float = 0, keepdims: bool = False, correction: float | None = None) -> Expr:
    """The variance over axes, divided by the number of elements less `ddof`."""
    return array.var(a, axis, correction=ddof if correction is None else correction, keepdims=keepdims)


@located
def std(a: Any, axis: Any = None, *, ddof: float = 0, keepdims: bool = False, correction: float | None = None) -> Expr:
    """The standard deviation over axes, of the variance with `ddof`."""
    return array.std(a, axis, correction=ddof if correction is None else correction, keepdims=keepdims)


@located
def average(a: Any, axis: int | None = None, weights: Any = None, *, keepdims: bool = False) -> Expr:
    """The mean over an axis, or over all, weighted if weights are given."""
    value = floating(a)
    if weights is None:
        return array.mean(value, axis, keepdims=keepdims)
    weight = as_expr(weights)
    if weight.ndim == 1 and value.ndim > 1 and axis is not None:
        at = normal_axis(axis, value.ndim)
        weight = manipulate.reshape(weight, tuple(-1 if k == at else 1 for k in range(value.ndim)))
    value, weight = match_dtypes(value, weight)
    weight = weight + array.zeros_like(value)
    total = array.sum(weight, axis, keepdims=keepdims)
    return array.sum(value * weight, axis, keepdims=keepdims) / total


@located
def median(a: Any, axis: int | None = None, *, keepdims: bool = False) -> Expr:
    """The middle element, or the mean of the two in the middle; NaN where there is one."""
    value = floating(a)
    flat, at = (ravel(value), 0) if axis is None else (value, normal_axis(axis, value.ndim))
    count = known(flat, at, "a median")
    middle = array.take(arrange.sort(flat, at), np.arange((count - 1) // 2, count // 2 + 1), axis=at)
    found = where(array.any(isnan(flat), axis=at), np.nan, array.mean(middle, at))
    if not keepdims:
        return found
    return manipulate.expand_dims(found, at if axis is not None else tuple(range(value.ndim)))


@located
def ptp(a: Any, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """The largest element less the smallest."""
    return array.max(a, axis, keepdims=keepdims) - array.min(a, axis, keepdims=keepdims)


def _skipping_nan(of: Callable[..., Expr], instead: float) -> Callable[..., Expr]:
    @located
    def reduction(a: Any, axis: Any = None, *, keepdims: bool = False) -> Expr:
        value = as_expr(a)
        if value.dtype.kind != "f":
            return of(value, axis, keepdims=keepdims)
        return of(where(isnan(value), constant(instead, value.dtype), value), axis, keepdims=keepdims)

    return reduction


@located
def nanmean(a: Any, axis: Any = None, *, keepdims: bool = False) -> Expr:
    """The mean of the elements that are not NaN."""
    value = floating(a)
    count = array.sum(cast(~isnan(value), value.dtype), axis, keepdims=keepdims)
    return NUMPY["nansum"](value, axis, keepdims=keepdims) / count  # type: ignore[no-any-return]


@located
def trapezoid(y: Any, x: Any = None, dx: float = 1.0, axis: int = -1) -> Expr:
    """The integral along an axis by the trapezoidal rule."""
    value = as_expr(y)
    at = normal_axis(axis, value.ndim)
    count = known(value, at, "an integral")
    first, second = (array.take(value, np.arange(count - 1) + k, axis=at) for k in (0, 1))
    width: Any = dx
    if x is not None:
        places = as_expr(x)
        width = arrange.diff(places, axis=-1 if places.ndim == 1 else at)
        if places.ndim == 1:
            width = manipulate.reshape(width, tuple(-1 if k == at else 1 for k in range(value.ndim)))
    return array.sum((first + second) * width / 2, axis=at)


# ---- elementwise ----


@located
def round_(a: Any, decimals: int = 0) -> Expr:
    """The nearest number of so many decimals, halves to even."""
    value = as_expr(a)
    if decimals == 0 or value.dtype.kind != "f":
        return array.round(value)
    scale = 10.0 ** abs(decimals)
    return array.round(value * scale) / scale if decimals > 0 else array.round(value / scale) * scale


@located
def divmod_(x1: Any, x2: Any) -> tuple[Expr, Expr]:
    """Floor division and its remainder."""
    return floor_divide(x1, x2), remainder(x1, x2)


@located
def fmax(x1: Any, x2: Any) -> Expr:
    """The larger one, or the one that is not NaN."""
    left, right = match_dtypes(as_expr(x1), as_expr(x2))
    return where(isnan(left), right, where(isnan(right), left, maximum(left, right)))


@located
def fmin(x1: Any, x2: Any) -> Expr:
    """The smaller one, or the one that is not NaN."""
    left, right = match_dtypes(as_expr(x1), as_expr(x2))
    return where(isnan(left), right, where(isnan(right), left, minimum(left, right)))


@located
def heaviside(x1: Any, x2: Any) -> Expr:
    """0 below zero, 1 above, x2 at zero, NaN at NaN."""
    left, right = match_dtypes(as_expr(x1), as_expr(x2), floats=True)
    return where(isnan(left), left, where(left == 0, right, cast(left > 0, left.dtype)))


@located
def cbrt(x: Any) -> Expr:
    """The real cube root."""
    value = floating(x)
    return sign(value) * pow(absolute(value), 1 / 3)


@located
def sinc(x: Any) -> Expr:
    """sin(pi x) / (pi x), and 1 at 0."""
    value = floating(x) * np.pi
    safe = where(value == 0, constant(1, value.dtype), value)
    return where(value == 0, constant(1, value.dtype), sin(safe) / safe)


@located
def nan_to_num(x: Any, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Expr:
    """x with other numbers for NaN and the infinities: 0 and the largest ones unless given."""
    value = as_expr(x)
    if value.dtype.kind != "f":
        return value
    limits = np.finfo(value.dtype)
    number = where(isnan(value), constant(nan, value.dtype), value)
    number = where(number == np.inf, constant(limits.max if posinf is None else posinf, value.dtype), number)
    return where(number == -np.inf, constant(limits.min if neginf is None else neginf, value.dtype), number)


@located
def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Expr:
    """The choice of the first condition that holds, else the default."""
    if len(condlist) != len(choicelist) or not condlist:
        raise AttributeValueError(
            f"select needs a choice for each condition, not {len(condlist)} and {len(choicelist)}"
        )
    pairs = zip(reversed(condlist), reversed(choicelist), strict=True)
    return reduce(lambda rest, pair: where(pair[0], pair[1], rest), pairs, as_expr(default))


@located
def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None) -> Expr:
    """Linear interpolation in the points (xp, fp), xp rising; the end values, or left and right, outside."""
    value, places = match_dtypes(floating(x), floating(xp))
    heights = as_expr(fp)
    count = known(places, 0, "interpolation")
    after = array.clip(arrange.searchsorted(places, ravel(value), side="right"), 1, max(count - 1, 1))
    after = manipulate.reshape(after, value.shape)
    x0, x1, y0, y1 = (array.take(v, k, axis=0) for v in (places, heights) for k in (after - 1, after))
    inside = y0 + (y1 - y0) * ((value - x0) / (x1 - x0))
    low, high = (heights[0] if left is None else left), (heights[-1] if right is None else right)
    return where(value < places[0], low, where(value > places[-1], high, inside))


NUMPY |= {
    function.__name__.rstrip("_"): function
    for function in (
        var, std, average, median, ptp, nanmean, trapezoid, round_, divmod_, fmax, fmin, heaviside, cbrt, sinc,
        nan_to_num, select, interp,
    )
}  # fmt: skip
NUMPY |= {"exp2": lambda x: pow(2.0, x), "fix": trunc}
NUMPY |= {name: lambda x: floating(x) * (np.pi / 180) for name in ("deg2rad", "radians")}
NUMPY |= {name: lambda x: floating(x) * (180 / np.pi) for name in ("rad2deg", "degrees")}
NUMPY |= {"nansum": _skipping_nan(array.sum, 0.0), "nanprod": _skipping_nan(array.prod, 1.0)}
NUMPY |= {"nanmax": _skipping_nan(array.max, -np.inf), "nanmin": _skipping_nan(array.min, np.inf)}
