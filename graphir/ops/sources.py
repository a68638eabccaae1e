"""Leaves: inputs, constants, sizes and index ranges. All creation functions are built from these."""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.example import Example
from graphir.literal import Literal
from graphir.node import Array, Node, Op
from graphir.types import INT64, Shape, TensorType, as_dtype, tensor_type

MAX_NAME = 1024
"""Longest name of an input, in characters."""


def _infer_input(*, name: str, dtype: str, shape: Shape) -> TensorType:
    if not name or not name.isprintable() or len(name) > MAX_NAME:
        raise AttributeValueError(f"an input's name is 1 to {MAX_NAME} printable characters, not {name!r:.60}")
    return tensor_type(as_dtype(dtype), shape)


def _input_has_no_kernel(*, name: str, **_: Any) -> Array:
    raise AttributeValueError(f"input {name!r} has no value of its own; feed it")


input_: Op = Op(
    "input",
    "A named value given at evaluation.",
    arity=0,
    attrs={"name": "str", "dtype": "dtype", "shape": "dims"},
    infer=_infer_input,
    kernel=_input_has_no_kernel,
    vjp="a leaf: derivatives end here",
    axes="given as it is: the feed is cut, not the node",
    examples=(Example((), {"name": "x", "dtype": "float64", "shape": (3,)}),),
    cheap=True,
)

constant: Op = Op(
    "constant",
    "A fixed array that is part of the graph.",
    arity=0,
    attrs={"value": "literal"},
    infer=lambda *, value: value.type,
    kernel=lambda *, value: value.array,
    vjp="a constant: its derivative is zero",
    axes="held whole by whoever uses it",
    examples=(Example((), {"value": Literal(np.arange(6.0).reshape(2, 3))}),),
    cheap=True,
)

size: Op = Op(
    "size",
    "The size of a named dimension as a 0-d int64; in a chunk of a cut job still the whole job's size.",
    arity=0,
    attrs={"dim": "dim"},
    infer=lambda *, dim: tensor_type(INT64, ()),
    kernel=lambda *, dim: np.asarray(dim, np.int64),
    vjp="an integer: it carries no derivative",
    axes=lambda types, attrs: AxisRule((), ()),
    examples=(Example((), {"dim": 5}),),
    cheap=True,
)


def _infer_iota(*, shape: tuple[Dim, ...]) -> TensorType:
    if len(shape) != 1:
        raise ShapeError(f"iota has one axis, not {len(shape)}; broadcast it")
    return tensor_type(INT64, shape)


iota: Op = Op(
    "iota",
    "0, 1, 2, ... along one axis as int64, counted over the whole dimension also where it is cut.",
    arity=0,
    attrs={"shape": "dims"},
    infer=_infer_iota,
    kernel=lambda *, shape, offset=(0,): np.arange(offset[0], offset[0] + shape[0], dtype=np.int64),
    vjp="an integer: it carries no derivative",
    axes=lambda types, attrs: AxisRule((), ("i",)),
    examples=(Example((), {"shape": (5,)}),),
    cheap=True,
    offset=True,
)


def literal(value: Any, dtype: Any = None) -> Node:
    """A constant node from anything that numpy makes an array of."""
    return constant(value=Literal(np.asarray(value, dtype)))
