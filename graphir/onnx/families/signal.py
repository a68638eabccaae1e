"""Fourier transforms, whole and of frames, and the mel scale's weights.

A complex value is a last axis with its real and its imaginary part; a real one may have a last axis of size 1.
"""

import numpy as np

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.errors import ShapeError
from graphir.expr import Expr
from graphir.nn.windows import cut, pad_constant
from graphir.onnx.call import Call, axis_of, reads, scalar
from graphir.onnx.dtypes import element_dtype
from graphir.ops import fourier


def _fitted(x: Expr, axis: int, length: Dim) -> Expr:
    """The first `length` elements of an axis, filled with zeros; the last axis with both parts."""
    if x.shape[-1] not in (1, 2):
        raise ShapeError(f"the last axis of {x.node.type} must hold the real part, or real and imaginary parts")
    x = pad_constant(x, x.ndim - 1, 0, 2 - int(x.shape[-1]), scalar(0, x))
    size = x.shape[axis]
    if size == length:
        return x
    if isinstance(size, str) or isinstance(length, str):
        raise ShapeError(f"axis {axis} of {x.node.type} cannot be fitted to {length}; fix its size in the model")
    return pad_constant(cut(x, axis, 0, min(size, length)), axis, 0, max(length - size, 0), scalar(0, x))


def _transform(x: Expr, axis: int, inverse: bool) -> Expr:
    """The discrete Fourier transform; the inverse one is divided by the length."""
    return Expr(fourier.fourier(x.node, axis=axis, inverse=inverse, scaled=inverse))


def _spectrum(x: Expr, axis: int, length: int) -> Expr:
    """The whole spectrum of a real signal from its first half: the second half are the conjugates."""
    bins = length // 2 + 1
    half = _fitted(x, axis, bins)
    places = np.arange(length)
    mirrored = places >= bins
    signs = np.stack([np.ones(length), np.where(mirrored, -1, 1)], -1)
    signs[0, 1] = 0  # what comes from a real signal is real at frequency 0 and at the highest of an even length
    if length % 2 == 0:
        signs[bins - 1, 1] = 0
    whole = array.take(half, np.where(mirrored, length - places, places), axis)
    return whole * scalar(signs.reshape(length, *[1] * (x.ndim - 2 - axis), 2), x)


@reads("DFT")
def _dft(call: Call) -> Expr:
    x = call[0]
    inverse, onesided = bool(call.attr("inverse", 0)), bool(call.attr("onesided", 0))
    if call.has(2):
        axis = array.normal_axis(int(call.numbers(2).reshape(())), x.ndim)
    else:
        axis = axis_of(call, 1 if call.opset < 20 else -2, x.ndim)
    if inverse and onesided:
        length = _length(call, dims.multiply(2, dims.subtract(x.shape[axis], 1)))
        if not isinstance(length, int) or length < 1:
            raise ShapeError(f"half a spectrum {x.node.type} does not give a signal of length {length}; fix its size")
        return _transform(_spectrum(x, axis, length), axis, True)[..., :1]
    length = _length(call, x.shape[axis])
    found = _transform(_fitted(x, axis, length), axis, inverse)
    return cut(found, axis, 0, _half(length)) if onesided else found


def _length(call: Call, default: Dim) -> Dim:
    return int(call.numbers(1).reshape(())) if call.has(1) else default


def _half(length: Dim) -> Dim:
    """How many frequencies a real signal of this length has."""
    return dims.add(dims.floordiv(length, 2), 1)


@reads("STFT")
def _stft(call: Call) -> Expr:
    """Transforms of overlapping frames, each times the window."""
    x, step, window = call[0], int(call.numbers(1).reshape(())), call.get(2)
    size = x.shape[1]
    wanted = int(call.numbers(3).reshape(())) if call.has(3) else window.shape[0] if window is not None else size
    if isinstance(size, str) or isinstance(wanted, str) or step < 1 or not 1 <= wanted <= size:
        raise ShapeError(f"frames of {wanted} elements every {step} do not fit {x.node.type}; sizes must be known")
    starts = np.arange((size - wanted) // step + 1) * step
    frames = array.take(x, starts[:, None] + np.arange(wanted), 1)
    if window is not None:
        frames = frames * manipulate.expand_dims(window, 1)
    found = _transform(_fitted(frames, 2, wanted), 2, False)
    return cut(found, 2, 0, _half(wanted)) if call.attr("onesided", 1) else found


@reads("MelWeightMatrix")
def _mel_weights(call: Call) -> Expr:
    """Triangles over the bins of a spectrum, whose corners are evenly spaced on the mel scale."""
    count, length, rate, low, high = (float(call.numbers(k).reshape(())) for k in range(5))
    ends = 2595 * np.log10(1 + np.array([low, high]) / 700)
    mels = ends[0] + np.arange(int(count) + 2) * (ends[1] - ends[0]) / (count + 2)
    corners = (length + 1) * 700 * (10 ** (mels / 2595) - 1) // rate
    left, top, right = corners[:-2], corners[1:-1], corners[2:]
    bins = np.arange(int(length) // 2 + 1)[:, None]
    rising = np.where(top > left, (bins - left) / np.maximum(top - left, 1), bins == top)
    falling = np.where(right > top, (right - bins) / np.maximum(right - top, 1), bins == top)
    triangles = np.where(bins <= top, rising, falling)
    return array.constant(np.maximum(triangles, 0), element_dtype(call.attr("output_datatype", 1)))
