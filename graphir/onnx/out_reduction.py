"""How reductions, positions of extremes and products are written."""

import numpy as np

from graphir.node import Node
from graphir.onnx.out_elementwise import through
from graphir.onnx.writer import Writer, writes
from graphir.types import INT64, DType

INT32 = np.dtype("int32")


def wide(dtype: DType) -> DType:
    """The dtype in which the runtime reduces and multiplies: floats, int32 and int64 as they are."""
    return dtype if dtype.kind == "f" or dtype.name in ("int32", "int64") else INT64


@writes("sum", "prod")
def _reduce(w: Writer, node: Node, x: str) -> str:
    dtype = node.type.dtype
    op = "ReduceSum" if node.op.name == "sum" else "ReduceProd"
    return _over(w, node, op, x, wide(dtype))


@writes("max", "min")
def _extreme(w: Writer, node: Node, x: str) -> str:
    return _over(w, node, "ReduceMax" if node.op.name == "max" else "ReduceMin", x, wide(node.type.dtype))


@writes("all", "any")
def _truth(w: Writer, node: Node, x: str) -> str:
    return _over(w, node, "ReduceMin" if node.op.name == "all" else "ReduceMax", x, INT32)


def _over(w: Writer, node: Node, op: str, x: str, via: DType) -> str:
    axes = node.attr("axes")
    if not axes:
        return w.emit("Identity", x)
    dtype = node.type.dtype
    if via == dtype:
        return w.emit(op, x, w.ints(axes), keepdims=0)
    return w.cast(w.emit(op, w.cast(x, via), w.ints(axes), keepdims=0), dtype)


@writes("argmax", "argmin")
def _position(w: Writer, node: Node, x: str) -> str:
    dtype = node.inputs[0].type.dtype
    via = dtype if dtype.kind == "f" or dtype.name in ("int32", "int64") else INT64
    op = "ArgMax" if node.op.name == "argmax" else "ArgMin"
    return through(w, dtype, via, op, x, back=INT64, axis=node.attr("axis"), keepdims=0)


@writes("matmul")
def _matmul(w: Writer, node: Node, x: str, y: str) -> str:
    return through(w, node.type.dtype, wide(node.type.dtype), "MatMul", x, y)


@writes("einsum")
def _einsum(w: Writer, node: Node, *inputs: str) -> str:
    dtype = node.type.dtype
    return through(w, dtype, wide(dtype), "Einsum", *inputs, equation=node.attr("subscripts"))
