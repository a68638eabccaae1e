"""jvp, jacobian and hessian: symbolic, built from reverse mode and batching, without loops over rows.

jvp is reverse over reverse ("double backward", Townsend 2017): the vjp is linear in its cotangent, and the vjp of
that linear map is the jvp. Forward rules give no smaller graphs (docs/performance.md). A jacobian is the vjp batched
over the rows of an identity.
"""

import itertools
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from graphir import dims, walk
from graphir.array import eye
from graphir.batch import batch_values
from graphir.dims import Dim
from graphir.errors import DisconnectedError, GraphError, MissingExtraError, ShapeError
from graphir.expr import Expr
from graphir.grad import as_nodes, grad, vjp
from graphir.graph import as_node
from graphir.node import Node, describe, made_by
from graphir.ops import layout
from graphir.ops.sources import input_

_numbers = itertools.count()


def stand_in(node: Node) -> Node:
    """An input of a node's type that nobody feeds: it must vanish from the result."""
    name = f"stand-in {next(_numbers)}"
    return input_(name=name, dtype=node.type.dtype.name, shape=node.type.shape)


def jvp(outputs: Sequence[Expr], wrt: Sequence[Expr], tangents: Sequence[Any]) -> tuple[Expr, ...]:
    """The Jacobian of each output times the tangents, one for each of `wrt` and of its shape."""
    if len(as_nodes(wrt, "wrt")) != len(tangents):
        raise ShapeError(f"jvp needs one tangent for each of {len(wrt)} variables, not {len(tangents)}")
    targets = as_nodes(outputs, "outputs")
    results = []
    for target in targets:
        cotangent = stand_in(target)
        rows = vjp([Expr(target)], wrt, [Expr(cotangent)], disconnected="zero")
        (forward,) = vjp(rows, [Expr(cotangent)], tangents, disconnected="zero")
        if cotangent in set(walk.ancestors([forward.node])):
            raise GraphError("a derivative rule is not linear in its cotangent; please report it").at(describe(target))
        results.append(forward)
    return tuple(results)


def jacobian(of: Expr, wrt: Sequence[Expr], *, sparsity: Any = None) -> tuple[Any, ...]:
    """The derivative of every element of `of` by every element of each of `wrt`: shape of.shape + wrt.shape.

    sparsity: None for dense expressions; "auto", or a SciPy pattern for each of `wrt`, for a
    `graphir.sparse.SparseMatrix` each (needs the extra `sparse`). Raises DisconnectedError as `grad` does.
    """
    if sparsity is not None:
        return _sparse("sparse_jacobian", of, wrt, sparsity)
    node = as_node(of)
    if node.type.dtype.kind != "f":
        raise DisconnectedError(f"{node.type} carries no derivative; cast it to a float").at(describe(node))
    cotangent = stand_in(node)
    rows = vjp([Expr(node)], wrt, [Expr(cotangent)])
    with made_by(node):
        count: Dim = 1
        for d in node.type.shape:
            count = dims.multiply(count, d)
        identity = eye(count, dtype=node.type.dtype).node
        basis = layout.reshape(identity, shape=(count, *node.type.shape))
        found = batch_values([row.node for row in rows], {cotangent: basis}, count)
        shapes = [(*node.type.shape, *row.shape) for row in rows]
        return tuple(Expr(layout.reshape(f, shape=s)) for f, s in zip(found, shapes, strict=True))


def hessian(of: Expr, wrt: Sequence[Expr], *, sparsity: Any = None) -> tuple[Any, ...]:
    """The second derivatives of a scalar: block [i][j] has shape wrt[i].shape + wrt[j].shape.

    sparsity: as for `jacobian`; then the result is one sparse matrix for each of `wrt`, its own block [i][i].
    """
    if sparsity is not None:
        return _sparse("sparse_hessian", of, wrt, sparsity)
    return tuple(_rows(gradient, wrt) for gradient in grad(of, wrt))


def _sparse(function: str, of: Expr, wrt: Sequence[Expr], sparsity: Any) -> tuple[Any, ...]:
    try:
        make = getattr(import_module("graphir.sparse"), function)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"sparse derivatives need {error.name}, which is not installed; pip install 'gradfleet[sparse]'"
        ) from error
    patterns = [None] * len(wrt) if isinstance(sparsity, str) and sparsity == "auto" else list(sparsity)
    if len(patterns) != len(wrt):
        raise ShapeError(f"give one pattern for each of {len(wrt)} variables, or sparsity='auto'; got {len(patterns)}")
    return tuple(make(of, variable, found) for variable, found in zip(wrt, patterns, strict=True))


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
