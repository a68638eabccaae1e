"""Simplification that changes no bit: every rule is exact in floating point, signed zeros, NaN and infinities included.

So x + 0.0 stays (it turns -0.0 into 0.0), x - 0.0 goes; x * 0 stays. Common subexpressions need no rule, since nodes
are interned; dead nodes go with the new graph.
"""

import numpy as np

from graphir.graph import Graph
from graphir.interpret import apply, bound_attributes
from graphir.node import Array, Node, made_by
from graphir.ops import layout
from graphir.ops.sources import literal
from graphir.origin import Origin
from graphir.rewrite import Rule, rewrite

LARGEST_FOLDED = 4096
"""Most elements of a constant that folding makes."""


def simplify(graph: Graph) -> Graph:
    """An equal graph, to the last bit, with the same inputs and outputs and usually fewer nodes."""
    with made_by(Origin("pass", of="simplify")):
        return rewrite(graph, TABLE)


def constant_of(node: Node) -> Array | None:
    """The value of a constant, seen through broadcasts of a scalar."""
    while node.op.name == "broadcast":
        node = node.inputs[0]
    return node.attr("value").array if node.op.name == "constant" else None


def _is_everywhere(node: Node, number: float, negative: bool = False) -> bool:
    """Whether the node is a constant equal to `number` in every element, with the sign bit as asked."""
    value = constant_of(node)
    if value is None or not value.size:
        return False
    return bool(np.all(value == number) and (value.dtype.kind != "f" or np.all(np.signbit(value) == negative)))


def _fold(node: Node) -> Node | None:
    """An op on constants becomes a constant, unless it is large, or a leaf, or only moves what is there."""
    if not node.inputs or node.op.name in ("broadcast", "stop_gradient") or node.op.offset:
        return None
    if any(source.op.name != "constant" for source in node.inputs):
        return None
    if not all(isinstance(d, int) for d in node.type.shape) or any(
        node.op.attrs[k] == "dim" and isinstance(v, str) for k, v in node.attrs
    ):
        return None
    if int(np.prod(node.type.bind({}), dtype=np.int64)) > LARGEST_FOLDED:
        return None
    with np.errstate(all="ignore"):
        values = [source.attr("value").array for source in node.inputs]
        return literal(apply(node, values, bound_attributes(node, {})), node.type.dtype)


def _right_one(node: Node) -> Node | None:
    """x * 1, x / 1, x ** 1"""
    return node.inputs[0] if _is_everywhere(node.inputs[1], 1.0) else None


def _left_one(node: Node) -> Node | None:
    """1 * x"""
    return node.inputs[1] if _is_everywhere(node.inputs[0], 1.0) else None


def _minus_zero(node: Node) -> Node | None:
    """x - 0.0"""
    return node.inputs[0] if _is_everywhere(node.inputs[1], 0.0) else None


def _plus_zero(node: Node) -> Node | None:
    """x + (-0.0), and x + 0 for integers"""
    exact = node.type.dtype.kind == "f"
    for own, other in ((0, 1), (1, 0)):
        if _is_everywhere(node.inputs[other], 0.0, negative=exact):
            return node.inputs[own]
    return None


def _twice(node: Node) -> Node | None:
    """-(-x), and other ops that undo themselves"""
    inner = node.inputs[0]
    return inner.inputs[0] if inner.op is node.op and inner.attrs == node.attrs else None


def _same_input(node: Node) -> Node | None:
    """+x"""
    return node.inputs[0]


def _same_dtype(node: Node) -> Node | None:
    """a cast to the dtype that the value has"""
    return node.inputs[0] if node.type is node.inputs[0].type or node.type == node.inputs[0].type else None


def _reshape(node: Node) -> Node | None:
    """reshape to the same shape, and reshape of a reshape"""
    inner = node.inputs[0]
    if inner.type == node.type:
        return inner
    return layout.reshape(inner.inputs[0], shape=node.type.shape) if inner.op is node.op else None


def _permute(node: Node) -> Node | None:
    """the identity, and permute of a permute"""
    inner, axes = node.inputs[0], node.attr("axes")
    if axes == tuple(range(len(axes))):
        return inner
    if inner.op is not node.op:
        return None
    return layout.permute(inner.inputs[0], axes=tuple(inner.attr("axes")[axis] for axis in axes))


def _broadcast(node: Node) -> Node | None:
    """broadcast to the same shape, and broadcast of a broadcast"""
    inner, axes = node.inputs[0], node.attr("axes")
    if inner.type == node.type:
        return inner
    if inner.op is not node.op:
        return None
    kept = tuple(axes[axis] for axis in inner.attr("axes"))
    return layout.broadcast(inner.inputs[0], shape=node.type.shape, axes=kept)


def _slice(node: Node) -> Node | None:
    """a slice of everything"""
    return node.inputs[0] if node.type == node.inputs[0].type and node.attr("step") == 1 else None


def _where(node: Node) -> Node | None:
    """a condition that is the same everywhere, or a choice between equals"""
    condition, left, right = node.inputs
    if left is right:
        return left
    value = constant_of(condition)
    if value is None or not value.size or value.min() != value.max():
        return None
    return left if value.flat[0] else right


TABLE: dict[str, tuple[Rule, ...]] = {
    "multiply": (_right_one, _left_one),
    "divide": (_right_one,),
    "pow": (_right_one,),
    "subtract": (_minus_zero,),
    "add": (_plus_zero,),
    "negative": (_twice,),
    "logical_not": (_twice,),
    "bitwise_invert": (_twice,),
    "flip": (_twice,),
    "positive": (_same_input,),
    "cast": (_same_dtype,),
    "reshape": (_reshape,),
    "permute": (_permute,),
    "broadcast": (_broadcast,),
    "slice": (_slice,),
    "place": (_slice,),
    "where": (_where,),
    "*": (_fold,),
}
"""Rules by op, in order; each says in its docstring what it matches."""
