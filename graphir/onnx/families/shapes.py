"""Shapes as values, and constants: Shape, Size, Constant, ConstantOfShape, Range, EyeLike."""

import numpy as np

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.expr import Expr
from graphir.onnx.call import Call, reads
from graphir.onnx.dtypes import element_dtype
from graphir.products import element_count
from graphir.types import INT64


def vector(values: list[Dim]) -> Expr:
    """Dimensions as an int64 vector."""
    if not any(isinstance(d, str) for d in values):
        return array.constant(np.array(values, INT64))
    parts = [array.constant([d], INT64) if isinstance(d, int) else _one(d) for d in values]
    return parts[0] if len(parts) == 1 else manipulate.concat(parts)


def _one(name: str) -> Expr:
    return manipulate.reshape(array.size(name), (1,))


@reads("Shape")
def _shape(call: Call) -> Expr:
    start, end = call.attr("start", 0), call.attr("end")
    return vector(list(call[0].shape[slice(start, end)]))


@reads("Size")
def _size(call: Call) -> Expr:
    total = element_count(call[0].shape)
    return array.size(total) if isinstance(total, str) else array.constant(total, INT64)


@reads("Constant")
def _constant(call: Call) -> Expr:
    if "value" in call.attributes:
        return array.constant(call.reader.tensor(call.attributes["value"]))
    for name, dtype in (("value_int", "int64"), ("value_ints", "int64"), ("value_float", "float32")):
        if name in call.attributes:
            return array.constant(np.asarray(call.attributes[name], dtype))
    return array.constant(np.asarray(call.need("value_floats"), "float32"))


@reads("ConstantOfShape")
def _constant_of_shape(call: Call) -> Expr:
    value = np.zeros(1, "float32")
    if "value" in call.attributes:
        value = call.reader.tensor(call.attributes["value"])
    return array.full(call.dims(0), value.reshape(()), value.dtype)


@reads("Range")
def _range(call: Call) -> Expr:
    """Numbers, or whole numbers up to a named size."""
    known = [call.known(call[k]) for k in range(3)]
    dtype = call[0].dtype
    if all(value is not None for value in known):
        start, stop, step = (value.reshape(()) for value in known if value is not None)
        count = max(int(np.ceil((stop.astype(np.float64) - start) / step)), 0)
        if count <= 1 << 24:
            return array.constant((start + np.arange(count).astype(dtype) * step).astype(dtype))
    start_, stop_, step_ = (call.reader.knowledge.of(call[k].node) for k in range(3))
    if start_ is None or stop_ is None or step_ is None or step_.item() != 1:
        raise call.unbound(next(k for k in range(3) if known[k] is None))
    count_ = dims.subtract(stop_.item(), start_.item())
    return array.arange(str(count_), dtype=dtype) + call[0]


@reads("EyeLike")
def _eye_like(call: Call) -> Expr:
    x = call[0]
    dtype = element_dtype(call.attributes["dtype"]) if "dtype" in call.attributes else x.dtype
    return array.eye(x.shape[0], x.shape[1], k=call.attr("k", 0), dtype=dtype)
