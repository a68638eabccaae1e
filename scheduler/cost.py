"""What work costs: seconds of a node from its axis rule and the bytes it moves, at the rates of a machine.

The default rates are those of one core of a current server; predictions are as good as the rates.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from graphir.cost import node_operations
from graphir.node import Node
from graphir.types import TensorType


@dataclass(frozen=True, slots=True)
class Rates:
    """One worker: seconds a node costs whatever its size, operations a second, bytes a second of memory.

    contraction: multiply-adds of matrix products, counted as two operations, in double precision; single is twice as fast.
    message: seconds until a small message has arrived; network: bytes a second between workers.
    """

    node: float = 2e-6
    contraction: float = 6e10
    other: float = 1.5e9
    memory: float = 1e10
    message: float = 1e-4
    network: float = 4e9


DEFAULT = Rates()


def node_seconds(node: Node, sizes: Mapping[str, int], rates: Rates = DEFAULT) -> float:
    """An estimate of one evaluation; views and leaves cost next to nothing."""
    if node.op.cheap or not node.inputs:
        return rates.node / 4
    moved = sum(value_bytes(n.type, sizes) for n in (*node.inputs, node))
    speed = rates.other
    rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
    if rule is not None and rule.combine == "sum" and len(rule.inputs) > 1:
        speed = rates.contraction * (2 if node.type.dtype.itemsize <= 4 else 1)
    return rates.node + max(node_operations(node, sizes) / speed, moved / rates.memory)


def program_seconds(nodes: Iterable[Node], sizes: Mapping[str, int], rates: Rates = DEFAULT) -> float:
    """An estimate of one run of a program."""
    return sum(node_seconds(node, sizes, rates) for node in nodes)


def value_bytes(type_: TensorType, sizes: Mapping[str, int]) -> int:
    """The bytes of a whole value."""
    return prod(type_.bind(sizes)) * type_.dtype.itemsize
