"""Sums of products: matmul and einsum (NumPy's subscripts, each index at most once an operand)."""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Array, Node, Op
from graphir.ops.layout import broadcast, permute
from graphir.ops.rules import NUMBERS, letters, need_kind
from graphir.types import TensorType


def need_contraction(x: TensorType, y: TensorType) -> None:
    """ShapeError unless the last axis of x and the rows of y, a matrix or a vector, agree."""
    rows = y.shape[max(y.rank - 2, 0)]
    if x.shape[-1] != rows:
        raise ShapeError(
            f"cannot multiply {x} and {y}: the left has {x.shape[-1]} columns and the right {rows} rows; "
            "transpose or reshape one of them"
        )


def _infer_matmul(x: TensorType, y: TensorType) -> TensorType:
    need_kind(x, NUMBERS)
    if x.dtype != y.dtype:
        raise DTypeError(f"dtypes differ: {x} and {y}; cast one of them")
    if x.rank < 2 or x.rank != y.rank or x.shape[:-2] != y.shape[:-2]:
        raise ShapeError(f"cannot multiply {x} and {y}: both need two matrix axes and equal leading axes")
    need_contraction(x, y)
    return x.with_shape((*x.shape[:-1], y.shape[-1]))


def _matmul_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    batch = letters(types[0].rank - 2, "b")
    return AxisRule(((*batch, "i", "k"), (*batch, "k", "j")), (*batch, "i", "j"), "sum")


def transpose(x: Node) -> Node:
    """The last two axes exchanged."""
    rank = x.type.rank
    return permute(x, axes=(*range(rank - 2), rank - 1, rank - 2))


matmul: Op = Op(
    "matmul",
    "The matrix product over the last two axes; leading axes are equal.",
    arity=2,
    infer=_infer_matmul,
    kernel=np.matmul,
    vjp=(
        lambda ct, out, x, y: matmul(ct, transpose(y)),
        lambda ct, out, x, y: matmul(transpose(x), ct),
    ),
    axes=_matmul_axes,
    examples=(
        Example((Sample((3, 4)), Sample((4, 2)))),
        Example((Sample((2, 3, 4)), Sample((2, 4, 2)))),
        Example((Sample((3, 4), "int64", -3, 4), Sample((4, 2), "int64", -3, 4))),
    ),
    cost=2,
)

# ---- einsum ----


def split_subscripts(subscripts: str) -> tuple[list[str], str]:
    """The letters of each operand and of the output."""
    left, arrow, output = subscripts.partition("->")
    if not arrow or (not (left.replace(",", "") + output).isalpha() and left.replace(",", "") + output):
        raise AttributeValueError(f"einsum subscripts {subscripts!r} must look like 'ij,jk->ik'")
    return left.split(","), output


def _infer_einsum(*types: TensorType, subscripts: str) -> TensorType:
    operands, output = split_subscripts(subscripts)
    if len(operands) != len(types):
        raise AttributeValueError(f"einsum {subscripts!r} names {len(operands)} operands; {len(types)} are given")
    sizes: dict[str, Any] = {}
    for indices, type_ in zip(operands, types, strict=True):
        need_kind(type_, NUMBERS)
        if type_.dtype != types[0].dtype:
            raise DTypeError(f"dtypes differ: {types[0]} and {type_}; cast one of them")
        if len(indices) != type_.rank or len(set(indices)) != len(indices):
            raise ShapeError(f"einsum operand {indices!r} does not fit {type_}: one distinct index an axis is needed")
        for index, size in zip(indices, type_.shape, strict=True):
            if sizes.setdefault(index, size) != size:
                raise ShapeError(
                    f"einsum {subscripts!r}: index {index!r} is {sizes[index]} in one operand, {size} in another"
                )
    if len(set(output)) != len(output) or any(index not in sizes for index in output):
        raise AttributeValueError(f"einsum output {output!r} must name distinct indices of the operands")
    return types[0].with_shape(tuple(sizes[index] for index in output))


def _einsum_vjp(position: int, ct: Node, out: Node, *inputs: Node, subscripts: str) -> Node:
    """The output's cotangent contracted with the other operands, spread over indices that only this one has."""
    operands, output = split_subscripts(subscripts)
    own = operands[position]
    others = [*operands[:position], *operands[position + 1 :]]
    found = "".join(index for index in own if index in output or any(index in o for o in others))
    text = f"{','.join([output, *others])}->{found}"
    partial = einsum(ct, *inputs[:position], *inputs[position + 1 :], subscripts=text)
    if found == own:
        return partial
    return broadcast(partial, shape=inputs[position].type.shape, axes=tuple(own.index(index) for index in found))


def _einsum_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    operands, output = split_subscripts(attrs["subscripts"])
    return AxisRule(tuple(tuple(indices) for indices in operands), tuple(output), "sum")


def _einsum_kernel(*arrays: Array, subscripts: str) -> Array:
    return np.asarray(np.einsum(subscripts, *arrays, optimize=len(arrays) > 1))


einsum: Op = Op(
    "einsum",
    "A sum of products by subscripts, such as 'ij,jk->ik'.",
    arity=None,
    attrs={"subscripts": "str"},
    infer=_infer_einsum,
    kernel=_einsum_kernel,
    vjp=_einsum_vjp,
    axes=_einsum_axes,
    examples=(
        Example((Sample((3, 4)), Sample((4, 2))), {"subscripts": "ij,jk->ik"}),
        Example((Sample((3, 4)), Sample((4,)), Sample((3,))), {"subscripts": "ij,j,i->"}),
        Example((Sample((2, 3, 4)),), {"subscripts": "ijk->kj"}),
    ),
    cost=2,
)
