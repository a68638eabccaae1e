"""What work costs: seconds of a node from its axis rule and the bytes it moves, at the rates of a machine.

The default rates are those of one core of a current server; predictions are as good as the rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from graphir.cost import node_operations
from graphir.graph import Graph
from graphir.node import Kind, Node
from graphir.types import TensorType
from graphir.walk import Column, Columns

WINDOWS = 0.5
"""How fast a product is whose operand is first made of windows: about half as fast as one of matrices, over many shapes."""


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


class Estimate:
    """Seconds and bytes at these sizes; nodes of one kind are worked out once."""

    def __init__(self, sizes: Mapping[str, int], rates: Rates = DEFAULT) -> None:
        self.sizes, self.rates = sizes, rates
        self._seconds: dict[Kind, float] = {}
        self._bytes: dict[TensorType, int] = {}

    def columns(self, table: Columns) -> tuple[NDArray[np.float64], Column]:
        """The seconds that each node takes and the bytes that its value has."""
        each, bytes_ = self._each(table), [self._type_bytes(kind.type) for kind in table.kinds]
        return table.by_kind(each, np.float64), table.by_kind(bytes_, np.int64)

    def total(self, table: Columns) -> float:
        """The seconds of all nodes."""
        numbers = np.bincount(table.codes, minlength=len(table.kinds)).tolist()
        return float(sum(number * seconds for number, seconds in zip(numbers, self._each(table), strict=True)))

    def _each(self, table: Columns) -> list[float]:
        """The seconds of a node of each kind."""
        return list(map(self.seconds, table.examples))

    def seconds(self, node: Node) -> float:
        """One evaluation of a node; views and leaves cost next to nothing."""
        if node.op.cheap or not node.inputs:
            return self.rates.node / 4
        kind = node.kind or node.op.kinds(tuple([i.type for i in node.inputs]), node.attrs)
        known = self._seconds.get(kind)
        if known is None:
            known = self._seconds[kind] = self._worked_out(node)
        return known

    def bytes(self, node: Node) -> int:
        """The bytes of a node's value."""
        return self._type_bytes(node.type)

    def _type_bytes(self, type_: TensorType) -> int:
        known = self._bytes.get(type_)
        if known is None:
            known = self._bytes[type_] = value_bytes(type_, self.sizes)
        return known

    def _worked_out(self, node: Node) -> float:
        moved = sum(self._type_bytes(each.type) for each in (*node.inputs, node))
        speed = self.rates.other
        rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
        if rule is not None and rule.combine == "sum" and len(rule.inputs) > 1:
            speed = self.rates.contraction * (2 if node.type.dtype.itemsize <= 4 else 1)
            speed *= WINDOWS if rule.visited else 1
        return self.rates.node + max(node_operations(node, self.sizes) / speed, moved / self.rates.memory)


def program_seconds(program: Graph, sizes: Mapping[str, int], rates: Rates = DEFAULT) -> float:
    """An estimate of one run of a program."""
    return Estimate(sizes, rates).total(program.columns)


def value_bytes(type_: TensorType, sizes: Mapping[str, int]) -> int:
    """The bytes of a whole value."""
    return prod(type_.bind(sizes)) * type_.dtype.itemsize
