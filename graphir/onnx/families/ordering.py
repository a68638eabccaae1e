"""Order and running totals: TopK, Unique, CumSum, CumProd."""

import numpy as np

from graphir import arrange, array, manipulate
from graphir.expr import Expr
from graphir.nn.windows import cut
from graphir.onnx.call import Call, axis_of, reads
from graphir.ops import scans
from graphir.types import INT64


@reads("TopK")
def _top_k(call: Call) -> list[Expr | None]:
    x = call[0]
    k = call.dims(1)[0] if call.has(1) else int(call.need("k"))
    return [*arrange.top_k(x, k, axis=axis_of(call, -1, x.ndim), largest=bool(call.attr("largest", 1)))]


@reads("CumSum", "CumProd")
def _cumulative(call: Call) -> Expr:
    """With exclusive the totals before each element; with reverse from the end."""
    x = call[0]
    axis = array.normal_axis(int(call.numbers(1).reshape(())), x.ndim)
    back = bool(call.attr("reverse", 0))
    x = manipulate.flip(x, axis) if back else x
    op, first = (scans.cumulative_sum, 0) if call.node.op_type == "CumSum" else (scans.cumulative_prod, 1)
    if call.attr("exclusive", 0):
        start = array.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), first, x.dtype)
        x = cut(manipulate.concat([start, x], axis), axis, 0, x.shape[axis])
    total = Expr(op(x.node, axis=axis))
    return manipulate.flip(total, axis) if back else total


@reads("Unique")
def _unique(call: Call) -> list[Expr | None]:
    """Of known numbers only, since how many there are decides the shape."""
    x = call.numbers(0)
    axis = call.attr("axis")
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = inverse.reshape(-1)
    if not call.attr("sorted", 1):
        order = np.argsort(first)
        values = np.take(values, order, 0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
    return [array.constant(values), *[array.constant(v, INT64) for v in (first, inverse, counts)]]
