"""jvp, jacobian and hessian: symbolic, built from reverse mode and batching, without loops over rows.

jvp is reverse over reverse ("double backward", Townsend 2017): the vjp is linear in its cotangent, and the vjp of
that linear map is the jvp. A jacobian is the vjp batched over the rows of an identity.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from graphir import dims, walk
from graphir.array import eye
from graphir.batch import batch_values
from graphir.dims import Dim
from graphir.errors import DisconnectedError, GraphError, ShapeError
from graphir.expr import Expr
from graphir.grad import grad, vjp
from graphir.graph import as_node
from graphir.node import Node, describe, made_by
from graphir.ops import layout
from graphir.ops.sources import input_

_numbers = itertools.count()


def _stand_in(node: Node) -> Node:
    """An input of a node's type that nobody feeds: it must vanish from the result."""
    name = f"stand-in {next(_numbers)}"
    return input_(name=name, dtype=node.type.dtype.name, shape=node.type.shape)


def jvp(outputs: Sequence[Expr], wrt: Sequence[Expr], tangents: Sequence[Any]) -> tuple[Expr, ...]:
    """The Jacobian of each output times the tangents, one for each of `wrt` and of its shape."""
    if len(wrt) != len(tangents):
        raise ShapeError(f"jvp needs one tangent for each of {len(wrt)} variables, not {len(tangents)}")
    targets = [as_node(output) for output in outputs]
    results = []
    for target in targets:
        stand_in = _stand_in(target)
        rows = vjp([Expr(target)], wrt, [Expr(stand_in)], disconnected="zero")
        (forward,) = vjp(rows, [Expr(stand_in)], tangents, disconnected="zero")
        if stand_in in set(walk.ancestors([forward.node])):
            raise GraphError("a derivative rule is not linear in its cotangent; please report it").at(describe(target))
        results.append(forward)
    return tuple(results)


def jacobian(of: Expr, wrt: Sequence[Expr]) -> tuple[Expr, ...]:
    """The derivative of every element of `of` by every element of each of `wrt`: shape of.shape + wrt.shape."""
    node = as_node(of)
    if node.type.dtype.kind != "f":
        raise DisconnectedError(f"{node.type} carries no derivative; cast it to a float").at(describe(node))
    stand_in = _stand_in(node)
    rows = vjp([Expr(node)], wrt, [Expr(stand_in)])
    with made_by(node):
        count: Dim = 1
        for d in node.type.shape:
            count = dims.multiply(count, d)
        identity = eye(count, dtype=node.type.dtype).node
        basis = layout.reshape(identity, shape=(count, *node.type.shape))
        found = batch_values([row.node for row in rows], {stand_in: basis}, count)
        shapes = [(*node.type.shape, *row.shape) for row in rows]
        return tuple(Expr(layout.reshape(f, shape=s)) for f, s in zip(found, shapes, strict=True))


def hessian(of: Expr, wrt: Sequence[Expr]) -> tuple[tuple[Expr, ...], ...]:
    """The second derivatives of a scalar: block [i][j] has shape wrt[i].shape + wrt[j].shape."""
    return tuple(_rows(gradient, wrt) for gradient in grad(of, wrt))


def _rows(gradient: Expr, wrt: Sequence[Expr]) -> tuple[Expr, ...]:
    """The jacobian of a gradient, with zeros where it does not depend on a variable."""
    found: list[Expr] = []
    for variable in wrt:
        try:
            found += jacobian(gradient, [variable])
        except DisconnectedError:
            with made_by(as_node(variable)):
                pattern = as_node(variable)
                shape = (*gradient.shape, *pattern.type.shape)
                zero = layout.fill_like(pattern, 0)
                axes = tuple(range(len(gradient.shape), len(shape)))
                found.append(Expr(layout.broadcast(zero, shape=shape, axes=axes)))
    return tuple(found)
