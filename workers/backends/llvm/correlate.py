"""Convolutions without copies of windows: products of kernels with rows of the array that begin where each element of a window lies.

Of the array each spatial axis is padded and, for a stride, dealt out to as many arrays; then what one element of the kernel meets in
all windows is a contiguous run, with the elements between two rows of windows, whose results nobody takes. Blocks of filters and windows
stay in registers. Sums are ordered by shapes and processor alone. Dtypes other than float32 and float64 are NumPy's.
"""

from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from graphir.node import Array
from graphir.ops import correlate as plain
from graphir.ops.correlate import Ints, Windows
from workers.backends.llvm import products
from workers.backends.llvm.vectors import BYTES

LEAST = 1 << 17
"""Multiplications below which a call of compiled code does not gain."""
MOST_WASTE = 2
"""How many times the products may be computed, with those that nobody takes, before products of matrices are quicker."""


def conv(x: Array, w: Array, *, strides: Ints, dilations: Ints, before: Ints, outputs: Ints, groups: int) -> Array:
    g = Windows(w.shape[2:], strides, dilations, before, outputs)
    if not _worth(x, g, len(x) * len(w) * w.shape[1], len(w) // groups):
        return plain.correlate(x, w, g, groups)
    return _correlated(x, w.reshape(groups, len(w) // groups, w.shape[1], g.taps), g)


def conv_input(y: Array, w: Array, *, strides: Ints, dilations: Ints, before: Ints, sizes: Ints, groups: int) -> Array:
    """With stride 1 a convolution with the kernel turned round."""
    g = Windows(w.shape[2:], strides, dilations, before, y.shape[2:])
    back = tuple([(k - 1) * d - b for k, d, b in zip(g.kernel, dilations, before, strict=True)])
    turned = replace(g, before=back, outputs=sizes)
    gains = set(strides) == {1} and _worth(y, turned, len(y) * len(w) * w.shape[1], w.shape[1])
    if not gains or not np.isfinite(w).all():  # zeros around y would be multiplied by what is not
        return plain.correlate_input(y, w, g, sizes, groups)
    kernels = w.reshape(groups, len(w) // groups, w.shape[1], g.taps)[..., ::-1].swapaxes(1, 2)
    return _correlated(y, kernels, turned)


def conv_kernel(
    x: Array, y: Array, *, strides: Ints, dilations: Ints, before: Ints, kernel: Ints, groups: int
) -> Array:
    g = Windows(kernel, strides, dilations, before, y.shape[2:])
    if _worth(x, g, len(x) * x.shape[1] * y.shape[1] // groups, y.shape[1] // groups):
        found = _summed(x, y, g, groups)
        if np.isfinite(found).all():  # else what is between rows may have got into the sums
            return found
    return plain.correlate_kernel(x, y, g, groups)


def _worth(x: Array, g: Windows, pairs: int, filters: int) -> bool:
    """pairs: of a channel and a filter, for each image; filters: of a group."""
    if x.dtype.name not in BYTES or pairs * g.taps * prod(g.outputs) < LEAST:
        return False
    shape = products.shape(x.dtype.name, min(filters, 8))
    rows = [-(-r // s) for r, s in zip(g.reach, g.strides, strict=True)]
    row = sum((o - 1) * prod(rows[k + 1 :]) for k, o in enumerate(g.outputs)) + 1
    places = min(_up(row, shape.wide * shape.lanes), prod(rows) + shape.lanes)
    return places * _up(filters, shape.tall) <= MOST_WASTE * prod(g.outputs) * filters


# ---- rows ----


class _Rows:
    """The array dealt out so that windows lie one element apart: [images, channels, residues of strides, rows].

    together: [channels, residues, images and rows], for small images. length: of the windows of an image, or of all.
    """

    def __init__(self, x: Array, g: Windows, block: int, *, may_join: bool) -> None:
        n, self.channels = x.shape[:2]
        self.sizes = tuple([-(-r // s) for r, s in zip(g.reach, g.strides, strict=True)])
        self.pitches = [prod(self.sizes[axis + 1 :]) for axis in range(len(self.sizes))]
        each = sum((o - 1) * pitch for o, pitch in zip(g.outputs, self.pitches, strict=True)) + 1
        self.residues, self.size = prod(g.strides), prod(self.sizes)
        self.together = may_join and n > 1 and _up(n * self.size, block) < n * _up(each, block)
        self.images = 1 if self.together else n
        self.length = (n - 1) * self.size + each if self.together else each
        self.row = n * self.size if self.together else self.size
        self.data = self._dealt(plain.padded(x, g), g, block)

    def _dealt(self, x: Array, g: Windows, slack: int) -> Array:
        n, count = len(x), x.shape[0] * self.channels * self.residues * self.size
        out = np.empty(count + slack + self.size, x.dtype)
        out[count:] = 0
        lead = (self.channels, self.residues, n) if self.together else (n, self.channels, self.residues)
        parts = out[:count].reshape(*lead, *self.sizes)
        if self.together:
            parts = np.moveaxis(parts, 2, 0)
        if self.residues > 1:
            parts[...] = 0
        for k, residue in enumerate(np.ndindex(g.strides)):
            every: list[Any] = [slice(r, None, s) for r, s in zip(residue, g.strides, strict=True)]
            taken = x[(..., *every)]
            filled: list[Any] = [slice(None), slice(None), k, *map(slice, taken.shape[2:])]
            parts[tuple(filled)] = taken
        return out

    def offsets(self, g: Windows, channels: int) -> Array:
        """Where the rows of the first channels begin, for each channel and element of the kernel."""
        return _offsets(g, tuple(self.pitches), self.row, channels)

    @property
    def image(self) -> int:
        """Elements of an image."""
        return int(self.channels * self.residues * self.row)

    def windows(self, flat: Array, n: int, g: Windows) -> Array:
        """(images, groups, filters, outputs) of rows of results [images or one, groups, filters, length or more]."""
        own = [pitch * flat.itemsize for pitch in self.pitches]
        image = self.size * flat.itemsize if self.together else flat.strides[0]
        return as_strided(flat, (n, *flat.shape[1:3], *g.outputs), (image, *flat.strides[1:3], *own))


@lru_cache(maxsize=256)
def _offsets(g: Windows, pitches: Ints, row: int, channels: int) -> Array:
    taps = np.indices(g.kernel).reshape(len(g.kernel), -1) * np.array(g.dilations)[:, None]
    strides = np.array(g.strides)[:, None]
    inside = (taps // strides * np.array(pitches)[:, None]).sum(0)
    residue = np.ravel_multi_index(tuple(taps % strides), g.strides)
    found = (np.arange(channels)[:, None] * prod(g.strides) + residue) * row + inside
    return np.ascontiguousarray(found.reshape(-1), np.int64)


def _up(value: int, block: int) -> int:
    return -(-value // block) * block


def _correlated(x: Array, kernels: Array, g: Windows) -> Array:
    """kernels: (groups, filters, channels, elements)."""
    groups, filters, share, taps = kernels.shape
    shape = products.shape(x.dtype.name, min(filters, 8))
    tall, wide = shape.tall, shape.wide * shape.lanes
    rows = _Rows(x, g, wide, may_join=True)
    blocks, length = -(-filters // tall), _up(rows.length, wide)
    packed = np.zeros((groups, blocks * tall, share * taps), x.dtype)
    packed[:, :filters] = kernels.reshape(groups, filters, share * taps)
    packed = np.ascontiguousarray(packed.reshape(groups, blocks, tall, -1).swapaxes(2, 3))
    made = np.empty((rows.images, groups, blocks * tall, length), x.dtype)
    offsets = rows.offsets(g, share)
    products.function(x.dtype.name, min(filters, 8))(
        rows.data.ctypes.data, offsets.ctypes.data, packed.ctypes.data, made.ctypes.data,
        rows.images, rows.image, groups, rows.image // groups, share * taps, blocks, length // wide, length,
    )  # fmt: skip
    return rows.windows(made, len(x), g)[:, :, :filters].reshape(len(x), groups * filters, *g.outputs)


def _summed(x: Array, y: Array, g: Windows, groups: int) -> Array:
    filters, share = y.shape[1] // groups, x.shape[1] // groups
    shape = products.shape(x.dtype.name, min(filters, 8), sums=True)
    rows = _Rows(x, g, shape.lanes, may_join=False)
    blocks, length = -(-filters // shape.tall), _up(rows.length, shape.lanes)
    given = np.zeros((len(y), groups, blocks * shape.tall, length), y.dtype)
    rows.windows(given, len(y), g)[:, :, :filters] = y.reshape(len(y), groups, filters, *g.outputs)
    terms, all_terms = share * g.taps, _up(share * g.taps, shape.wide)
    offsets = np.zeros(all_terms, np.int64)
    offsets[:terms] = rows.offsets(g, share)
    sums = np.empty((groups, blocks * shape.tall, all_terms), x.dtype)
    products.function(x.dtype.name, min(filters, 8), sums=True)(
        rows.data.ctypes.data, offsets.ctypes.data, given.ctypes.data, sums.ctypes.data,
        len(x), rows.image, groups, rows.image // groups, all_terms // shape.wide, blocks, length // shape.lanes, length,
    )  # fmt: skip
    return sums[:, :filters, :terms].reshape(y.shape[1], share, *g.kernel)
