"""Derivatives, symbol to symbol: each function appends nodes and returns expressions; no number is touched.

The result is ordinary graph: it can be evaluated, cut, saved and differentiated again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from graphir import interpret, reverse
from graphir.errors import AttributeValueError, DisconnectedError, ShapeError
from graphir.expr import Expr, as_expr, cast
from graphir.graph import Graph, as_node
from graphir.node import Array, Node, describe, made_by
from graphir.ops import layout, select
from graphir.origin import located

Disconnected = Literal["error", "zero"]


@located
def grad(
    of: Expr,
    wrt: Sequence[Expr],
    *,
    seed: Expr | None = None,
    constants: Iterable[Expr] = (),
    disconnected: Disconnected = "error",
) -> tuple[Expr, ...]:
    """The gradient of `of` with respect to each of `wrt`: expressions of their shapes and dtypes.

    seed: the cotangent of `of`; required unless `of` is a scalar, for which it is 1. constants: expressions held
    constant, which no derivative passes through. disconnected: "error" raises DisconnectedError, which says where the path breaks; "zero" gives zeros.
    """
    node = as_node(of)
    if seed is None:
        if node.type.shape:
            raise ShapeError(
                f"grad needs a scalar, not {node.type}; sum it, or give seed=, the cotangent of each element"
            ).at(describe(node))
        with made_by(node):
            seed = Expr(layout.fill_like(node, 1)) if node.type.dtype.kind == "f" else of
    return vjp([of], wrt, [seed], constants=constants, disconnected=disconnected)


@located
def vjp(
    outputs: Sequence[Expr],
    wrt: Sequence[Expr],
    cotangents: Sequence[Any],
    *,
    constants: Iterable[Expr] = (),
    disconnected: Disconnected = "error",
) -> tuple[Expr, ...]:
    """The vector-Jacobian product: sum over outputs of cotangent times Jacobian, for each of `wrt`.

    A cotangent is not differentiated here, even where it depends on `wrt`. constants, disconnected: as for `grad`.
    """
    targets, sources = as_nodes(outputs, "outputs"), as_nodes(wrt, "wrt")
    held = frozenset(as_nodes(constants, "constants"))
    if disconnected not in ("error", "zero"):
        raise AttributeValueError(f"disconnected is 'error' or 'zero', not {disconnected!r}")
    if len(cotangents) != len(targets):
        raise ShapeError(f"vjp needs one cotangent for each of {len(targets)} outputs, not {len(cotangents)}")
    for target in targets:
        if target.type.dtype.kind != "f":
            raise DisconnectedError(f"{target.type} carries no derivative; cast it to a float").at(describe(target))
    seeds = [_cotangent(c, target) for c, target in zip(cotangents, targets, strict=True)]
    found = reverse.backward(targets, seeds, sources, held)
    result = []
    for source, cotangent in zip(sources, found, strict=True):
        if cotangent is None:
            if disconnected != "zero":
                raise reverse.explain_break(targets, source, held)
            with made_by(source):
                cotangent = layout.fill_like(source, 0)
        result.append(Expr(cotangent))
    return tuple(result)


@located
def hvp(of: Expr, wrt: Sequence[Expr], vectors: Sequence[Any]) -> tuple[Expr, ...]:
    """The Hessian of a scalar times vectors, one for each of `wrt`: reverse over reverse (Pearlmutter 1994)."""
    gradients = grad(of, wrt)
    if len(vectors) != len(gradients):
        raise ShapeError(f"hvp needs one vector for each of {len(gradients)} variables, not {len(vectors)}")
    return vjp(gradients, wrt, vectors, disconnected="zero")


@located
def append_gradients(graph: Graph, of: str = "loss", wrt: Sequence[str] | None = None) -> Graph:
    """The graph with outputs d_{of}_d_{name} for each input in `wrt` (by default all floats); its nodes stay a prefix."""
    if of not in graph.outputs:
        raise DisconnectedError(f"the graph has no output {of!r}; its outputs are {list(graph.outputs)}")
    chosen = [n for n, node in graph.inputs.items() if node.type.dtype.kind == "f"] if wrt is None else list(wrt)
    missing = [name for name in chosen if name not in graph.inputs]
    if missing:
        raise DisconnectedError(f"the graph has no input {missing[0]!r}; its inputs are {list(graph.inputs)}")
    gradients = grad(Expr(graph.outputs[of]), [Expr(graph.inputs[name]) for name in chosen])
    return graph.append({f"d_{of}_d_{name}": value for name, value in zip(chosen, gradients, strict=True)})


@located
def value_and_grad(
    graph: Graph, feeds: Mapping[str, Any], of: str = "loss", wrt: Sequence[str] | None = None
) -> tuple[Array, dict[str, Array]]:
    """Numbers in, numbers out: the value of a scalar output and its gradient by input name."""
    extended = append_gradients(graph.select([of]), of, wrt)
    out = interpret.evaluate(extended, {name: v for name, v in feeds.items() if name in extended.inputs})
    prefix = f"d_{of}_d_"
    return out[of], {name.removeprefix(prefix): v for name, v in out.items() if name.startswith(prefix)}


@located
def stop_gradient(x: Any) -> Expr:
    """The value itself, held constant by differentiation."""
    return Expr(select.stop_gradient(as_expr(x).node))


def as_nodes(values: Iterable[Expr], what: str) -> list[Node]:
    """The nodes of a list of expressions; ShapeError for one expression, which is not a list."""
    if isinstance(values, Expr | Node):
        raise ShapeError(f"{what} is a list of expressions; write [w] for one")
    return [as_node(value) for value in values]


def _cotangent(value: Any, target: Node) -> Node:
    given = value if isinstance(value, Expr) else as_expr(np.asarray(value, target.type.dtype))
    node = cast(given, target.type.dtype).node
    if node.type.shape != target.type.shape:
        raise ShapeError(f"the cotangent of {target.type} has the shape of {node.type}; give one of the same shape")
    return node
