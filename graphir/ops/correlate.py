"""Kernels of convolutions: the windows of some images as columns of a matrix that fits into cache, times the kernels' matrix.

Windows that lie one element apart are copied in long runs: with the elements between two rows of windows, where these are few, whose
products nobody takes. Blocks depend on shapes alone. What lies before or after the array counts as zero, and is never part of a product with
what is not finite.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from graphir.node import Array

BLOCK_BYTES = 1 << 19
"""Bytes of the columns of a block."""
WIDE = 1.5
"""How many times as many products there may be for the sake of long runs."""
FEW = 64
"""Windows of an image below which a product takes several images together."""
Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Windows:
    """For each spatial axis: where windows begin (before: how far in front of the array the first), and their elements."""

    kernel: Ints
    strides: Ints
    dilations: Ints
    before: Ints
    outputs: Ints

    @property
    def taps(self) -> int:
        """Elements of a window."""
        return prod(self.kernel)

    @property
    def reach(self) -> Ints:
        """From the first element of the first window to the last of the last."""
        parts = zip(self.outputs, self.strides, self.kernel, self.dilations, strict=True)
        return tuple([(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in parts])

    @property
    def steps(self) -> Ints:
        """Windows along the rows of `reach`: how far apart two of one column are, and so in front of it."""
        reach = self.reach
        return tuple([prod(reach[axis + 1 :]) for axis in range(len(reach))])

    @property
    def length(self) -> int:
        """Windows of an image when those between two rows count."""
        return sum((o - 1) * step for o, step in zip(self.outputs, self.steps, strict=True)) + 1

    @property
    def wide(self) -> bool:
        """Whether windows are taken with those between two rows."""
        close = set(self.strides) == {1} and len(self.strides) > 1
        return close and self.length <= WIDE * prod(self.outputs)

    def rows(self, begin: int, end: int) -> "Windows":
        """Some windows along the first axis."""
        before = (self.before[0] - begin * self.strides[0], *self.before[1:])
        return replace(self, before=before, outputs=(end - begin, *self.outputs[1:]))


def correlate(x: Array, w: Array, g: Windows, groups: int) -> Array:
    """out[n, f, o] = sum of x[n, c, o * stride + k * dilation - before] * w[f, c, k] over c of f's group and k."""
    n, filters = len(x), len(w)
    out = np.empty((n, filters, *g.outputs), x.dtype)
    if not out.size or not w.size:
        out[...] = 0
        return out
    matrices = w.reshape(groups, filters // groups, -1)
    for images, (begin, end) in _blocks(x, g):
        part = g.rows(begin, end)
        columns = _columns(x[images], part, groups, part.wide)
        made = matrices @ _together(columns) if _few(part) else matrices @ columns
        if _few(part):
            made = made.reshape(groups, -1, *columns.shape[::3]).transpose(2, 0, 1, 3)
        out[images, :, begin:end] = _narrow(made.reshape(len(columns), filters, -1), part, part.wide)
    return out


def correlate_kernel(x: Array, y: Array, g: Windows, groups: int) -> Array:
    """out[f, c, k] = sum of x[n, c, o * stride + k * dilation - before] * y[n, f, o] over n and o."""
    filters, share = y.shape[1], x.shape[1] // groups
    out = np.zeros((groups, filters // groups, share * g.taps), x.dtype)
    if x.size and y.size and out.size:
        for images, (begin, end) in _blocks(x, g):
            part = g.rows(begin, end)
            columns = _columns(x[images], part, groups, wide=False)
            given = y[images, :, begin:end].reshape(len(columns), groups, filters // groups, -1)
            if columns.shape[3] < 4 * FEW:
                out += _together(given) @ _together(columns).mT
            else:
                for one, other in zip(given, columns, strict=True):
                    out += one @ other.mT
    return out.reshape(filters, share, *g.kernel)


def correlate_input(y: Array, w: Array, g: Windows, sizes: Ints, groups: int) -> Array:
    """out[n, c, s] = sum of y[n, f, o] * w[f, c, k] over all f, o and k with o * stride + k * dilation - before = s."""
    n, channels = len(y), w.shape[1] * groups
    out = np.zeros((n, channels, *sizes), y.dtype)
    if not out.size or not y.size or not w.size:
        return out
    matrices = w.reshape(groups, len(w) // groups, -1).mT
    wide = g.wide and (y.dtype.kind != "f" or bool(np.isfinite(w).all()))
    for images, (begin, end) in _blocks(y, g, w.shape[1] * groups):
        part = g.rows(begin, end)
        given = _widened(y[images, :, begin:end], part) if wide else y[images, :, begin:end]
        given = given.reshape(len(given), groups, len(w) // groups, -1)
        if _few(part):
            count = given.shape[3]
            made = (matrices @ _together(given)).reshape(groups, -1, len(given), count).transpose(2, 0, 1, 3)
        else:
            made = matrices * given if matrices.shape[2] == 1 else matrices @ given
        _add(out[images], made.reshape(len(given), channels, *g.kernel, -1), part, wide)
    return out


# ---- blocks ----


def _blocks(x: Array, g: Windows, channels: int = 0) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Some images and all their windows, or one image and some windows along the first axis."""
    n, rows = len(x), g.outputs[0]
    each = (channels or x.shape[1]) * g.taps * prod(g.outputs) * x.itemsize
    if each <= BLOCK_BYTES:
        count = max(1, BLOCK_BYTES // each)
        for first in range(0, n, count):
            yield slice(first, first + count), (0, rows)
        return
    height = max(1, rows * BLOCK_BYTES // each)
    for image in range(n):
        for begin in range(0, rows, height):
            yield slice(image, image + 1), (begin, min(begin + height, rows))


def _few(g: Windows) -> bool:
    return prod(g.outputs) < FEW


def _together(columns: Array) -> Array:
    """(groups, rows, images * columns) from (images, groups, rows, columns)."""
    n, groups, rows, length = columns.shape
    return columns.transpose(1, 2, 0, 3).reshape(groups, rows, n * length)


# ---- windows ----


def padded(x: Array, g: Windows) -> Array:
    """What the windows reach, zeros where the array has nothing; x itself if it is all of it."""
    lead, sizes, reach = x.ndim - len(g.reach), x.shape[x.ndim - len(g.reach) :], g.reach
    begins = [max(-b, 0) for b in g.before]
    ends = [max(min(size, r - b), begin) for size, r, b, begin in zip(sizes, reach, g.before, begins, strict=True)]
    whole: list[Any] = [slice(None)] * lead
    taken: list[Any] = [*map(slice, begins, ends)]
    inner: Array = x[(*whole, *taken)]
    if inner.shape[lead:] == reach:
        return inner
    out = np.zeros((*x.shape[:lead], *reach), x.dtype)
    out[(*whole, *[slice(a + b, z + b) for a, z, b in zip(begins, ends, g.before, strict=True)])] = inner
    return out


def view(x: Array, g: Windows) -> Array:
    """(leading axes, kernel, outputs) of what the windows reach, without a copy."""
    lead, rank = x.ndim - len(g.kernel), len(g.kernel)
    own = x.strides[lead:]
    inside = [own[k] * g.dilations[k] for k in range(rank)]
    apart = [own[k] * g.strides[k] for k in range(rank)]
    shape = (*x.shape[:lead], *g.kernel, *g.outputs)
    return as_strided(x, shape, (*x.strides[:lead], *inside, *apart), writeable=False)


def _columns(x: Array, g: Windows, groups: int, wide: bool) -> Array:
    """(images, groups, channels * kernel, windows)."""
    source = padded(x, g)
    if wide:
        source = np.ascontiguousarray(source)
        inside = [source.strides[2 + k] * g.dilations[k] for k in range(len(g.kernel))]
        shape = (*source.shape[:2], *g.kernel, g.length)
        found = as_strided(source, shape, (*source.strides[:2], *inside, source.itemsize), writeable=False)
    else:
        found = view(source, g)
    return found.reshape(len(x), groups, x.shape[1] // groups * g.taps, -1)


def _narrow(made: Array, g: Windows, wide: bool) -> Array:
    """(images, filters, outputs) of products that may be of windows between two rows too."""
    if not wide:
        return made.reshape(*made.shape[:2], *g.outputs)
    steps = [made.itemsize * step for step in g.steps]
    return as_strided(made, (*made.shape[:2], *g.outputs), (*made.strides[:2], *steps), writeable=False)


def _widened(y: Array, g: Windows) -> Array:
    """Zeros at the windows between two rows."""
    out = np.zeros((*y.shape[:2], g.length), y.dtype)
    steps = [out.itemsize * step for step in g.steps]
    as_strided(out, y.shape, (*out.strides[:2], *steps))[...] = y
    return out


def _add(out: Array, made: Array, g: Windows, wide: bool) -> None:
    """Add each element of each window at its place, element by element of the kernel; wide: of a row of `reach`."""
    rank = len(g.kernel)
    sums = np.zeros((*out.shape[:2], *g.reach), out.dtype)
    if wide:
        flat, steps, length = sums.reshape(*out.shape[:2], -1), g.steps, g.length
        for tap in np.ndindex(g.kernel):
            start = sum(t * d * step for t, d, step in zip(tap, g.dilations, steps, strict=True))
            flat[..., start : start + length] += made[(slice(None), slice(None), *tap)]
    else:
        made = made.reshape(*made.shape[: 2 + rank], *g.outputs)
        add_windows(sums, made, g)
    begins = [max(-b, 0) for b in g.before]
    ends = [min(size, r - b) for size, r, b in zip(out.shape[2:], g.reach, g.before, strict=True)]
    if all(a < z for a, z in zip(begins, ends, strict=True)):
        here: list[Any] = [slice(a + b, z + b) for a, z, b in zip(begins, ends, g.before, strict=True)]
        there: list[Any] = [*map(slice, begins, ends)]
        out[(..., *there)] += sums[(..., *here)]


def add_windows(sums: Array, made: Array, g: Windows, *, alone: bool = False) -> None:
    """Add (leading axes, kernel, outputs) to what the windows reach; alone: windows share no element, so they are copied."""
    before: list[Any] = [slice(None)] * (sums.ndim - len(g.kernel))
    for tap in np.ndindex(g.kernel):
        part = made[(*before, *tap)]
        if alone:
            sums[places(g, tap)] = part
        else:
            sums[places(g, tap)] += part


def places(g: Windows, tap: Ints) -> tuple[Any, ...]:
    """Where one element of all windows lies in what they reach."""
    parts = zip(tap, g.dilations, g.outputs, g.strides, strict=True)
    return (..., *[slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in parts])
