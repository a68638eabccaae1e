"""Simplification that changes no bit of any output: -0.0, infinities and quiet NaNs included.

numpy's sums and products associate by memory layout, and some of its functions differ in the last bit between
contiguous and strided arrays. So a rule here keeps a value's layout as well: views become equal views, and a copy
is dropped only where both it and its source are known to be C-contiguous (`Layouts`), given C-contiguous feeds.
What looks exact but is not, and so is absent: x + 0.0 and sums over one element (-0.0 becomes 0.0), x * 0, x - x,
floating-point x ** 1 (numpy's vectorised power is off for some subnormals), broadcasts folded to full arrays.
Common subexpressions need no rule: nodes are interned.
"""

from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np

from graphir.errors import GraphError
from graphir.graph import Graph
from graphir.interpret import bound_attributes
from graphir.literal import Literal
from graphir.node import Array, Node
from graphir.ops.layout import broadcast, permute, reshape
from graphir.ops.rules import elementwise_axes
from graphir.ops.sources import constant
from graphir.rewrite import Rule, rewrite
from graphir.types import is_float

MAX_FOLDED_BYTES = 1 << 16
"""Largest constant that folding makes; also the most that it computes with."""
MAX_UNIFORM_ITEMS = 4096
"""Largest constant that is searched for being one repeated value."""


def simplify(graph: Graph) -> Graph:
    """An equal graph with fewer operations; inputs, also unused ones, and outputs keep names and order."""
    layouts = Layouts()
    return rewrite(
        graph,
        [
            Rule(name, frozenset(ops), partial(apply, layouts), BELOW.get(apply, frozenset()))
            for name, ops, apply in TABLE
        ],
    )


# ---- what is known about values ----

_FRESH = frozenset({"place", "matmul", "scatter_add", "scatter_add_along_axis", "constant", "input", "size", "iota"})
"""Values that are C-contiguous whatever they are made of."""
_FROM_COMPACT = frozenset(
    {"sum", "max", "min", "prod", "all", "any", "argmax", "argmin", "logsumexp", "softmax", "take"}
)
"""Values that are C-contiguous if all inputs are (a concat need not be: it goes by strides, also of axes of size 1)."""
_SAME_ORDER = frozenset({"broadcast", "slice"})
"""Views with gaps or repeats, but whose axes are still in row-major order."""


class Layouts:
    """Memory layouts of values as far as they follow from the graph; remembered for one pass."""

    def __init__(self) -> None:
        self._known: dict[Node, tuple[bool, bool]] = {}

    def compact(self, node: Node) -> bool:
        """Whether the value is certainly C-contiguous."""
        return self._facts(node)[0]

    def _facts(self, root: Node) -> tuple[bool, bool]:
        """(C-contiguous, axes in row-major order), inputs first and without recursion."""
        known, stack = self._known, [root]
        while stack:
            node = stack[-1]
            missing = [source for source in node.inputs if source not in known]
            stack.extend(missing)
            if not missing:
                known[stack.pop()] = self._judge(node)
        return known[root]

    def _judge(self, node: Node) -> tuple[bool, bool]:
        name, inputs = node.op.name, [self._known[source] for source in node.inputs]
        if not node.type.shape or name in _FRESH:
            return True, True
        if name in _SAME_ORDER:
            return False, inputs[0][1]
        if name in ("reshape", "stop_gradient", "bitcast") or (name == "cast" and node.type == node.inputs[0].type):
            return inputs[0]
        if node.op.axes is elementwise_axes:  # a new array, whose axes are ordered as the inputs' are
            ordered = all(row_major for _, row_major in inputs)
            return ordered, ordered
        contiguous = name in _FROM_COMPACT and all(compact for compact, _ in inputs)
        return contiguous, contiguous


_REPEATING = ("broadcast", "reshape", "permute")
"""Views that show one repeated value where their input is one."""


def _uniform(node: Node) -> Array | None:
    """The one value of a constant, also of a broadcast one, as a 0-d array."""
    while node.op.name in _REPEATING:
        node = node.inputs[0]
    if node.op.name != "constant":
        return None
    array: Array = node.attr("value").array
    if not 0 < array.size <= MAX_UNIFORM_ITEMS:
        return None
    first = array.reshape(-1)[:1]
    return first.reshape(()) if array.tobytes() == first.tobytes() * array.size else None


def _is(node: Node, value: float, *, minus: bool = False) -> bool:
    """Whether all elements are `value` with the given sign bit (which tells the zeros apart)."""
    found = _uniform(node)
    return found is not None and bool(found == value) and bool(np.signbit(found)) == minus


def _only_copied(layouts: Layouts, node: Node, source: Node) -> Node | None:
    """The source of an equal value, where it also lies in memory alike."""
    return source if layouts.compact(node) and layouts.compact(source) else None


# ---- rules: (layouts, node) -> replacement or None ----


def _fold(layouts: Layouts, node: Node) -> Node | None:
    """Compute what depends on constants only; left alone are what fails, what is not finite, and views."""
    if node.op.offset or not all(source.op.name == "constant" for source in node.inputs):
        return None
    if node.op.name in ("constant", "input", "broadcast") or not _is_small(node):
        return None
    arrays = [source.attr("value").array for source in node.inputs]
    if not all(_is_safe(node, array) for array in arrays):
        return None
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(node.op.kernel(*arrays, **bound_attributes(node, {})))
    except (GraphError, ValueError, TypeError, IndexError, ArithmeticError, MemoryError):
        return None
    if not value.flags.c_contiguous or not np.isfinite(value).all():
        return None
    new = constant(value=Literal(value))
    return new if new.type == node.type else None


def _is_small(node: Node) -> bool:
    """Whether all sizes are numbers and the values together are within the bound."""
    if any(isinstance(value, str) and node.op.attrs[name] == "dim" for name, value in node.attrs):
        return False
    total = 0
    for type_ in (node.type, *(source.type for source in node.inputs)):
        numbers = [d for d in type_.shape if isinstance(d, int)]
        if len(numbers) != len(type_.shape):
            return False
        total += type_.dtype.itemsize * prod(numbers)
    return total <= MAX_FOLDED_BYTES


def _is_safe(node: Node, array: Array) -> bool:
    """Finite, and not a float on its way to an integer, whose overflow depends on the processor."""
    to_integer = array.dtype.kind == "f" and node.type.dtype.kind in "iu" and node.op.name == "cast"
    return not to_integer and bool(np.isfinite(array).all())


def _same_shape(layouts: Layouts, node: Node) -> Node | None:
    """Reshape, broadcast or cast to what the value is already: numpy gives the same array or an equal view."""
    return node.inputs[0] if node.type == node.inputs[0].type else None


def _permuted_not(layouts: Layouts, node: Node) -> Node | None:
    axes: tuple[int, ...] = node.attr("axes")
    return node.inputs[0] if axes == tuple(range(len(axes))) else None


def _permute_twice(layouts: Layouts, node: Node) -> Node | None:
    (inner,) = node.inputs
    if inner.op is not permute:
        return None
    first = inner.attr("axes")
    return permute(inner.inputs[0], axes=tuple(first[axis] for axis in node.attr("axes")))


def _reshape_twice(layouts: Layouts, node: Node) -> Node | None:
    """Not of a value with gaps: there the first reshape makes a copy and decides the layout."""
    (inner,) = node.inputs
    if inner.op is not reshape or not layouts.compact(inner.inputs[0]):
        return None
    return reshape(inner.inputs[0], shape=node.type.shape)


def _broadcast_twice(layouts: Layouts, node: Node) -> Node | None:
    (inner,) = node.inputs
    if inner.op is not broadcast:
        return None
    outer = node.attr("axes")
    axes = tuple(outer[axis] for axis in inner.attr("axes"))
    return broadcast(inner.inputs[0], shape=node.type.shape, axes=axes)


def _flip_twice(layouts: Layouts, node: Node) -> Node | None:
    (inner,) = node.inputs
    return inner.inputs[0] if inner.op is node.op and inner.attrs == node.attrs else None


def _slice_whole(layouts: Layouts, node: Node) -> Node | None:
    (x,) = node.inputs
    whole = node.attr("start") == 0 and node.attr("step") == 1 and node.attr("stop") == x.type.shape[node.attr("axis")]
    return x if whole else None


def _place_whole(layouts: Layouts, node: Node) -> Node | None:
    (x,) = node.inputs
    whole = node.attr("start") == 0 and node.attr("step") == 1 and node.type == x.type
    return _only_copied(layouts, node, x) if whole else None


def _concat_one(layouts: Layouts, node: Node) -> Node | None:
    x = node.inputs[0]
    return x if len(node.inputs) == 1 and layouts.compact(x) else None


def _times_one(layouts: Layouts, node: Node) -> Node | None:
    x, y = node.inputs
    if _is(y, 1):
        return _only_copied(layouts, node, x)
    return _only_copied(layouts, node, y) if _is(x, 1) else None


def _over_one(layouts: Layouts, node: Node) -> Node | None:
    x, y = node.inputs
    return _only_copied(layouts, node, x) if _is(y, 1) else None


def _minus_zero(layouts: Layouts, node: Node) -> Node | None:
    """x - 0.0 keeps -0.0; x - (-0.0) does not."""
    x, y = node.inputs
    return _only_copied(layouts, node, x) if _is(y, 0) else None


def _plus_zero(layouts: Layouts, node: Node) -> Node | None:
    """x + (-0.0) keeps -0.0; x + 0.0 does not. Integers have one zero."""
    x, y = node.inputs
    minus = is_float(node.type.dtype)
    if _is(y, 0, minus=minus):
        return _only_copied(layouts, node, x)
    return _only_copied(layouts, node, y) if _is(x, 0, minus=minus) else None


def _power_one(layouts: Layouts, node: Node) -> Node | None:
    x, y = node.inputs
    return _only_copied(layouts, node, x) if not is_float(node.type.dtype) and _is(y, 1) else None


def _positive(layouts: Layouts, node: Node) -> Node | None:
    return _only_copied(layouts, node, node.inputs[0])


def _involution_twice(layouts: Layouts, node: Node) -> Node | None:
    (inner,) = node.inputs
    return _only_copied(layouts, node, inner.inputs[0]) if inner.op is node.op else None


def _where_known(layouts: Layouts, node: Node) -> Node | None:
    condition, x, y = node.inputs
    if x is y:
        return _only_copied(layouts, node, x)
    value = _uniform(condition)
    return None if value is None else _only_copied(layouts, node, x if value else y)


def _sum_of_one(layouts: Layouts, node: Node) -> Node | None:
    """A sum over axes of size 1; of integers only, for numpy adds floats to 0.0, which makes 0.0 of -0.0."""
    (x,) = node.inputs
    if is_float(x.type.dtype) or any(x.type.shape[axis] != 1 for axis in node.attr("axes")):
        return None
    return reshape(x, shape=node.type.shape) if layouts.compact(x) else None


TABLE: tuple[tuple[str, tuple[str, ...], Callable[[Layouts, Node], Node | None]], ...] = (
    ("fold constants", (), _fold),
    ("same type already", ("reshape", "broadcast", "cast"), _same_shape),
    ("axes in order already", ("permute",), _permuted_not),
    ("permute of permute", ("permute",), _permute_twice),
    ("reshape of reshape", ("reshape",), _reshape_twice),
    ("broadcast of broadcast", ("broadcast",), _broadcast_twice),
    ("flip of flip", ("flip",), _flip_twice),
    ("slice of the whole", ("slice",), _slice_whole),
    ("place as the whole", ("place",), _place_whole),
    ("concat of one", ("concat",), _concat_one),
    ("x * 1", ("multiply",), _times_one),
    ("x / 1", ("divide",), _over_one),
    ("x - 0", ("subtract",), _minus_zero),
    ("x + (-0)", ("add",), _plus_zero),
    ("x ** 1", ("pow",), _power_one),
    ("+x", ("positive",), _positive),
    ("involution twice", ("negative", "logical_not", "bitwise_invert"), _involution_twice),
    ("where, decided", ("where",), _where_known),
    ("sum over one", ("sum",), _sum_of_one),
)
"""Every rule, in the order in which they are tried: its name, the ops that it looks at, and what it does."""

_UNIFORM = frozenset({"constant", *_REPEATING})
BELOW: dict[Callable[[Layouts, Node], Node | None], frozenset[str]] = {
    _fold: frozenset({"constant"}),
    **dict.fromkeys((_times_one, _over_one, _minus_zero, _plus_zero, _power_one), _UNIFORM),
}
"""The ops of which an input has to be one for a rule to fit (`Rule.below`), for the rules that look at common ops."""
