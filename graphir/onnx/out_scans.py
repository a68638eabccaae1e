"""How orders and running totals are written: TopK, CumSum, and Scan where ONNX has no operator."""

from onnx import GraphProto, helper

from graphir.node import Node
from graphir.onnx.dtypes import CODE_OF
from graphir.onnx.out_reduction import wide
from graphir.onnx.writer import Writer, writes


@writes("sort", "argsort")
def _sort(w: Writer, node: Node, x: str) -> str:
    """All elements by TopK, which takes the first of equal ones first; uint64 with its highest bit flipped, as int64."""
    source, axis = node.inputs[0].type, node.attr("axis")
    via = wide(source.dtype)
    full = source.dtype.name == "uint64"
    top = w.constant(1 << 63, source.dtype) if full else ""
    value = w.emit("BitwiseXor", x, top) if full else x
    value = value if via == source.dtype else w.cast(value, via)
    count = w.vector([source.shape[axis]])
    largest = int(node.attr("descending"))
    values, places = w.emit_several("TopK", 2, value, count, axis=axis, largest=largest, sorted=1)
    if node.op.name == "argsort":
        return places
    values = values if via == source.dtype else w.cast(values, source.dtype)
    return w.emit("BitwiseXor", values, top) if full else values


@writes("cumulative_sum")
def _cumulative_sum(w: Writer, node: Node, x: str) -> str:
    dtype = node.type.dtype
    along = w.ints([node.attr("axis")])
    if wide(dtype) == dtype:
        return w.emit("CumSum", x, along)
    return w.cast(w.emit("CumSum", w.cast(x, wide(dtype)), along), dtype)


@writes("linear_recurrence")
def _recurrence(w: Writer, node: Node, factors: str, terms: str) -> str:
    return _scan(w, node, factors, terms, 0)


@writes("delayed_recurrence")
def _delayed_recurrence(w: Writer, node: Node, factors: str, terms: str) -> str:
    return _scan(w, node, _delayed(w, node, factors, 0), terms, 0)


@writes("delay")
def _delay(w: Writer, node: Node, x: str) -> str:
    return _delayed(w, node, x, node.attr("first"))


def _delayed(w: Writer, node: Node, x: str, first: int) -> str:
    """One more element in front, and the last one cut off."""
    axis, shape, dtype = node.attr("axis"), node.type.shape, node.type.dtype
    longer = w.emit("Concat", w.fill(first, dtype, (*shape[:axis], 1, *shape[axis + 1 :])), x, axis=axis)
    return w.emit("Slice", longer, w.ints([0]), w.vector([shape[axis]]), w.ints([axis]))


@writes("cumulative_prod")
def _cumulative_prod(w: Writer, node: Node, x: str) -> str:
    """The recurrence begun with 1 and without terms."""
    return _scan(w, node, x, "", 1)


@writes("exclusive_prod")
def _exclusive_prod(w: Writer, node: Node, x: str) -> str:
    """The same, with each state collected before it is multiplied."""
    return _scan(w, node, x, "", 1, before=True)


def _scan(w: Writer, node: Node, factors: str, terms: str, first: int, before: bool = False) -> str:
    axis, shape = node.attr("axis"), node.type.shape
    if shape[axis] == 0:  # the runtime scans nothing that is empty
        return w.fill(0, node.type.dtype, shape)
    start = w.fill(first, node.type.dtype, (*shape[:axis], *shape[axis + 1 :]))
    scanned = [name for name in (factors, terms) if name]
    body = _body(CODE_OF[node.type.dtype], len(shape) - 1, bool(terms), "state" if before else "next")
    attributes = {"scan_input_axes": [axis] * len(scanned), "scan_output_axes": [axis]}
    return w.emit_several("Scan", 2, start, *scanned, body=body, num_scan_inputs=len(scanned), **attributes)[1]


def _body(code: int, rank: int, terms: bool, collected: str) -> GraphProto:
    """state * factor (+ term) as the next state; what is collected is that or the state before."""
    names = ["state", "factor", "term"] if terms else ["state", "factor"]
    inputs = [helper.make_tensor_value_info(name, code, [None] * rank) for name in names]
    outputs = [helper.make_tensor_value_info(name, code, [None] * rank) for name in ("next", "collected")]
    nodes = [helper.make_node("Mul", ["state", "factor"], ["scaled"])]
    if terms:
        nodes.append(helper.make_node("Add", ["scaled", "term"], ["next"]))
    else:
        nodes.append(helper.make_node("Identity", ["scaled"], ["next"]))
    nodes.append(helper.make_node("Identity", [collected], ["collected"]))
    return helper.make_graph(nodes, "recurrence", inputs, outputs)
