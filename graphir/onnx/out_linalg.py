"""How linear algebra is written: the determinant is all that ONNX has, and its runtime has that in float32 only."""

from graphir.errors import DTypeError
from graphir.node import Node
from graphir.onnx.writer import Writer, writes
from graphir.types import FLOAT32


@writes("det")
def _det(w: Writer, node: Node, x: str) -> str:
    if node.type.dtype != FLOAT32:
        raise DTypeError("onnxruntime has the determinant of float32 only; cast the matrix before it is taken")
    return w.emit("Det", x)
