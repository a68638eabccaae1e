"""Linear algebra operators."""

from graphir import linalg
from graphir.expr import Expr
from graphir.onnx.call import Call, reads


@reads("Det")
def _det(call: Call) -> Expr:
    return linalg.det(call[0])
