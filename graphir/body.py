"""Body: a graph inside an attribute, what control flow repeats or chooses. Compared and hashed by content.

Its inputs are `input` nodes named by position, so equal bodies are equal whatever the names were where they were
written. A body sees nothing from outside: what it needs is an input.
"""

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from graphir.node import Node
    from graphir.types import TensorType


@final
class Body:
    """Input nodes, output nodes, and all nodes in topological order."""

    def __init__(self, inputs: "tuple[Node, ...]", outputs: "tuple[Node, ...]", nodes: "tuple[Node, ...]") -> None:
        self.inputs, self.outputs, self.nodes = inputs, outputs, nodes
        parts = [f"{len(inputs)},{len(outputs)}".encode(), *(node.digest for node in (*inputs, *outputs))]
        self.digest = hashlib.sha256(b"body".join(parts)).digest()

    @cached_property
    def values(self) -> "tuple[Node, ...]":
        """The inputs and then the other nodes, in an order that depends on the structure alone."""
        found = dict.fromkeys(self.inputs)
        stack = [(node, False) for node in reversed(self.outputs)]
        while stack:
            node, ready = stack.pop()
            if ready:
                found[node] = None
            elif node not in found:
                stack.append((node, True))
                stack.extend([(source, False) for source in reversed(node.inputs)])
        return tuple(found)

    def value(self, k: int) -> "Node":
        """Output k; beyond the outputs, number k - len(outputs) of the values inside."""
        return self.outputs[k] if k < len(self.outputs) else self.values[k - len(self.outputs)]

    def number(self, node: "Node") -> int:
        """The number by which `value` gives a node that is inside."""
        return len(self.outputs) + self.values.index(node)

    @cached_property
    def input_types(self) -> "tuple[TensorType, ...]":
        """The types of what it is called with."""
        return tuple(node.type for node in self.inputs)

    @cached_property
    def output_types(self) -> "tuple[TensorType, ...]":
        """The types of what it gives."""
        return tuple(node.type for node in self.outputs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Body) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"body {self.digest.hex()[:8]} of {len(self.nodes)} nodes"
