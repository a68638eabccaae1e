"""What each op does to one element, as instructions. What is not here is left to numpy's kernels."""

from collections.abc import Callable

from graphir.node import Node
from workers.backends.llvm import single
from workers.backends.llvm.code import BITS, TYPES, Code, number
from workers.backends.llvm.vector import FUNCTIONS


def covers(node: Node) -> bool:
    """Whether an elementwise node can be compiled."""
    dtypes = [value.type.dtype.name for value in (node, *node.inputs)]
    if any(dtype not in TYPES for dtype in dtypes):
        return False
    name, kind = node.op.name, node.inputs[0].type.dtype.kind
    if name == "cast":
        return kind != "f" or node.type.dtype.kind in "fb"
    if kind == "f":
        return name in _FLOAT or name in FUNCTIONS or name in COMMON
    return name in _WHOLE or name in COMMON


def emit(c: Code, node: Node, values: list[str]) -> str:
    """The node's element from those of its inputs."""
    name, dtype = node.op.name, node.inputs[0].type.dtype
    type_ = TYPES[dtype.name]
    if name == "cast":
        return cast(c, values[0], dtype.name, node.type.dtype.name)
    if name == "where":
        return c.select(values[0], TYPES[node.type.dtype.name], values[1], values[2])
    if name == "bitcast":
        return _bitcast(c, values[0], type_, TYPES[node.type.dtype.name])
    if name in _RELATIONS:
        return c.compare(_RELATIONS[name][{"f": 0, "i": 1}.get(dtype.kind, 2)], type_, *values)
    if dtype.kind != "f":
        return _WHOLE[name](c, type_, dtype.kind == "i", *values)
    if name in FUNCTIONS:
        return _function(c, name, type_, values[0])
    return _FLOAT[name](c, type_, *values)


def cast(c: Code, value: str, source: str, target: str) -> str:
    """The value in another dtype, as C converts; not from a float to an integer."""
    old, new = TYPES[source], TYPES[target]
    if source == target:
        return value
    if target == "bool":
        return c.compare("une" if old in ("double", "float") else "ne", old, value, number(0, old))
    if old in ("double", "float"):
        return value if old == new else c.make(f"{'fptrunc' if new == 'float' else 'fpext'} {old} {value} to {new}")
    signed = source.startswith("int")
    if new in ("double", "float"):
        return c.make(f"{'sitofp' if signed else 'uitofp'} {old} {value} to {new}")
    width, wanted = 1 if old == "i1" else BITS[old], BITS[new]
    if width == wanted:
        return value
    return c.make(f"{'trunc' if width > wanted else 'sext' if signed else 'zext'} {old} {value} to {new}")


def _bitcast(c: Code, value: str, old: str, new: str) -> str:
    if old == "i1" and new != "i1":
        return c.make(f"zext i1 {value} to {new}")
    return value if old == new else c.make(f"bitcast {old} {value} to {new}")


def _function(c: Code, name: str, type_: str, x: str) -> str:
    make, long, short = FUNCTIONS[name]
    if type_ == "double":
        return make(c, x, long)
    if name in single.FUNCTIONS:
        return single.FUNCTIONS[name](c, x)
    return c.make(f"fptrunc double {make(c, c.make(f'fpext float {x} to double'), short)} to float")


# ---- floats ----


def _binary(operation: str) -> Callable[..., str]:
    return lambda c, t, x, y: c.two(operation, t, x, y)


def _intrinsic(name: str) -> Callable[..., str]:
    return lambda c, t, *values: c.call(name, t, *values)


def _sign(c: Code, t: str, x: str) -> str:
    above = c.select(c.compare("ogt", t, x, number(0, t)), t, number(1, t), x)
    below = c.select(c.compare("olt", t, x, number(0, t)), t, number(-1, t), above)
    return c.select(c.compare("oeq", t, x, number(0, t)), t, number(0, t), below)


def _extreme(relation: str) -> Callable[..., str]:
    """The first if it is a NaN or stands in the relation to the second."""

    def make(c: Code, t: str, x: str, y: str) -> str:
        first = c.two("or", "i1", c.compare(relation, t, x, y), c.compare("uno", t, x, x))
        return c.select(first, t, x, y)

    return make


def _tie_share(c: Code, t: str, x: str, y: str) -> str:
    tied = c.select(c.compare("oeq", t, x, y), t, number(0.5, t), number(0, t))
    return c.select(c.compare("ogt", t, x, y), t, number(1, t), tied)


def _signbit(c: Code, t: str, x: str) -> str:
    return c.compare("slt", f"i{BITS[t]}", c.make(f"bitcast {t} {x} to i{BITS[t]}"), "0")


def _against_infinity(relation: str) -> Callable[..., str]:
    return lambda c, t, x: c.compare(relation, t, c.call("fabs", t, x), number(float("inf"), t))


_FLOAT: dict[str, Callable[..., str]] = {
    "add": _binary("fadd"), "subtract": _binary("fsub"), "multiply": _binary("fmul"), "divide": _binary("fdiv"),
    "negative": lambda c, t, x: c.make(f"fneg {t} {x}"),
    "positive": lambda c, t, x: x,
    "reciprocal": lambda c, t, x: c.two("fdiv", t, number(1, t), x),
    "square": lambda c, t, x: c.two("fmul", t, x, x),
    "sqrt": _intrinsic("sqrt"), "abs": _intrinsic("fabs"), "copysign": _intrinsic("copysign"),
    "floor": _intrinsic("floor"), "ceil": _intrinsic("ceil"), "trunc": _intrinsic("trunc"), "round": _intrinsic("rint"),
    "sign": _sign, "maximum": _extreme("oge"), "minimum": _extreme("ole"), "tie_share": _tie_share,
    "isnan": lambda c, t, x: c.compare("uno", t, x, x),
    "isinf": _against_infinity("oeq"), "isfinite": _against_infinity("olt"), "signbit": _signbit,
}  # fmt: skip

# ---- integers and bools ----

_Whole = Callable[..., str]


def _same(c: Code, t: str, signed: bool, x: str) -> str:
    return x


def _whole(operation: str) -> _Whole:
    return lambda c, t, signed, x, y: c.two(operation, t, x, y)


def _whole_extreme(relation: str) -> _Whole:
    return lambda c, t, signed, x, y: c.select(c.compare(("s" if signed else "u") + relation, t, x, y), t, x, y)


def _whole_abs(c: Code, t: str, signed: bool, x: str) -> str:
    return c.select(c.compare("slt", t, x, "0"), t, c.two("sub", t, "0", x), x) if signed else x


def _whole_sign(c: Code, t: str, signed: bool, x: str) -> str:
    above = c.select(c.compare("sgt" if signed else "ne", t, x, "0"), t, "1", "0")
    return c.select(c.compare("slt", t, x, "0"), t, "-1", above) if signed else above


def _never(c: Code, t: str, signed: bool, x: str) -> str:
    return c.compare("ne", t, x, x)


def _shift(c: Code, t: str, signed: bool, x: str, y: str, *, left: bool) -> str:
    """What is shifted out is gone, also by more bits than there are."""
    within = c.compare("ult", t, y, str(BITS[t]))
    most = c.select(within, t, y, str(BITS[t] - 1))
    if left or not signed:
        return c.select(within, t, c.two("shl" if left else "lshr", t, x, most), "0")
    return c.two("ashr", t, x, most)


_WHOLE: dict[str, _Whole] = {
    "add": _whole("add"), "subtract": _whole("sub"), "multiply": _whole("mul"),
    "negative": lambda c, t, signed, x: c.two("sub", t, "0", x),
    "positive": _same, "floor": _same, "ceil": _same, "trunc": _same,
    "square": lambda c, t, signed, x: c.two("mul", t, x, x),
    "abs": _whole_abs, "sign": _whole_sign, "maximum": _whole_extreme("ge"), "minimum": _whole_extreme("le"),
    "isnan": _never, "isinf": _never, "isfinite": lambda c, t, signed, x: c.compare("eq", t, x, x),
    "signbit": lambda c, t, signed, x: c.compare("slt", t, x, "0" if signed else x),
    "logical_and": _whole("and"), "logical_or": _whole("or"), "logical_xor": _whole("xor"),
    "logical_not": lambda c, t, signed, x: c.two("xor", t, x, "1"),
    "bitwise_and": _whole("and"), "bitwise_or": _whole("or"), "bitwise_xor": _whole("xor"),
    "bitwise_invert": lambda c, t, signed, x: c.two("xor", t, x, "-1"),
    "bitwise_left_shift": lambda c, t, signed, x, y: _shift(c, t, signed, x, y, left=True),
    "bitwise_right_shift": lambda c, t, signed, x, y: _shift(c, t, signed, x, y, left=False),
}  # fmt: skip
_RELATIONS = {
    "equal": ("oeq", "eq", "eq"), "not_equal": ("une", "ne", "ne"),
    "less": ("olt", "slt", "ult"), "less_equal": ("ole", "sle", "ule"),
    "greater": ("ogt", "sgt", "ugt"), "greater_equal": ("oge", "sge", "uge"),
}  # fmt: skip
"""For floats, signed integers, and unsigned integers and bools."""
COMMON = {"where", "bitcast", "stop_gradient", *_RELATIONS}
