"""Tree: expressions in tuples, lists and dicts, as control flow takes and gives them."""

from collections.abc import Sequence
from typing import Any

from graphir.expr import Expr, as_expr
from graphir.node import Node


class Tree:
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
