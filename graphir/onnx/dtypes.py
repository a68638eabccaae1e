"""ONNX element types and attribute values as numpy knows them."""

from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto

from graphir.errors import DTypeError, FormatError
from graphir.types import DType

DTYPE_OF: dict[int, DType] = {
    int(code): np.dtype(name)
    for code, name in (
        (TensorProto.BOOL, "bool"), (TensorProto.INT8, "int8"), (TensorProto.INT16, "int16"),
        (TensorProto.INT32, "int32"), (TensorProto.INT64, "int64"), (TensorProto.UINT8, "uint8"),
        (TensorProto.UINT16, "uint16"), (TensorProto.UINT32, "uint32"), (TensorProto.UINT64, "uint64"),
        (TensorProto.FLOAT16, "float16"), (TensorProto.FLOAT, "float32"), (TensorProto.DOUBLE, "float64"),
    )
}  # fmt: skip
CODE_OF: dict[DType, int] = {dtype: code for code, dtype in DTYPE_OF.items()}


def element_dtype(code: int) -> DType:
    """The numpy dtype of an ONNX element type; DTypeError for those that the language does not have."""
    dtype = DTYPE_OF.get(code)
    if dtype is None:
        known = {number: name.lower() for name, number in TensorProto.DataType.items()}
        raise DTypeError(
            f"element type {known.get(code, code)} is not supported; cast to one of "
            f"{', '.join(d.name for d in CODE_OF)} before exporting the model"
        )
    return dtype


def attribute_value(attribute: AttributeProto) -> Any:
    """The Python value of an attribute; texts are str, tensors, graphs and types stay protos."""
    kind, t = attribute.type, AttributeProto
    if kind == t.STRING:
        return _text(attribute.s, attribute.name)
    if kind == t.STRINGS:
        return [_text(s, attribute.name) for s in attribute.strings]
    single = {t.INT: "i", t.FLOAT: "f", t.TENSOR: "t", t.GRAPH: "g", t.TYPE_PROTO: "tp"}
    several = {t.INTS: "ints", t.FLOATS: "floats"}
    if kind in single:
        return getattr(attribute, single[kind])
    if kind in several:
        return list(getattr(attribute, several[kind]))
    name = {number: name for name, number in t.AttributeType.items()}.get(kind, kind)
    raise FormatError(f"attribute {attribute.name!r} is of kind {name}, which is not supported; export without it")


def _text(raw: bytes, name: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise FormatError(f"attribute {name!r} is not UTF-8 text; export the model again") from None
