"""Pooling: reductions over windows of the spatial axes (those from 2 on)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphir import array, elementwise, manipulate
from graphir.errors import AttributeValueError
from graphir.expr import Expr, as_expr
from graphir.nn.windows import Geometry, Numbers, Padding, each, padded, slide, spatial_sizes, windows_of
from graphir.ops import pooling
from graphir.origin import located
from graphir.products import element_count


def flat_windows(x: Expr, g: Geometry, fill: float) -> Expr:
    """The windows with the kernel's axes made one: (batch, channels, outputs..., kernel)."""
    windows = slide(x, g, fill)
    return manipulate.reshape(windows, (*windows.shape[: x.ndim], element_count(g.kernel)))


def lowest(x: Expr) -> float:
    """What no element is below."""
    return float("-inf") if x.dtype.kind == "f" else float(np.iinfo(x.dtype).min)


def average(windows: Expr, g: Geometry, count_padding: bool) -> Expr:
    """The mean of each window; where padding does not count, of the elements that are there."""
    counts = np.ones(())
    for axis, size in enumerate(g.sizes):
        places = g.positions(axis)
        if count_padding:
            there = places < g.before[axis] + size + g.after[axis]
        else:
            there = (places >= g.before[axis]) & (places < g.before[axis] + size)
        counts = counts[..., None] * there.sum(1)
    inside = tuple(range(2 + len(g.sizes), windows.ndim))
    return array.sum(windows, inside, dtype=windows.dtype) / array.constant(counts, windows.dtype)


def norm(x: Expr, axes: tuple[int, ...], p: int, keep: bool) -> Expr:
    """The p-norm over axes."""
    if p == 2:
        return elementwise.sqrt(array.sum(elementwise.square(x), axes, keepdims=keep))
    powers = array.sum(elementwise.abs(x) ** float(p), axes, keepdims=keep)
    result: Expr = powers ** (1.0 / p)
    return result


def _geometry(
    x: Expr, kernel: Numbers, stride: Numbers | None, padding: Padding, dilation: Numbers, ceil: bool
) -> Geometry:
    sizes = each("kernel", kernel, len(spatial_sizes(x)))
    g = windows_of(x, sizes, sizes if stride is None else stride, dilation, padding, ceil)
    spans = [(k - 1) * d + 1 for k, d in zip(g.kernel, g.dilations, strict=True)]
    if not isinstance(padding, str) and any(2 * max(p) > s for *p, s in zip(g.before, g.after, spans, strict=True)):
        raise AttributeValueError(
            f"padding {padding} is more than half a window of {sizes}; use less or larger windows"
        )
    return g


@located
def max_pool(
    x: Any,
    kernel: Numbers,
    *,
    stride: Numbers | None = None,
    padding: Padding = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
) -> Expr:
    """The largest element of each window of x [batch, channels, sizes...]; the stride is the kernel by default.

    ceil_mode: a last window may reach over the end. Equal largest elements share the derivative.
    """
    value = as_expr(x)
    g = _geometry(value, kernel, stride, padding, dilation, ceil_mode)
    given = padded(value, g, lowest(value)).node
    return Expr(pooling.window_max(given, kernel=g.kernel, outputs=g.outputs, strides=g.strides, dilations=g.dilations))


@located
def avg_pool(
    x: Any,
    kernel: Numbers,
    *,
    stride: Numbers | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Expr:
    """The mean of each window of x [batch, channels, sizes...]; the stride is the kernel by default."""
    value = as_expr(x)
    g = _geometry(value, kernel, stride, padding, 1, ceil_mode)
    return average(slide(value, g), g, count_include_pad)


@located
def lp_pool(x: Any, p: int, kernel: Numbers, *, stride: Numbers | None = None, ceil_mode: bool = False) -> Expr:
    """The p-norm of each window of x [batch, channels, sizes...], p at least 1."""
    if p < 1:
        raise AttributeValueError(f"p is at least 1, not {p}")
    value = as_expr(x)
    return norm(flat_windows(value, _geometry(value, kernel, stride, 0, 1, ceil_mode), 0.0), (-1,), p, False)


@located
def adaptive_avg_pool(x: Any, output: Numbers) -> Expr:
    """The means of windows that divide each spatial axis into `output` nearly equal, overlapping parts."""
    return _adaptive(as_expr(x), output, lambda part, axis: array.mean(part, axis, keepdims=True))


@located
def adaptive_max_pool(x: Any, output: Numbers) -> Expr:
    """The largest elements of windows that divide each spatial axis into `output` nearly equal parts."""
    return _adaptive(as_expr(x), output, lambda part, axis: array.max(part, axis, keepdims=True))


def _adaptive(x: Expr, output: Numbers, reduce: Any) -> Expr:
    sizes = spatial_sizes(x)
    counts: Sequence[int] = each("output", output, len(sizes))
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True), 2):
        borders = [(k * size // count, -(-(k + 1) * size // count)) for k in range(count)]
        parts = [reduce(x[(*[slice(None)] * axis, slice(start, stop))], axis) for start, stop in borders]
        x = manipulate.concat(parts, axis)
    return x
