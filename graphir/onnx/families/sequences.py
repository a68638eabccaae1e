"""Sequences and optional values, which exist only while a model is read: a row of tensors, or nothing.

Positions and lengths must be known then, and no input or output of a model can be one.
"""

import itertools

import numpy as np

from graphir import array, manipulate
from graphir.dims import Dim
from graphir.errors import FormatError, ShapeError
from graphir.expr import Expr
from graphir.nn.windows import cut
from graphir.onnx.call import Call, axis_of, reads
from graphir.onnx.scope import Row, Value
from graphir.types import BOOL, INT64


@reads("Identity", "Optional")
def _identity(call: Call) -> list[Value]:
    """Also of a sequence; an Optional of nothing is a value that was left out."""
    return [call.inputs[0] if call.inputs else None]


@reads("OptionalHasElement")
def _has_element(call: Call) -> Expr:
    return array.constant(call.has(0), BOOL)


@reads("OptionalGetElement")
def _get_element(call: Call) -> list[Value]:
    if not call.has(0):
        raise FormatError("OptionalGetElement of an empty optional value; export the model again")
    return [call.inputs[0]]


@reads("SequenceConstruct")
def _construct(call: Call) -> Row:
    return Row(tuple(call[k] for k in range(len(call.inputs))))


@reads("SequenceEmpty")
def _empty(call: Call) -> Row:
    return Row(())


@reads("SequenceLength")
def _length(call: Call) -> Expr:
    return array.constant(len(call.row(0)), INT64)


def _place(call: Call, position: int, least: int, most: int) -> int:
    """A position of a sequence, from its end if it is negative."""
    found = int(call.numbers(position).reshape(()))
    if not least <= found <= most:
        raise ShapeError(f"position {found} of a sequence is not between {least} and {most}; export the model again")
    return found


@reads("SequenceAt")
def _at(call: Call) -> Expr:
    items = call.row(0)
    return items[_place(call, 1, -len(items), len(items) - 1)]


@reads("SequenceErase")
def _erase(call: Call) -> Row:
    items = list(call.row(0))
    del items[_place(call, 1, -len(items), len(items) - 1) if call.has(1) else -1]
    return Row(tuple(items))


@reads("SequenceInsert")
def _insert(call: Call) -> Row:
    items = list(call.row(0))
    items.insert(_place(call, 2, -len(items), len(items)) if call.has(2) else len(items), call[1])
    return Row(tuple(items))


@reads("ConcatFromSequence")
def _concat(call: Call) -> Expr:
    items = call.row(0)
    if not items:
        raise ShapeError("an empty sequence has no tensor to join; export the model without it")
    if call.attr("new_axis", 0):
        return manipulate.stack(items, axis_of(call, 0, items[0].ndim + 1))
    return manipulate.concat(items, axis_of(call, 0, items[0].ndim))


@reads("SplitToSequence")
def _split(call: Call) -> Row:
    x = call[0]
    axis = axis_of(call, 0, x.ndim)
    bounds = _bounds(call, x, axis)
    parts = [cut(x, axis, start, stop) for start, stop in itertools.pairwise(bounds)]
    drop = not call.has(1) and not call.attr("keepdims", 1)
    return Row(tuple(manipulate.squeeze(part, axis) if drop else part for part in parts))


def _bounds(call: Call, x: Expr, axis: int) -> list[Dim]:
    """Where the parts begin and end: parts of given sizes, of one size with a smaller last one, or of size 1."""
    size = x.shape[axis]
    sizes = call.numbers(1) if call.has(1) else np.array(1)
    if sizes.ndim:
        bounds: list[Dim] = [0, *[int(stop) for stop in sizes.cumsum()]]
        if isinstance(size, int) and bounds[-1] != size:
            raise ShapeError(f"the parts {sizes.tolist()} do not make up the axis of size {size}")
        return bounds
    step = int(sizes)
    if not isinstance(size, int) or step < 1:
        raise ShapeError(f"an axis of size {size} cannot be split into parts of {step}; fix its size in the model")
    return [*range(0, size, step), size]


@reads("SequenceMap")
def _map(call: Call) -> list[Value]:
    """The body for each tensor of the first sequence; other sequences go along, tensors are the same each time."""
    body, count = call.need("body"), len(call.row(0))
    rows = [value.items if isinstance(value, Row) else (call[k],) * count for k, value in enumerate(call.inputs)]
    found = [call.reader.subgraph(body, list(values)) for values in zip(*rows, strict=True)]
    return [Row(tuple(values[k] for values in found)) for k in range(len(body.output))]
