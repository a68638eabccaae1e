"""Quantised numbers: small integers that stand for (integer - zero point) * scale.

Products are summed exactly, in int32. Rounding is to the nearest integer with halves to even, then values saturate;
rounding is piecewise constant, so no derivative passes a QuantizeLinear.
"""

import numpy as np

from graphir import arrange, array, manipulate
from graphir.errors import DTypeError, ShapeError
from graphir.expr import Expr
from graphir.nn.convolution import convolve
from graphir.nn.windows import cut
from graphir.onnx.call import Call, axis_of, reads
from graphir.onnx.dtypes import element_dtype
from graphir.onnx.families.convolution import kernel_sizes
from graphir.onnx.families.windows import geometry
from graphir.types import DType, as_dtype

_INT32, _FLOAT32 = as_dtype("int32"), as_dtype("float32")


def _spread(values: Expr, like: Expr, axis: int, block: int) -> Expr:
    """A scale or zero point for each element: one for all, one for each place of an axis, or one for each block."""
    if values.ndim <= 1 and values.shape in ((), (1,)):
        return manipulate.reshape(values, ())
    if values.ndim == 1:
        return manipulate.reshape(values, [-1 if k == axis else 1 for k in range(like.ndim)])
    if block < 1 or values.ndim != like.ndim:
        raise ShapeError(f"scales {values.node.type} in blocks of {block} do not fit {like.node.type}")
    return cut(arrange.repeat(values, block, axis=axis), axis, 0, like.shape[axis])


def _axis(call: Call) -> int:
    """The axis that scales run along; values without such an axis have one scale."""
    return axis_of(call, 1, call[0].ndim) if call[0].ndim > 1 else 0


def _or_zero(call: Call, position: int) -> Expr:
    """A zero point, which is 0 where it is left out."""
    zero = call.get(position)
    return array.constant(0, _INT32) if zero is None else zero


def saturated(x: Expr, zero: Expr, dtype: DType) -> Expr:
    """Floats rounded, moved by the zero point and limited to the integers of a dtype."""
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        raise DTypeError(f"quantised values are integers of 8 or 16 bits, not {dtype}; export the model again")
    whole = array.round(x).astype(np.promote_types(x.dtype, _FLOAT32))
    bounds = np.iinfo(dtype)
    return array.clip(whole + zero.astype(whole.dtype), float(bounds.min), float(bounds.max)).astype(dtype)


@reads("QuantizeLinear")
def _quantize(call: Call) -> Expr:
    x, axis, block = call[0], _axis(call), int(call.attr("block_size", 0))
    code = call.attr("precision", 0)
    scale = _spread(call[1], x, axis, block)
    working = element_dtype(code) if code else scale.dtype
    wanted = call.attr("output_dtype", 0)
    dtype = call[2].dtype if call.has(2) else element_dtype(wanted) if wanted else as_dtype("uint8")
    return saturated(x.astype(working) / scale.astype(working), _spread(_or_zero(call, 2), x, axis, block), dtype)


@reads("DequantizeLinear")
def _dequantize(call: Call) -> Expr:
    x, axis, block = call[0], _axis(call), int(call.attr("block_size", 0))
    scale = _spread(call[1], x, axis, block)
    wanted = call.attr("output_dtype", 0)
    dtype = element_dtype(wanted) if wanted else scale.dtype
    working = np.promote_types(scale.dtype, _FLOAT32)
    centred = _centred(x, _spread(_or_zero(call, 2), x, axis, block))
    return (centred.astype(working) * scale.astype(working)).astype(dtype)


def _centred(x: Expr, zero: Expr) -> Expr:
    """The integers less their zero point, in int32."""
    return x.astype(_INT32) - zero.astype(_INT32)


def _rows(values: Expr) -> Expr:
    """A scale or zero point of a product's left side: one for all or one for each row."""
    if values.ndim > 1:
        return values
    return manipulate.reshape(values, () if values.shape in ((), (1,)) else (values.shape[0], 1))


def _columns(values: Expr) -> Expr:
    """A scale or zero point of a product's right side: one for all or one for each column."""
    return manipulate.reshape(values, ()) if values.shape == (1,) else values


def _filters(values: Expr, rank: int) -> Expr:
    """A scale or zero point of kernels with `rank` axes: one for all or one for each filter, along the first axis."""
    if values.shape in ((), (1,)):
        return _columns(values)
    return manipulate.reshape(values, (values.shape[0], *[1] * (rank - 1)))


@reads("MatMulInteger")
def _matmul_integer(call: Call) -> Expr:
    return array.matmul(_centred(call[0], _rows(_or_zero(call, 2))), _centred(call[1], _columns(_or_zero(call, 3))))


@reads("ConvInteger")
def _conv_integer(call: Call) -> Expr:
    x, w = call[0], call[1]
    g = geometry(call, x, kernel_sizes(call, w))
    left, right = _centred(x, _columns(_or_zero(call, 2))), _centred(w, _filters(_or_zero(call, 3), w.ndim))
    return convolve(left, right, g, call.attr("group", 1))


def _requantised(total: Expr, factor: Expr, scale: Expr, zero: Expr) -> Expr:
    """An int32 total that stands for total * factor, as integers with another scale and zero point."""
    return saturated(total.astype(_FLOAT32) * (factor / scale.astype(_FLOAT32)), zero, zero.dtype)


@reads("QLinearMatMul")
def _qlinear_matmul(call: Call) -> Expr:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (call[k] for k in range(8))
    total = array.matmul(_centred(a, _rows(a_zero)), _centred(b, _columns(b_zero)))
    factor = _rows(a_scale).astype(_FLOAT32) * _columns(b_scale).astype(_FLOAT32)
    return _requantised(total, factor, _rows(y_scale), _rows(y_zero))


@reads("QLinearConv")
def _qlinear_conv(call: Call) -> Expr:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call[k] for k in range(8))
    g = geometry(call, x, kernel_sizes(call, w))
    left, right = _centred(x, _columns(x_zero)), _centred(w, _filters(w_zero, w.ndim))
    total = convolve(left, right, g, call.attr("group", 1))
    bias = call.get(8)
    if bias is not None:
        total = total + manipulate.reshape(bias, (bias.shape[0], *[1] * (x.ndim - 2)))
    factor = _columns(x_scale) * _filters(w_scale, x.ndim - 1)
    return _requantised(total, factor, _columns(y_scale), _columns(y_zero))
