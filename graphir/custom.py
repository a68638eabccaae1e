"""Derivatives of the user's own: `gi.custom_vjp`; and the pass that drops what only differentiation reads."""

from collections.abc import Callable, Sequence
from typing import Any

from graphir import walk
from graphir.errors import ShapeError
from graphir.expr import Expr, as_expr
from graphir.graph import Graph, as_node
from graphir.node import Node
from graphir.ops import custom

MARKERS = frozenset({"custom_vjp", "stop_gradient"})
"""Ops that pass their first input on and mean something to derivatives alone."""


def custom_vjp(
    forward: Callable[..., Expr], backward: Callable[..., Sequence[Any]], *, name: str | None = None
) -> Callable[..., Expr]:
    """A function like `forward` whose derivative is `backward(cotangent, value, *arguments)`.

    forward takes expressions and returns one; backward returns an expression of each argument's type, or None for a
    zero derivative. Both build graph, so the result may be differentiated again. name: under which a saved graph
    finds the rule again (by default the module and name of `backward`); the module must be imported first.
    """
    rule = name or f"{backward.__module__}.{backward.__qualname__}"

    def apply(cotangent: Node, value: Node, *arguments: Node) -> tuple[Node | None, ...]:
        given = backward(Expr(cotangent), Expr(value), *map(Expr, arguments))
        if len(given) != len(arguments):
            raise ShapeError(f"{rule} gives {len(given)} cotangents for {len(arguments)} arguments; give one for each")
        return tuple(_checked(g, a, rule) for g, a in zip(given, arguments, strict=True))

    custom.BACKWARD[rule] = apply

    def function(*arguments: Any) -> Expr:
        expressions = [as_expr(argument) for argument in arguments]
        value = forward(*expressions)
        return Expr(custom.custom_vjp(value.node, *[e.node for e in expressions], rule=rule))

    return function


def _checked(given: Any, argument: Node, rule: str) -> Node | None:
    if given is None:
        return None
    node = as_node(as_expr(given))
    if node.type != argument.type:
        raise ShapeError(f"{rule} gives a cotangent of type {node.type} for an argument of type {argument.type}")
    return node


def without_markers(graph: Graph) -> Graph:
    """The same values without custom_vjp and stop_gradient, for a graph that is not differentiated any more."""
    if not any(node.op.name in MARKERS for node in graph.nodes):
        return graph
    image = walk.rebuild(graph.nodes, lambda node, inputs: inputs[0] if node.op.name in MARKERS else None)
    return Graph({name: image[node] for name, node in graph.outputs.items()}, inputs=graph.inputs)
