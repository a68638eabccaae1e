"""How transcendental functions are written that ONNX lacks, or that its runtime has in float32 only.

Compositions keep full accuracy: log1p and expm1 by Kahan's corrections, the inverse tangent in float64 by one
third-order step from the float32 value.
"""

import math

from graphir.node import Node
from graphir.onnx.writer import Writer, writes
from graphir.ops import special
from graphir.types import FLOAT32, FLOAT64, DType


class Scratch:
    """Operators on values of one float dtype, with numbers as constants."""

    def __init__(self, w: Writer, dtype: DType) -> None:
        self.w, self.dtype = w, dtype

    def __call__(self, op: str, *inputs: str | float) -> str:
        """One operator; numbers become constants."""
        return self.w.emit(op, *[i if isinstance(i, str) else self.w.constant(i, self.dtype) for i in inputs])

    def square(self, x: str) -> str:
        """x * x"""
        return self("Mul", x, x)

    def ratio(self, coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: str) -> str:
        """One polynomial over another by Horner's rule."""
        parts = []
        for numbers in coefficients:
            value: str | float = numbers[0]
            for number in numbers[1:]:
                value = self("Add", self("Mul", value, x), number)
            parts.append(value)
        return self("Div", *parts)

    def log1p(self, x: str) -> str:
        """log(1 + x): log(u) * x / (u - 1) with u = 1 + x rounded."""
        u = self("Add", x, 1.0)
        exact = self("Or", self("Equal", u, 1.0), self.w.emit("IsInf", u, detect_negative=0))
        corrected = self("Div", self("Mul", self("Log", u), x), self("Sub", u, 1.0))
        return self("Where", exact, x, corrected)

    def expm1(self, x: str) -> str:
        """exp(x) - 1: (u - 1) * x / log(u) with u = exp(x) rounded, near 0."""
        u = self("Exp", x)
        less = self("Sub", u, 1.0)
        corrected = self("Div", self("Mul", less, x), self("Log", u))
        near = self("Where", self("Equal", u, 1.0), x, corrected)
        return self("Where", self("Less", self("Abs", x), 0.5), near, less)

    def atan(self, x: str) -> str:
        """The inverse tangent; in float64 of min(|x|, 1/|x|), corrected once."""
        if self.dtype != FLOAT64:
            return self("Atan", x)
        size = self("Abs", x)
        large = self("Greater", size, 1.0)
        a = self("Where", large, self("Reciprocal", size), size)
        y = self.w.cast(self.w.emit("Atan", self.w.cast(a, FLOAT32)), FLOAT64)
        sine, cosine = self("Sin", y), self("Cos", y)
        step = self("Div", self("Sub", self("Mul", a, cosine), sine), self("Add", cosine, self("Mul", a, sine)))
        y = self("Add", y, step)
        angle = self("Where", large, self("Sub", math.pi / 2, y), y)
        return self("Where", self("Less", x, 0.0), self("Neg", angle), angle)

    def asinh(self, x: str) -> str:
        """sign(x) * log1p(a + a*a / (1 + sqrt(1 + a*a))) with a = |x|; log(2 a) where a*a would overflow."""
        a = self("Abs", x)
        huge = self("Greater", a, 1e8)
        inside = self("Where", huge, self.w.constant(1.0, self.dtype), a)
        square = self("Mul", inside, inside)
        fraction = self("Div", square, self("Add", self("Sqrt", self("Add", square, 1.0)), 1.0))
        value = self("Where", huge, self("Add", self("Log", a), math.log(2)), self.log1p(self("Add", inside, fraction)))
        return self("Where", self("Less", x, 0.0), self("Neg", value), value)

    def acosh(self, x: str) -> str:
        """log1p(t + sqrt(2 t + t*t)) with t = x - 1; log(2 x) where t*t would overflow."""
        huge = self("Greater", x, 1e8)
        t = self("Sub", self("Where", huge, self.w.constant(1.0, self.dtype), x), 1.0)
        root = self("Mul", self("Sqrt", t), self("Sqrt", self("Add", t, 2.0)))
        return self("Where", huge, self("Add", self("Log", x), math.log(2)), self.log1p(self("Add", t, root)))

    def sinh(self, x: str) -> str:
        """(u + u / (1 + u)) / 2 with u = expm1(|x|); exp(|x| - log 2) where that would overflow."""
        a = self("Abs", x)
        u = self.expm1(a)
        near = self("Mul", self("Add", u, self("Div", u, self("Add", u, 1.0))), 0.5)
        value = self("Where", self("Greater", a, 20.0), self("Exp", self("Sub", a, math.log(2))), near)
        return self("Where", self("Less", x, 0.0), self("Neg", value), value)


@writes("log1p")
def _log1p(w: Writer, node: Node, x: str) -> str:
    return Scratch(w, node.type.dtype).log1p(x)


@writes("expm1")
def _expm1(w: Writer, node: Node, x: str) -> str:
    return Scratch(w, node.type.dtype).expm1(x)


@writes("log2", "log10")
def _log_base(w: Writer, node: Node, x: str) -> str:
    base = 2 if node.op.name == "log2" else 10
    return w.emit("Div", w.emit("Log", x), w.constant(math.log(base), node.type.dtype))


_FLOAT32_ONLY = ("tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")


@writes(*_FLOAT32_ONLY)
def _function(w: Writer, node: Node, x: str) -> str:
    name, s = node.op.name, Scratch(w, node.type.dtype)
    if s.dtype != FLOAT64:
        return s(name.capitalize(), x)
    match name:
        case "tan":
            return s("Div", s("Sin", x), s("Cos", x))
        case "asin" | "acos":
            root = s("Sqrt", s("Mul", s("Sub", 1.0, x), s("Add", 1.0, x)))
            if name == "asin":
                return s.atan(s("Div", x, root))
            angle = s.atan(s("Div", root, s("Abs", x)))
            return s("Where", s("Less", x, 0.0), s("Sub", math.pi, angle), angle)
        case "cosh":
            half = s("Exp", s("Sub", s("Abs", x), math.log(2)))
            return s("Add", half, s("Div", 0.25, half))
        case "atanh":
            return s("Mul", s.log1p(s("Div", s("Mul", x, 2.0), s("Sub", 1.0, x))), 0.5)
    value: str = getattr(s, name)(x)
    return value


@writes("erf")
def _erf(w: Writer, node: Node, x: str) -> str:
    """The operator, or in float64, which its runtime lacks, the rational approximations of `graphir.ops.special`."""
    s = Scratch(w, node.type.dtype)
    if s.dtype != FLOAT64:
        return s("Erf", x)
    size = s("Abs", x)
    squared = s.square(s("Min", size, special.SMALL))
    near = s("Mul", x, s.ratio(special.NEAR, squared))
    middle = s.ratio(special.MIDDLE, s("Max", s("Min", size, special.LARGE), special.SMALL))
    large = s("Max", size, special.LARGE)
    inverse = s.square(s("Reciprocal", large))
    tail = s("Mul", inverse, s.ratio(special.FAR, inverse))
    far = s("Div", s("Sub", 1 / math.sqrt(math.pi), tail), large)
    rest = s("Mul", s("Exp", s("Neg", s.square(size))), s("Where", s("LessOrEqual", size, special.LARGE), middle, far))
    away = s("Sub", 1.0, rest)
    signed = s("Where", s("Less", x, 0.0), s("Neg", away), away)
    return s("Where", s("LessOrEqual", size, special.SMALL), near, signed)


@writes("atan2")
def _atan2(w: Writer, node: Node, y: str, x: str) -> str:
    """The angle of the first quadrant, mirrored by the signs, those of zeros included."""
    s = Scratch(w, node.type.dtype)
    up, right = s("Abs", y), s("Abs", x)
    both = s("And", s("IsInf", y), s("IsInf", x))
    ratio = s("Where", s("Or", both, s("Equal", up, right)), w.constant(1.0, s.dtype), s("Div", up, right))
    origin = s("And", s("Equal", y, 0.0), s("Equal", x, 0.0))
    angle = s.atan(s("Where", origin, w.constant(0.0, s.dtype), ratio))
    angle = s("Where", _has_sign(s, x), s("Sub", math.pi, angle), angle)
    return s("Where", _has_sign(s, y), s("Neg", angle), angle)


def _has_sign(s: Scratch, x: str) -> str:
    negative_zero = s("And", s("Equal", x, 0.0), s("Less", s("Reciprocal", x), 0.0))
    return s("Or", s("Less", x, 0.0), negative_zero)


@writes("hypot")
def _hypot(w: Writer, node: Node, x: str, y: str) -> str:
    s = Scratch(w, node.type.dtype)
    x, y = s("Abs", x), s("Abs", y)
    large, small = s("Max", x, y), s("Min", x, y)
    ratio = s("Where", s("Equal", large, 0.0), w.constant(0.0, s.dtype), s("Div", small, large))
    finite = s("Mul", large, s("Sqrt", s("Add", s("Mul", ratio, ratio), 1.0)))
    return s("Where", s("Or", s("IsInf", x), s("IsInf", y)), w.constant(math.inf, s.dtype), finite)


@writes("logaddexp")
def _logaddexp(w: Writer, node: Node, x: str, y: str) -> str:
    s = Scratch(w, node.type.dtype)
    large = s("Max", x, y)
    distance = s("Where", s("Equal", x, y), w.constant(0.0, s.dtype), s("Abs", s("Sub", x, y)))
    return s("Add", large, s.log1p(s("Exp", s("Neg", distance))))


@writes("softmax")
def _softmax(w: Writer, node: Node, x: str) -> str:
    axes = node.attr("axes")
    if len(axes) == 1:
        return w.emit("Softmax", x, axis=axes[0])
    along = w.ints(axes)
    powers = w.emit("Exp", w.emit("Sub", x, w.emit("ReduceMax", x, along, keepdims=1)))
    return w.emit("Div", powers, w.emit("ReduceSum", powers, along, keepdims=1))


@writes("logsumexp")
def _logsumexp(w: Writer, node: Node, x: str) -> str:
    s = Scratch(w, node.type.dtype)
    along = w.ints(node.attr("axes"))
    top = w.emit("ReduceMax", x, along, keepdims=1)
    top = s("Where", s("IsInf", top), w.constant(0.0, s.dtype), top)
    total = w.emit("ReduceSum", s("Exp", s("Sub", x, top)), along, keepdims=1)
    return w.emit("Squeeze", s("Add", s("Log", total), top), along)
