"""Reading an ONNX file: bytes to a checked ModelProto, and its tensors to arrays.

Nothing in a file is trusted: sizes are compared with the bytes that are there before anything is made, and external
data stays inside the model's folder (links included). Whatever the bytes are, only typed errors come out.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, defs, numpy_helper

from graphir.errors import FormatError, LimitError
from graphir.node import Array
from graphir.onnx.dtypes import element_dtype
from graphir.types import MAX_RANK, DType

DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest model that is read; `operators` counts those of called functions and unrolled loops too."""

    constant_bytes: int = 1 << 36
    operators: int = 1_000_000
    depth: int = 32
    folded_elements: int = 1 << 22


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A parsed model, the name it has in messages, and the folder of its external data (None: bytes without one)."""

    model: ModelProto
    name: str
    folder: str | None
    limits: Limits

    def opsets(self) -> dict[str, int]:
        """The version of each operator set that the model imports."""
        return opset_versions(self.model.opset_import)

    def tensor(self, proto: TensorProto) -> Array:
        """The array of a tensor; FormatError if its data does not fit its shape."""
        label = f"tensor {proto.name!r}" if proto.name else "a tensor"
        dtype = element_dtype(proto.data_type)
        shape = tuple(proto.dims)
        if len(shape) > MAX_RANK or any(d < 0 for d in shape):
            raise FormatError(f"{label} has the impossible shape {shape[:MAX_RANK]}; export the model again")
        count = math.prod(shape)
        if count * dtype.itemsize > self.limits.constant_bytes:
            raise LimitError(
                f"{label} of shape {shape} is over the limit of {self.limits.constant_bytes} bytes; "
                "make it an input, or read with a larger Limits(constant_bytes=...)"
            )
        if proto.data_location == TensorProto.EXTERNAL:
            raw = self._external(proto, label, count * dtype.itemsize)
            return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        _check_length(proto, label, count, dtype)
        return np.asarray(numpy_helper.to_array(proto)).reshape(shape)

    def _external(self, proto: TensorProto, label: str, size: int) -> bytes:
        entries = {entry.key: entry.value for entry in proto.external_data}
        place = entries.get("location", "")
        if self.folder is None:
            raise FormatError(f"{label} is in the file {place!r}, but the model came as bytes; give the model's path")
        path = _inside(self.folder, place)
        if path is None:
            raise FormatError(f"{label} refers to {place!r}, outside the model's folder; put its data beside the model")
        offset, length = (_number(entries.get(*entry), label) for entry in (("offset", "0"), ("length", str(size))))
        if length != size:
            raise FormatError(f"{label} needs {size} bytes, but {place!r} is said to have {length}; export again")
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                raw = file.read(size)
        except (OSError, ValueError, OverflowError) as error:
            raise FormatError(f"{label}: cannot read {place!r} ({error}); put it beside the model") from None
        if len(raw) != size:
            raise FormatError(f"{label}: {place!r} ends after {len(raw)} of {size} bytes; copy the file again")
        return raw


def _inside(folder: str, place: str) -> str | None:
    """The real path of a file in the folder; None if links or dots lead out of it."""
    if not place or "\0" in place or os.path.isabs(place):
        return None
    root, path = os.path.realpath(folder), os.path.realpath(os.path.join(folder, place))
    return path if os.path.commonpath([path, root]) == root else None


def _number(text: str, label: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise FormatError(f"{label}: {text!r:.40} is not an offset or a length; export the model again")
    return int(text)


_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data", TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data", TensorProto.UINT64: "uint64_data",
}  # fmt: skip


def _check_length(proto: TensorProto, label: str, count: int, dtype: DType) -> None:
    if proto.HasField("raw_data"):
        found, needed, unit = len(proto.raw_data), count * dtype.itemsize, "bytes"
    else:
        found, needed, unit = len(getattr(proto, _FIELDS.get(proto.data_type, "int32_data"))), count, "elements"
    if found != needed:
        raise FormatError(
            f"{label} of shape {tuple(proto.dims)} needs {needed} {unit} and has {found}; export the model again"
        )


def open_model(source: bytes | str | os.PathLike[str], limits: Limits) -> ModelFile:
    """Parse a model; FormatError for what is none."""
    if isinstance(source, bytes | bytearray | memoryview):
        data, name, folder = bytes(source), "model", None
    else:
        path = os.fspath(source)
        name, folder = os.path.basename(path), os.path.dirname(os.path.abspath(path))
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise FormatError(f"cannot read {path!r}: {error.strerror}; check the path") from None
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError) as error:
        raise FormatError(f"{name!r} is not an ONNX model or is damaged ({error!s:.80}); export it again") from None
    if not model.HasField("graph") or not model.graph.output or not model.opset_import:
        raise FormatError(
            f"{name!r} is not a whole ONNX model: it has no graph, outputs or operator sets; export again"
        )
    return ModelFile(model, name, folder, limits)


def opset_versions(imports: Iterable[object]) -> dict[str, int]:
    """Operator sets by domain; FormatError for a standard set newer than the library knows."""
    found: dict[str, int] = {}
    for entry in imports:
        domain, version = str(getattr(entry, "domain", "")), int(getattr(entry, "version", 0))
        found["" if domain in DEFAULT_DOMAINS else domain] = version
    newest = defs.onnx_opset_version()
    if not 0 <= found.get("", 0) <= newest:
        raise FormatError(f"the model needs operator set {found['']}; this one reads up to {newest}: update onnx")
    return found
