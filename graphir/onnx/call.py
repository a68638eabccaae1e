"""Call: one operator of a model while it is read, and RULES, which say what each operator means.

A rule takes the call and returns an expression, or a sequence with one for each output (None for those it leaves
out). Expressions promote and broadcast as numpy does, which is ONNX's rule too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from graphir import array, walk
from graphir.dims import Dim
from graphir.errors import BindError, FormatError
from graphir.expr import FUNCTIONS, Expr
from graphir.node import Array
from graphir.onnx.contents import Knowledge
from graphir.onnx.scope import Row, Value
from graphir.onnx.variables import Variables

Result: TypeAlias = "Expr | Row | Sequence[Value]"
Rule: TypeAlias = "Callable[[Call], Result]"
RULES: dict[tuple[str, str], Rule] = {}
"""What operators mean, by domain and name."""

F: Mapping[str, Callable[..., Expr]] = FUNCTIONS
"""The functions on expressions by the Array API's names."""


def reads(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Declare the rule of one or several operators."""

    def declare(rule: Rule) -> Rule:
        for name in names:
            RULES[domain, name] = rule
        return rule

    return declare


class Reader(Protocol):
    """What a rule may ask of the importer."""

    knowledge: Knowledge
    variables: Variables

    def named(self, name: str) -> Expr:
        """A value that an attribute names."""

    def tensor(self, proto: TensorProto) -> Array:
        """The array of a tensor."""

    def subgraph(self, graph: GraphProto, inputs: Sequence[Expr]) -> list[Expr]:
        """The outputs of a graph that an attribute holds."""


@dataclass(frozen=True, slots=True)
class Call:
    """An operator with its inputs (None: left out), attributes and the version of its operator set."""

    node: NodeProto
    inputs: tuple[Value, ...]
    attributes: Mapping[str, Any]
    opset: int
    reader: Reader

    def has(self, position: int) -> bool:
        """Whether an input is given."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def __getitem__(self, position: int) -> Expr:
        """An input that must be given."""
        value = self.get(position)
        if value is None:
            raise FormatError(f"input {position} is missing; export the model again")
        return value

    def get(self, position: int) -> Expr | None:
        """An input, or None."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if isinstance(value, Row):
            raise FormatError(f"input {position} is a sequence, not a tensor; export the model again")
        return value

    def row(self, position: int) -> tuple[Expr, ...]:
        """The tensors of an input that must be a sequence."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if not isinstance(value, Row):
            raise FormatError(f"input {position} is not a sequence; export the model again")
        return value.items

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value or the default."""
        return self.attributes.get(name, default)

    def need(self, name: str) -> Any:
        """An attribute that must be there."""
        if name not in self.attributes:
            raise FormatError(f"attribute {name!r} is missing; export the model again")
        return self.attributes[name]

    def known(self, value: Expr) -> Array | None:
        """The numbers of a constant, or None."""
        found: Array | None = value.node.attr("value").array if value.node.op.name == "constant" else None
        return found

    def numbers(self, position: int) -> Array:
        """The numbers of an input; BindError if they come with the values of the model's inputs."""
        found = self.known(self[position])
        if found is None:
            raise self.unbound(position)
        return found

    def dims(self, position: int) -> list[Dim]:
        """The dimensions that an integer input holds, flattened; BindError if they come with the inputs' values."""
        value = self.known(self[position])
        if value is not None:
            return [int(d) for d in value.flat]
        found = self.reader.knowledge.of(self[position].node)
        if found is None:
            raise self.unbound(position)
        return [int(d) if not isinstance(d, str) else d for d in found.flat]

    def ints(self, position: int) -> list[int]:
        """Integers that an input holds."""
        values = self.numbers(position)
        if values.dtype.kind not in "iu":
            raise FormatError(f"input {position} must be integers, not {values.dtype}; export the model again")
        return [int(v) for v in values.flat]

    def axes(self, position: int) -> list[int] | None:
        """Axes from the attribute (old operator sets) or from an input; None where there are none."""
        if "axes" in self.attributes:
            return [int(a) for a in self.attributes["axes"]]
        return self.ints(position) if self.has(position) else None

    def unbound(self, position: int) -> BindError:
        """The error for an input whose value must be known when the model is read."""
        leaves = walk.ancestors([self[position].node])
        names = tuple(node.attr("name") for node in leaves if node.op.name == "input")
        return BindError(
            f"input {position} ({self.node.input[position]!r}) decides a shape and depends on the value of "
            f"{', '.join(map(repr, names)) or 'a named size'}; fix it with bind={{name: array}}",
            names,
        )


def scalar(value: Any, like: Expr) -> Expr:
    """A constant number in the dtype of another value."""
    return array.constant(np.asarray(value), like.dtype)


def axis_of(call: Call, default: int, rank: int, name: str = "axis") -> int:
    """The attribute `axis` counted from the front."""
    return array.normal_axis(call.attr(name, default), rank)
