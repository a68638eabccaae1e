"""Sums over the steps of a scan that are computed after it: a sum of products of what is stacked is one product.

The gradient of a weight is a sum over steps of products of two values. Where both are there for all steps, as slices or because
they are stacked, one contraction over the steps takes less time than a product and an addition at each.
"""

from collections.abc import Callable, Mapping, Sequence

from graphir.node import Node
from graphir.ops.contraction import einsum, matmul
from graphir.ops.layout import inverse, permute, reduce_sum

Make = Callable[[Sequence[Node]], Node]
"""From the stacked values to the sum."""
_LETTERS = "abcdefghijklmnopqrsuvwxyz"  # t counts the steps


class Later:
    """slices: arrays by the placeholders of a step's slices; stacked: values of a step that are stacked anyway, and others."""

    def __init__(self, slices: Mapping[Node, Node], stacked: Sequence[Node]) -> None:
        self._slices, self.stacked = slices, list(stacked)

    def taken(self, node: Node) -> Make | None:
        """How to make the sum of a step's value after the scan, if that is better; what it needs is then stacked."""
        if node.op is matmul:
            return self._product(node)
        if node.op is reduce_sum and self._there(node.inputs[0]):
            place, axes = self._place(node.inputs[0]), tuple(axis + 1 for axis in node.attr("axes"))
            return lambda made: reduce_sum(place(made), axes=(0, *axes))
        return None

    def _product(self, node: Node) -> Make | None:
        bases = [_base(operand) for operand in node.inputs]
        if not any(self._there(base) for base, _ in bases) or any(
            not base.inputs and not self._there(base) for base, _ in bases
        ):
            return None  # nothing is stacked anyway, or an operand is the same at each step
        batch = _LETTERS[: node.type.rank - 2]
        left, right, contracted = tuple(_LETTERS[len(batch) : len(batch) + 3])
        operands = [f"{batch}{left}{contracted}", f"{batch}{contracted}{right}"]
        own = ["".join(text[axis] for axis in inverse(axes)) for text, (_, axes) in zip(operands, bases, strict=True)]
        places = [self._place(base) for base, _ in bases]
        subscripts = f"t{own[0]},t{own[1]}->{batch}{left}{right}"
        return lambda made: einsum(*(place(made) for place in places), subscripts=subscripts)

    def _there(self, base: Node) -> bool:
        return base in self._slices or base in self.stacked

    def _place(self, base: Node) -> Make:
        """Where a value's stack is; it is stacked from now on if it was not."""
        if base in self._slices:
            array = self._slices[base]
            return lambda made: array
        if base not in self.stacked:
            self.stacked.append(base)
        number = self.stacked.index(base)
        return lambda made: made[number]


def _base(node: Node) -> tuple[Node, tuple[int, ...]]:
    """What is behind a permutation of axes, and the permutation."""
    if node.op is permute:
        return node.inputs[0], node.attr("axes")
    return node, tuple(range(node.type.rank))
