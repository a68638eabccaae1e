"""How elementwise ops are written: one operator where ONNX has one, small compositions elsewhere.

The widely used runtime lacks some dtypes of some operators; there the value goes through a wider dtype and back,
which changes no result (`through`). Functions that need more than a line are in `out_functions`.
"""

from typing import Any

import numpy as np

from graphir.node import Node
from graphir.onnx.writer import Writer, writes
from graphir.types import BOOL, INT64, DType

INT32 = np.dtype("int32")


def through(w: Writer, dtype: DType, via: DType, op: str, *inputs: str, back: DType | None = None, **attrs: Any) -> str:
    """An operator computed in another dtype where that differs; `back` is the result's dtype (by default the input's)."""
    if via == dtype:
        return w.emit(op, *inputs, **attrs)
    wide = w.emit(op, *[w.cast(name, via) for name in inputs], **attrs)
    return w.cast(wide, dtype) if back is None else wide


def _direct(**table: str) -> None:
    for ours, theirs in table.items():
        writes(ours)(lambda w, node, *inputs, theirs=theirs: w.emit(theirs, *inputs))


_direct(
    add="Add", subtract="Sub", multiply="Mul", divide="Div", positive="Identity", reciprocal="Reciprocal", sqrt="Sqrt",
    sign="Sign", abs="Abs", round="Round", exp="Exp", log="Log", sin="Sin", cos="Cos", tanh="Tanh", isnan="IsNaN",
    isinf="IsInf", equal="Equal", less="Less", less_equal="LessOrEqual", greater="Greater",
    greater_equal="GreaterOrEqual", logical_and="And", logical_or="Or", logical_xor="Xor", logical_not="Not",
    stop_gradient="Identity",
)  # fmt: skip


@writes("negative")
def _negative(w: Writer, node: Node, x: str) -> str:
    dtype = node.type.dtype
    return w.emit("Sub", w.constant(0, dtype), x) if dtype.kind == "u" else w.emit("Neg", x)


@writes("square")
def _square(w: Writer, node: Node, x: str) -> str:
    return w.emit("Mul", x, x)


@writes("not_equal")
def _not_equal(w: Writer, node: Node, x: str, y: str) -> str:
    return w.emit("Not", w.emit("Equal", x, y))


@writes("isfinite")
def _isfinite(w: Writer, node: Node, x: str) -> str:
    if node.inputs[0].type.dtype.kind != "f":
        return w.emit("Equal", x, x)
    return w.emit("Not", w.emit("Or", w.emit("IsNaN", x), w.emit("IsInf", x)))


@writes("isnan", "isinf")
def _is_special(w: Writer, node: Node, x: str) -> str:
    if node.inputs[0].type.dtype.kind != "f":
        return w.emit("Not", w.emit("Equal", x, x))
    return w.emit("IsNaN" if node.op.name == "isnan" else "IsInf", x)


@writes("signbit")
def _signbit(w: Writer, node: Node, x: str) -> str:
    dtype = node.inputs[0].type.dtype
    zero = w.constant(0, dtype)
    negative = w.emit("Less", x, zero)
    if dtype.kind != "f":
        return negative
    below = w.emit("Less", w.emit("Reciprocal", x), zero)
    return w.emit("Or", negative, w.emit("And", w.emit("Equal", x, zero), below))


@writes("copysign")
def _copysign(w: Writer, node: Node, x: str, y: str) -> str:
    size = w.emit("Abs", x)
    return w.emit("Where", _signbit(w, node, y), w.emit("Neg", size), size)


@writes("where")
def _where(w: Writer, node: Node, condition: str, x: str, y: str) -> str:
    dtype = node.type.dtype
    if dtype == BOOL:
        chosen, other = w.emit("And", condition, x), w.emit("And", w.emit("Not", condition), y)
        return w.emit("Or", chosen, other)
    via = {"int16": INT32, "uint16": INT32, "uint32": INT64}.get(dtype.name, dtype)
    values = [name if via == dtype else w.cast(name, via) for name in (x, y)]
    chosen = w.emit("Where", condition, *values)
    return chosen if via == dtype else w.cast(chosen, dtype)


@writes("maximum", "minimum")
def _extreme(w: Writer, node: Node, x: str, y: str) -> str:
    dtype = node.type.dtype
    via = INT32 if dtype.name in ("int16", "uint16") else dtype
    return through(w, dtype, via, "Max" if node.op.name == "maximum" else "Min", x, y)


@writes("tie_share")
def _tie_share(w: Writer, node: Node, x: str, y: str) -> str:
    zero, half, one = (w.constant(value, node.type.dtype) for value in (0, 0.5, 1))
    return w.emit("Where", w.emit("Greater", x, y), one, w.emit("Where", w.emit("Equal", x, y), half, zero))


@writes("floor", "ceil")
def _floor(w: Writer, node: Node, x: str) -> str:
    op = ("Floor" if node.op.name == "floor" else "Ceil") if node.type.dtype.kind == "f" else "Identity"
    return w.emit(op, x)


@writes("trunc")
def _trunc(w: Writer, node: Node, x: str) -> str:
    if node.type.dtype.kind != "f":
        return w.emit("Identity", x)
    below = w.emit("Less", x, w.constant(0, node.type.dtype))
    return w.emit("Where", below, w.emit("Ceil", x), w.emit("Floor", x))


@writes("remainder")
def _remainder(w: Writer, node: Node, x: str, y: str) -> str:
    if node.type.dtype.kind != "f":
        return w.emit("Mod", x, y)
    return _modulus(w, node.type.dtype, x, y)[0]


def _modulus(w: Writer, dtype: DType, x: str, y: str) -> tuple[str, str]:
    """The remainder with the sign of y, and whether it differs from the one with the sign of x."""
    zero = w.constant(0, dtype)
    rest = w.emit("Mod", x, y, fmod=1)
    signs = w.emit("Xor", w.emit("Less", rest, zero), w.emit("Less", y, zero))
    wrong = w.emit("And", signs, w.emit("Not", w.emit("Equal", rest, zero)))
    return w.emit("Where", wrong, w.emit("Add", rest, y), rest), wrong


@writes("floor_divide")
def _floor_divide(w: Writer, node: Node, x: str, y: str) -> str:
    dtype = node.type.dtype
    if dtype.kind == "u":
        return w.emit("Div", x, y)
    if dtype.kind == "i":
        return w.emit("Div", w.emit("Sub", x, w.emit("Mod", x, y)), y)
    rest, _ = _modulus(w, dtype, x, y)
    return w.emit("Round", w.emit("Div", w.emit("Sub", x, rest), y))


@writes("pow")
def _pow(w: Writer, node: Node, x: str, y: str) -> str:
    dtype = node.type.dtype
    return through(w, dtype, dtype if dtype.kind == "f" or dtype == INT32 else INT64, "Pow", x, y)


@writes("cast")
def _cast(w: Writer, node: Node, x: str) -> str:
    return w.cast(x, node.type.dtype)


_BITWISE = {"bitwise_and": "And", "bitwise_or": "Or", "bitwise_xor": "Xor", "bitwise_invert": "Not"}


@writes(*_BITWISE)
def _bitwise(w: Writer, node: Node, *inputs: str) -> str:
    op = _BITWISE[node.op.name]
    return w.emit(op if node.type.dtype == BOOL else f"Bitwise{op}", *inputs)


@writes("bitwise_left_shift", "bitwise_right_shift")
def _shift(w: Writer, node: Node, x: str, y: str) -> str:
    """BitShift for unsigned integers; for signed ones a product with, or a floored quotient by, a power of two."""
    dtype, left = node.type.dtype, node.op.name == "bitwise_left_shift"
    if dtype.kind == "u":
        return w.emit("BitShift", x, y, direction="LEFT" if left else "RIGHT")
    power = w.emit("Pow", w.constant(2, INT64), w.cast(y, INT64))
    wide = w.cast(x, INT64)
    if left:
        return w.cast(w.emit("Mul", wide, power), dtype)
    return w.cast(w.emit("Div", w.emit("Sub", wide, w.emit("Mod", wide, power)), power), dtype)
