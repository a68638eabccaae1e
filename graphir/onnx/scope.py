"""The names of a model while it is read, and its inputs with their named sizes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from keyword import iskeyword
from typing import TypeAlias

from onnx import NodeProto, TypeProto, ValueInfoProto

from graphir import array, dims
from graphir.dims import Dim
from graphir.errors import FormatError, ShapeError
from graphir.expr import Expr
from graphir.onnx.dtypes import element_dtype
from graphir.types import MAX_RANK

_POLYNOMIAL = re.compile(r"[A-Za-z_0-9+\-*/() ]+")


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence of tensors; it exists only while the model is read."""

    items: tuple[Expr, ...]


Value: TypeAlias = "Expr | Row | None"
"""What a name stands for; None: an optional value that was left out."""


class Scope:
    """Values by name; a subgraph also sees those around it."""

    __slots__ = ("depth", "outer", "values")

    def __init__(self, outer: "Scope | None", depth: int) -> None:
        self.outer, self.depth = outer, depth
        self.values: dict[str, Value] = {}

    def add(self, name: str, value: Value) -> None:
        """Give a name its value, once."""
        if name in self.values:
            raise FormatError(f"the value {name!r} is made twice; export the model again")
        self.values[name] = value

    def has(self, name: str) -> bool:
        """Whether the name is known here or around."""
        scope: Scope | None = self
        while scope is not None and name not in scope.values:
            scope = scope.outer
        return scope is not None

    def find(self, name: str) -> Value:
        """The value; None where there is none or it was left out."""
        scope: Scope | None = self
        while scope is not None and name not in scope.values:
            scope = scope.outer
        return None if scope is None else scope.values[name]


def missing(name: str, what: str, nodes: Iterable[NodeProto]) -> FormatError:
    """The error for a name that has no value yet."""
    if any(name in node.output for node in nodes):
        return FormatError(
            f"{what}, {name!r}, is used before it is made: the operators form a cycle or are not sorted; export again"
        )
    return FormatError(f"{what}, {name!r}, is made by no operator and is no input; export the model again")


def input_expr(info: ValueInfoProto) -> Expr:
    """The leaf for an input of the model."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        what = "no type" if kind is None else f"the type {kind.removesuffix('_type')}"
        raise FormatError(f"input {info.name!r} has {what}; only dense tensors can be inputs")
    tensor = info.type.tensor_type
    dtype = element_dtype(tensor.elem_type)
    if not tensor.HasField("shape"):
        raise FormatError(f"input {info.name!r} has no shape; export the model with one, or fix the input with bind=")
    if len(tensor.shape.dim) > MAX_RANK:
        raise FormatError(f"input {info.name!r} has {len(tensor.shape.dim)} axes; at most {MAX_RANK} are supported")
    shape = [_dimension(d, info.name, axis) for axis, d in enumerate(tensor.shape.dim)]
    return array.input(info.name, shape, dtype)


def _dimension(d: TypeProto.Tensor, name: str, axis: int) -> Dim:
    """A number, the named size, or for a dimension without a name one made from the input's name and axis."""
    match d.WhichOneof("value"):
        case "dim_value":
            if d.dim_value < 0:
                raise FormatError(f"axis {axis} of input {name!r} is {d.dim_value}; a size cannot be negative")
            return int(d.dim_value)
        case "dim_param":
            return _size_name(d.dim_param or f"{name}_{axis}")
    return _size_name(f"{name}_{axis}")


def _size_name(text: str) -> Dim:
    """A dim_param as a dimension: a polynomial if it reads as one, otherwise the nearest identifier."""
    if _POLYNOMIAL.fullmatch(text) and not any(iskeyword(word) for word in re.findall(r"\w+", text)):
        try:
            return dims.dim(text)
        except ShapeError:
            pass
    word = re.sub(r"\W+", "_", text)[: dims.MAX_TEXT // 4] or "_"
    return f"size_{word}" if not word.isidentifier() or iskeyword(word) else word
