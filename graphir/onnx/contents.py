"""What is known of small integer values before evaluation: numbers and named sizes.

Shape computations in a model are ordinary nodes (size, add, concat, ...). `contents` works them out as dimensions, so
that a Reshape to Concat(Shape(x)[0], 64) gets the shape ("n", 64). It looks at ops only, not at ONNX.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphir import dims
from graphir.dims import Dim
from graphir.errors import ShapeError
from graphir.node import Node
from graphir.types import DType

Contents: TypeAlias = "NDArray[Any] | None"
"""Dimensions (ints may be negative here), or None where a value is not known."""

MOST = 256
"""Most elements that are worked out; shapes are short."""


class Knowledge:
    """A memory of what is known of each node; one for each model that is read."""

    def __init__(self) -> None:
        self._memo: dict[Node, Contents] = {}

    def of(self, node: Node) -> Contents:
        """The dimensions that an integer or bool node holds, or None."""
        if node not in self._memo:
            self._memo[node] = self._work_out(node)
        return self._memo[node]

    def _work_out(self, node: Node) -> Contents:
        shape = node.type.shape
        if node.type.dtype.kind not in "biu" or any(isinstance(d, str) for d in shape) or len(shape) > 2:
            return None
        if int(np.prod([int(d) for d in shape])) > MOST:
            return None
        rule = _RULES.get(node.op.name)
        if rule is None:
            return None
        inputs = []
        for source in node.inputs:
            known = self.of(source)
            if known is None:
                return None
            inputs.append(known)
        try:
            result = rule(node, *inputs)
        except ShapeError:  # a polynomial that grew too long: not known then
            return None
        if result is None or not _fits(result, node.type.dtype):
            return None
        return np.asarray(result, object).reshape([int(d) for d in shape])


def _fits(values: NDArray[Any], dtype: DType) -> bool:
    """Whether the numbers are those of the dtype: evaluation wraps the others."""
    if dtype.kind == "b":
        return True
    limits = np.iinfo(dtype)
    return all(isinstance(v, str) or limits.min <= v <= limits.max for v in np.asarray(values, object).flat)


def _move(node: Node, *inputs: NDArray[Any]) -> Any:
    """Ops that only move elements: their own kernels do it."""
    if any(kind in ("dim", "dims") for kind in node.op.attrs.values()) and not _static(node):
        return None
    return node.op.kernel(*inputs, **dict(node.attrs))


def _static(node: Node) -> bool:
    values = [value for _, value in node.attrs]
    return not any(isinstance(v, str) for value in values for v in (value if isinstance(value, tuple) else (value,)))


def _take(node: Node, x: NDArray[Any], indices: NDArray[Any]) -> Any:
    if any(isinstance(i, str) for i in indices.flat):
        return None
    return node.op.kernel(x, indices.astype(np.int64), **dict(node.attrs))


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """A rule that goes element by element and knows nothing where the function says None."""

    def rule(node: Node, *inputs: NDArray[Any]) -> Any:
        found = [function(*values) for values in zip(*[i.flat for i in inputs], strict=True)]
        return None if any(value is None for value in found) else _objects(found)

    return rule


def _objects(values: list[Any]) -> NDArray[Any]:
    result = np.empty(len(values), object)
    result[:] = values
    return result


def _quotient(a: Dim, b: Dim) -> Dim | None:
    if isinstance(b, int):
        return dims.floordiv(a, b) if b > 0 or (b and isinstance(a, int)) else None
    return dims.exact_quotient(a, b) if a != 0 else 0


def _equal(a: Dim, b: Dim) -> bool | None:
    """Different texts may still be equal numbers; a size is never negative."""
    if a == b:
        return True
    if isinstance(a, str) and isinstance(b, str):
        return None
    if isinstance(a, str) or isinstance(b, str):
        number = b if isinstance(a, str) else a
        return False if isinstance(number, int) and number < 0 else None
    return False


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """For ints only."""
    return lambda *values: None if any(isinstance(v, str) for v in values) else function(*values)


def _product(node: Node, x: NDArray[Any]) -> Any:
    return _fold(node, x, 1, dims.multiply)


def _sum(node: Node, x: NDArray[Any]) -> Any:
    return _fold(node, x, 0, dims.add)


def _fold(node: Node, x: NDArray[Any], start: int, join: Callable[[Dim, Dim], Dim]) -> Any:
    if node.attr("axes") != tuple(range(x.ndim)):
        return None
    total: Dim = start
    for value in x.flat:
        total = join(total, value)
    return _objects([total])


_RULES: dict[str, Callable[..., Any]] = {
    "constant": lambda node: node.attr("value").array.astype(object),
    "size": lambda node: _objects([node.attr("dim")]),
    **dict.fromkeys(("reshape", "permute", "broadcast", "slice", "flip", "concat"), _move),
    "take": _take,
    "cast": lambda node, x: x,
    "stop_gradient": lambda node, x: x,
    "add": _each(dims.add),
    "subtract": _each(dims.subtract),
    "multiply": _each(dims.multiply),
    "floor_divide": _each(_quotient),
    "negative": _each(lambda a: dims.subtract(0, a)),
    "abs": _each(lambda a: abs(a) if isinstance(a, int) else a),
    "maximum": _each(lambda a, b: a if a == b else _numbers(max)(a, b)),
    "minimum": _each(lambda a, b: a if a == b else _numbers(min)(a, b)),
    "sign": _each(_numbers(lambda a: (a > 0) - (a < 0))),
    "remainder": _each(_numbers(lambda a, b: a % b if b else None)),
    "equal": _each(_equal),
    "not_equal": _each(lambda a, b: _not(_equal(a, b))),
    "less": _each(_numbers(lambda a, b: a < b)),
    "less_equal": _each(_numbers(lambda a, b: a <= b)),
    "greater": _each(_numbers(lambda a, b: a > b)),
    "greater_equal": _each(_numbers(lambda a, b: a >= b)),
    "logical_not": _each(lambda a: not a),
    "logical_and": _each(lambda a, b: bool(a and b)),
    "logical_or": _each(lambda a, b: bool(a or b)),
    "where": _each(lambda c, a, b: a if c else b),
    "prod": _product,
    "sum": _sum,
}
