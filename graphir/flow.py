"""Control flow on expressions: scan, cond, while_loop and checkpoint.

Functions are called once, on stand-ins; what they build becomes a body. Outer values that they use become inputs.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from graphir import dims
from graphir.control import branch, loop
from graphir.control import scan as scans
from graphir.control.bodies import body_of, captured, close, placeholder
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import Expr, as_expr
from graphir.nesting import Tree
from graphir.node import Node
from graphir.ops import arithmetic
from graphir.origin import located
from graphir.types import TensorType
from graphir.walk import ancestors

_numbers = itertools.count()


def _stand_ins(types: Sequence[TensorType]) -> list[Node]:
    return [placeholder(f"stand-in {next(_numbers)}", type_) for type_ in types]


@located
def scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    *,
    length: int | str | None = None,
    reverse: bool = False,
    checkpoints: int | None = None,
) -> tuple[Any, Any]:
    """Carry a value through a step for each slice of `xs` along its first axis; (last value, stacked results).

    step(carry, x) -> (carry, y) is called once, on stand-ins. carry, x and y are expressions, None, or tuples, lists or
    dicts of them; the carry keeps its form, shapes and dtypes. length: the number of steps where there is no xs.
    reverse: from the last slice to the first; stacked results lie where their slices do. A carry to which each step
    only adds is computed as its first value plus a sum over steps. Differentiable to any order. ShapeError,
    DTypeError. Semantics of jax.lax.scan.

    checkpoints: reverse mode keeps at most so many carries at a time, by default all of them, and computes the others
    again by the binomial schedule (Griewank and Walther, "Algorithm 799: revolve", ACM TOMS 26, 2000): for l steps
    and c checkpoints r l - binomial(c + r, r - 1) steps forward, r the least with binomial(c + r, c) >= l. Without
    checkpoints, sums over the steps are taken of all steps at once where they can be: their last bits may be others.
    """
    if checkpoints is not None and checkpoints < 1:
        raise AttributeValueError(f"a scan needs at least 1 checkpoint, not {checkpoints}; leave it out to keep all")
    first, slices = Tree(init), Tree(xs)
    steps = _length(slices.leaves, length)
    carried = _stand_ins([leaf.node.type for leaf in first.leaves])
    given = _stand_ins([leaf.node.type.with_shape(leaf.node.type.shape[1:]) for leaf in slices.leaves])
    result: Any = step(first.filled(carried), slices.filled(given))
    if not isinstance(result, tuple) or len(result) != 2:
        raise ShapeError("the step must return a pair: the next carry and what is to be stacked (or None)")
    after, stacked = Tree(result[0]), Tree(result[1])
    _check_carry(first, after)
    sums = _sums(carried, after.nodes, stacked.nodes)
    kept = [k for k in range(len(carried)) if k not in sums]
    nodes = scans.scan_nodes(
        [(carried[k], first.nodes[k], after.nodes[k]) for k in kept],
        list(zip(given, slices.nodes, strict=True)), stacked.nodes, list(sums.values()), steps, reverse, checkpoints or 0,
    )  # fmt: skip
    final = dict(zip(kept, nodes, strict=False))
    totals = nodes[len(kept) + len(stacked.nodes) :]
    final |= {k: arithmetic.add(first.nodes[k], total) for k, total in zip(sums, totals, strict=True)}
    return first.filled([final[k] for k in range(len(carried))]), stacked.filled(nodes[len(kept) :])


def _length(leaves: Sequence[Expr], length: int | str | None) -> dims.Dim:
    if any(leaf.ndim == 0 for leaf in leaves):
        raise ShapeError("what a scan goes along needs an axis; pass scalars through the step's closure instead")
    found = list(dict.fromkeys([leaf.node.type.shape[0] for leaf in leaves]))
    if length is not None:
        found = list(dict.fromkeys([*found, dims.dim(length)]))
    if len(found) != 1:
        raise ShapeError(f"a scan needs one length, not {found}; give xs of equal first axes, or length=")
    return found[0]


def _check_carry(first: Tree, after: Tree) -> None:
    if first.shape() != after.shape():
        raise ShapeError(f"the carry goes in as {first.shape()} and comes out as {after.shape()}; keep its form")
    for k, (old, new) in enumerate(zip(first.nodes, after.nodes, strict=True)):
        if old.type != new.type:
            error = ShapeError if old.type.shape != new.type.shape else DTypeError
            raise error(f"carried value {k} goes in as {old.type} and comes out as {new.type}; cast or reshape it")


def _sums(carried: Sequence[Node], after: Sequence[Node], stacked: Sequence[Node]) -> dict[int, Node]:
    """Carries to which a step adds something and that it uses for nothing else: what it adds."""
    sums: dict[int, Node] = {}
    for k, (old, new) in enumerate(zip(carried, after, strict=True)):
        if new.op is not arithmetic.add or old not in new.inputs or new.inputs == (old, old):
            continue
        added = new.inputs[1] if new.inputs[0] is old else new.inputs[0]
        others = [*stacked, *(node for j, node in enumerate(after) if j != k), added]
        if old not in ancestors(others):
            sums[k] = added
    return sums


@located
def cond(condition: Any, then: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """then(*operands) where the condition (one bool) holds, otherwise(*operands) where not; only one is evaluated.

    Both must give the same form, shapes and dtypes. Operands and results are expressions or tuples, lists or dicts of
    them. Differentiable to any order. ShapeError, DTypeError. Semantics of jax.lax.cond.
    """
    given = Tree(operands)
    inside = _stand_ins([node.type for node in given.nodes])
    results = [Tree(function(*given.filled(inside))) for function in (then, otherwise)]
    if results[0].shape() != results[1].shape():
        raise ShapeError(f"the branches give {results[0].shape()} and {results[1].shape()}; make them alike")
    outer = captured(inside, [*results[0].nodes, *results[1].nodes])
    bodies = [body_of([*inside, *outer], result.nodes) for result in results]
    inputs = (as_expr(condition).node, *given.nodes, *outer)
    count = range(len(results[0].nodes))
    return results[0].filled([branch.cond(*inputs, then=bodies[0], otherwise=bodies[1], output=k) for k in count])


@located
def while_loop(test: Callable[[Any], Any], step: Callable[[Any], Any], init: Any, *, limit: int = 1_000_000) -> Any:
    """Repeat carry = step(carry) as long as test(carry), one bool, holds; the last carry.

    The carry keeps its form, shapes and dtypes. limit: after so many steps LimitError is raised. Forward only: use
    scan for derivatives. ShapeError, DTypeError. Semantics of jax.lax.while_loop.
    """
    first = Tree(init)
    inside = _stand_ins([node.type for node in first.nodes])
    goes_on, after = as_expr(test(first.filled(inside))).node, Tree(step(first.filled(inside)))
    _check_carry(first, after)
    outer = captured(inside, [goes_on, *after.nodes])
    inputs = [*inside, *outer]
    attrs = {"test": body_of(inputs, [goes_on]), "body": body_of(inputs, after.nodes), "limit": limit}
    return first.filled([loop.while_loop(*first.nodes, *outer, **attrs, output=k) for k in range(len(inside))])


@located
def checkpoint(x: Any) -> Any:
    """The same values, but reverse mode computes what is inside again instead of keeping it (rematerialisation).

    x: an expression, of which everything since the graph's inputs and earlier checkpoints is inside; or a function,
    which becomes one whose own values are inside. Griewank and Walther, "Evaluating Derivatives", 2008, chapter 12.
    """
    if callable(x):
        return lambda *arguments: _recomputed(x, arguments)
    result = as_expr(x).node
    found = ancestors([result])
    kept = frozenset(node for node in found if node.op.name in ("input", "call") and node is not result)
    edge = [node for node in ancestors([result], stop=kept) if node in kept]
    return Expr(branch.call(*edge, body=body_of(edge, [result]), output=0))


def _recomputed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    given = Tree(arguments)
    inside = _stand_ins([node.type for node in given.nodes])
    result = Tree(function(*given.filled(inside)))
    body, outer = close(inside, result.nodes)
    count = range(len(result.nodes))
    return result.filled([branch.call(*given.nodes, *outer, body=body, output=k) for k in count])
