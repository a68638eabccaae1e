"""How Fourier transforms are written: DFT, and a factor where only one of the two is divided by the length."""

from graphir.node import Node
from graphir.onnx.writer import Writer, writes
from graphir.types import INT64, as_dtype


@writes("fourier")
def _fourier(w: Writer, node: Node, x: str) -> str:
    """ONNX divides the inverse transform by the length, and the other one not."""
    dtype, shape, axis = node.type.dtype, node.type.shape, node.attr("axis")
    inverse = node.attr("inverse")
    via = as_dtype("float32") if dtype.itemsize == 2 else dtype  # the runtime transforms no float16
    value = x if via == dtype else w.cast(x, via)
    if len(shape) == 2:  # the runtime wants a batch axis
        value, axis = w.emit("Unsqueeze", value, w.ints([0])), axis + 1
    value = w.emit("DFT", value, "", w.constant(axis, INT64), inverse=int(inverse))
    if len(shape) == 2:
        value = w.emit("Squeeze", value, w.ints([0]))
    if inverse != node.attr("scaled"):
        value = w.emit("Mul" if inverse else "Div", value, w.cast(w.scalar(shape[node.attr("axis")]), via))
    return value if via == dtype else w.cast(value, dtype)
