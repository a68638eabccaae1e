"""Elementwise operators: arithmetic, comparison, logic, bits, casts and choices."""

import functools

from graphir.errors import AttributeValueError
from graphir.expr import Expr
from graphir.onnx.call import Call, F, reads, scalar
from graphir.onnx.dtypes import element_dtype
from graphir.ops import bits, special

_SAME = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Add": "add", "And": "logical_and", "Asin": "asin",
    "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh", "BitwiseAnd": "bitwise_and", "BitwiseNot": "bitwise_invert",
    "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh",
    "Equal": "equal", "Exp": "exp", "Floor": "floor", "Greater": "greater", "GreaterOrEqual": "greater_equal",
    "IsNaN": "isnan", "Less": "less", "LessOrEqual": "less_equal", "Log": "log", "Mul": "multiply", "Neg": "negative",
    "Not": "logical_not", "Or": "logical_or", "Reciprocal": "reciprocal", "Round": "round", "Sign": "sign",
    "Sin": "sin", "Sinh": "sinh", "Sqrt": "sqrt", "Sub": "subtract", "Tan": "tan", "Tanh": "tanh",
    "Where": "where", "Xor": "logical_xor",
}  # fmt: skip


def _declare(onnx: str, ours: str) -> None:
    @reads(onnx)
    def rule(call: Call) -> Expr:
        return F[ours](*[call[k] for k in range(len(call.inputs))])


for _onnx, _ours in _SAME.items():
    _declare(_onnx, _ours)


@reads("Max", "Min", "Sum", "Mean")
def _variadic(call: Call) -> Expr:
    name = {"Max": "maximum", "Min": "minimum"}.get(call.node.op_type, "add")
    values = [call[k] for k in range(len(call.inputs))]
    total: Expr = functools.reduce(F[name], values)
    return total / len(values) if call.node.op_type == "Mean" else total


@reads("Div")
def _div(call: Call) -> Expr:
    """Integers are divided towards zero."""
    x, y = call[0], call[1]
    if x.dtype.kind == "f":
        return x / y
    known = call.reader.knowledge.of(y.node)
    positive = known is not None and all(isinstance(d, int) and d > 0 for d in known.flat)
    sizes = call.reader.knowledge.of(x.node)
    natural = sizes is not None and all(isinstance(d, str) or d >= 0 for d in sizes.flat)
    if x.dtype.kind == "u" or (positive and natural):
        return x // y
    quotient = x // y
    inexact = (quotient * y != x) & ((x < 0) != (y < 0))
    return quotient + inexact.astype(x.dtype)


@reads("Mod")
def _mod(call: Call) -> Expr:
    """The sign of the divisor, or with fmod=1 that of the dividend."""
    x, y = call[0], call[1]
    if not call.attr("fmod", 0):
        return x % y
    size: Expr = F["abs"](x) % F["abs"](y)
    return F["where"](x < 0, -size, size) if x.dtype.kind != "u" else size


@reads("Pow")
def _pow(call: Call) -> Expr:
    """In the common dtype, with the base's as result."""
    x, y = call[0], call[1]
    exponent = call.known(y)
    if exponent is not None and exponent.size == 1 and exponent.ndim <= x.ndim and x.dtype.kind == "f":
        short = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}.get(float(exponent.reshape(())))
        if short is not None:
            result: Expr = F[short](x)
            return result
    return (x**y).astype(x.dtype)


@reads("BitShift")
def _shift(call: Call) -> Expr:
    direction = call.need("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise AttributeValueError(f"direction is LEFT or RIGHT, not {direction!r}")
    shifted: Expr = F["bitwise_left_shift" if direction == "LEFT" else "bitwise_right_shift"](call[0], call[1])
    return shifted


@reads("IsInf")
def _isinf(call: Call) -> Expr:
    x = call[0]
    zero = scalar(0, x)
    found: Expr = F["isinf"](x)
    if not call.attr("detect_positive", 1):
        found = found & (x < zero)
    return found if call.attr("detect_negative", 1) else found & (x > zero)


@reads("Cast")
def _cast(call: Call) -> Expr:
    return call[0].astype(element_dtype(call.need("to")))


@reads("BitCast")
def _bit_cast(call: Call) -> Expr:
    return Expr(bits.bitcast(call[0].node, dtype=element_dtype(call.need("to")).name))


@reads("CastLike")
def _cast_like(call: Call) -> Expr:
    return call[0].astype(call[1].dtype)


@reads("Clip")
def _clip(call: Call) -> Expr:
    """The derivative is 1 at the bounds, too."""
    x = call[0]
    low, high = call.get(1), call.get(2)
    if low is None and "min" in call.attributes:
        low = scalar(call.attr("min"), x)
    if high is None and "max" in call.attributes:
        high = scalar(call.attr("max"), x)
    if low is not None:
        x = F["where"](x < low, low, x)
    return x if high is None else F["where"](x > high, high, x)


@reads("Erf")
def _erf(call: Call) -> Expr:
    return Expr(special.erf(call[0].node))
