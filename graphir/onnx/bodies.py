"""The function bodies that the ONNX standard gives for operators such as Gelu or GroupNormalization."""

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import AttributeProto, FunctionProto, NodeProto, TypeProto, defs, helper

from graphir.onnx.dtypes import CODE_OF
from graphir.onnx.scope import Row, Value


def body_of(
    node: NodeProto, inputs: Sequence[Value], attributes: Mapping[str, AttributeProto], opset: int
) -> tuple[FunctionProto, dict[str, AttributeProto]] | None:
    """The body of a standard operator and the attributes with their defaults; None where the standard has none."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not defs.has(node.op_type, domain=domain, max_inclusive_version=opset):
        return None
    schema: Any = defs.get_schema(node.op_type, opset, domain)
    defaults = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    given = {name: proto for name, proto in defaults.items() if proto.type != AttributeProto.UNDEFINED}
    given.update(attributes)
    if schema.has_function:
        version = max((v for v in schema.function_opset_versions if v <= opset), default=None)
        return None if version is None else (_parse(schema.get_function_with_opset_version(version)), given)
    if not schema.has_context_dependent_function:
        return None
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
    if not versions:
        return None
    resolved = NodeProto()
    resolved.CopyFrom(node)
    del resolved.attribute[:]
    resolved.attribute.extend(attributes.values())
    types = [_type(value).SerializeToString() for value in inputs]
    raw = schema.get_context_dependent_function_with_opset_version(max(versions), resolved.SerializeToString(), types)
    return _parse(raw), given


def _parse(raw: bytes) -> FunctionProto:
    body = FunctionProto()
    body.ParseFromString(raw)
    return body


def _type(value: Value) -> TypeProto:
    if isinstance(value, Row):
        return helper.make_sequence_type_proto(_type(value.items[0]) if value.items else TypeProto())
    if value is None:
        return TypeProto()
    return helper.make_tensor_type_proto(CODE_OF[value.dtype], value.shape)
