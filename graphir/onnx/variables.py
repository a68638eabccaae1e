"""Variables: the values that a model's Gradient operators differentiate by, each held apart while the model is read.

Equal expressions are one node, and operators on constants are evaluated at once. A derivative by a weight that is
stored in the model, or by the result of an operator, must see neither: such a value is read as a leaf that stands for
it, and `resolved` puts the value back once the derivatives are taken.
"""

from collections.abc import Iterable, Mapping, Sequence

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from graphir import array, walk
from graphir.expr import Expr
from graphir.grad import vjp
from graphir.node import Node

DOMAIN = "ai.onnx.preview.training"


class Variables:
    """The names that Gradient operators differentiate by or hold constant, and what the leaves stand for."""

    def __init__(self, model: ModelProto) -> None:
        self.names = frozenset(_named(model))
        self.values: dict[Node, Node] = {}

    def stand_in(self, name: str, value: Expr | None) -> Expr | None:
        """A leaf for a variable, and the value itself for anything else."""
        if value is None or name not in self.names or value.dtype.kind != "f" or value.node.op.name == "input":
            return value
        leaf = array.input(f"{name} (variable {len(self.values)})", value.shape, value.dtype)
        self.values[leaf.node] = value.node
        return leaf

    def resolved(self, found: Sequence[Expr], keep: Iterable[Node] = ()) -> list[Expr]:
        """Expressions with the values in place of the leaves, but for those in `keep`."""
        values = {leaf: value for leaf, value in self.values.items() if leaf not in set(keep)}
        while values and any(node in values for node in walk.ancestors([expr.node for expr in found])):
            found = _substituted(found, values)  # a value may contain the leaves of earlier variables
        return list(found)

    def gradients(self, y: Expr, xs: Sequence[Expr], zs: Sequence[Expr], at: Sequence[Expr]) -> list[Expr]:
        """The derivative of the sum of y by each of xs with zs held constant, at other values of xs and zs."""
        fixed = [x.node for x in (*xs, *zs)]
        (target,) = self.resolved([y], keep=fixed)
        found = vjp([target], xs, [array.ones_like(target)], constants=zs, disconnected="zero")
        changed = {old: new.node for old, new in zip(fixed, at, strict=True) if old is not new.node}
        return _substituted(found, changed)


def _substituted(found: Sequence[Expr], values: Mapping[Node, Node]) -> list[Expr]:
    nodes = walk.ancestors([expr.node for expr in found], stop=frozenset(values))
    image = walk.substitute([node for node in nodes if node not in values], values)
    return [Expr(image[expr.node]) for expr in found]


def _named(model: ModelProto) -> Iterable[str]:
    """The names in `xs` and `zs` of all Gradient operators, those of subgraphs and functions too."""
    pending: list[NodeProto] = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        for proto in node.attribute:
            pending.extend(inner for graph in _graphs(proto) for inner in graph.node)
            if node.op_type == "Gradient" and node.domain == DOMAIN and proto.name in ("xs", "zs"):
                yield from (name.decode(errors="replace") for name in proto.strings)


def _graphs(proto: AttributeProto) -> list[GraphProto]:
    return [proto.g, *proto.graphs] if proto.HasField("g") else list(proto.graphs)
