"""Control flow on expressions: `scan`. Functions are called once, on stand-ins; what they build becomes a body."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from graphir import dims
from graphir.control import scan as scans
from graphir.control.bodies import placeholder
from graphir.errors import DTypeError, ShapeError
from graphir.expr import Expr, as_expr
from graphir.node import Node
from graphir.ops import arithmetic
from graphir.origin import located
from graphir.types import TensorType
from graphir.walk import ancestors

_numbers = itertools.count()


class _Tree:
    """A value that is an expression, None, or a tuple, list or dict of such, taken apart and put together again."""

    def __init__(self, value: Any) -> None:
        self.leaves: list[Expr] = []
        self._form = self._flatten(value)

    def _flatten(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, dict):
            return dict, {key: self._flatten(part) for key, part in value.items()}
        if isinstance(value, tuple | list):
            return type(value), [self._flatten(part) for part in value]
        self.leaves.append(as_expr(value))
        return Expr, None

    @property
    def nodes(self) -> list[Node]:
        """The leaves' nodes."""
        return [leaf.node for leaf in self.leaves]

    def shape(self) -> str:
        """The form without the leaves, to compare and to show."""
        return _shown(self._form)

    def filled(self, nodes: Sequence[Node]) -> Any:
        """The same form with other leaves."""
        rest = iter(nodes)
        return _fill(self._form, rest)


def _shown(form: Any) -> str:
    if form is None:
        return "None"
    kind, parts = form
    if kind is Expr:
        return "*"
    if kind is dict:
        return "{" + ", ".join(f"{key!r}: {_shown(part)}" for key, part in parts.items()) + "}"
    return "(" + ", ".join(map(_shown, parts)) + ")"


def _fill(form: Any, rest: Any) -> Any:
    if form is None:
        return None
    kind, parts = form
    if kind is Expr:
        return Expr(next(rest))
    if kind is dict:
        return {key: _fill(part, rest) for key, part in parts.items()}
    filled = [_fill(part, rest) for part in parts]
    return kind(*filled) if hasattr(kind, "_fields") else kind(filled)


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
) -> tuple[Any, Any]:
    """Carry a value through a step for each slice of `xs` along its first axis; (last value, stacked results).

    step(carry, x) -> (carry, y) is called once, on stand-ins. carry, x and y are expressions, None, or tuples, lists or
    dicts of them; the carry keeps its form, shapes and dtypes. length: the number of steps where there is no xs.
    reverse: from the last slice to the first; stacked results lie where their slices do. A carry to which each step
    only adds is computed as its first value plus a sum over steps. Differentiable to any order. ShapeError,
    DTypeError. Semantics of jax.lax.scan.
    """
    first, slices = _Tree(init), _Tree(xs)
    steps = _length(slices.leaves, length)
    carried = _stand_ins([leaf.node.type for leaf in first.leaves])
    given = _stand_ins([leaf.node.type.with_shape(leaf.node.type.shape[1:]) for leaf in slices.leaves])
    result: Any = step(first.filled(carried), slices.filled(given))
    if not isinstance(result, tuple) or len(result) != 2:
        raise ShapeError("the step must return a pair: the next carry and what is to be stacked (or None)")
    after, stacked = _Tree(result[0]), _Tree(result[1])
    _check_carry(first, after)
    sums = _sums(carried, after.nodes, stacked.nodes)
    kept = [k for k in range(len(carried)) if k not in sums]
    nodes = scans.scan_nodes(
        [(carried[k], first.nodes[k], after.nodes[k]) for k in kept],
        list(zip(given, slices.nodes, strict=True)), stacked.nodes, list(sums.values()), steps, reverse,
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


def _check_carry(first: _Tree, after: _Tree) -> None:
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
