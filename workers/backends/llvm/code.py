"""Instructions in LLVM's text form, one at a time. Values are names; a name stands for one number, not for a vector."""

import struct
from collections.abc import Sequence

TYPES = {
    "float64": "double", "float32": "float", "bool": "i1",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "i8", "uint16": "i16", "uint32": "i32", "uint64": "i64",
}  # fmt: skip
"""Registers' types for dtypes; a dtype that is not here is not compiled."""
MEMORY = {dtype: "i8" if dtype == "bool" else type_ for dtype, type_ in TYPES.items()}
"""Types in memory."""
BITS = {"double": 64, "float": 32, "i1": 8, "i8": 8, "i16": 16, "i32": 32, "i64": 64}


def number(value: float, type_: str) -> str:
    """A constant as LLVM reads it, to the last bit."""
    if type_ not in ("double", "float"):
        return str(int(value))
    if type_ == "float":
        value = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


class Code:
    """The body of a function that grows; `suspect`: a name of type i1 for each operand that may be out of range."""

    def __init__(self, prefix: str = "v") -> None:
        self._prefix = prefix
        self.lines: list[str] = []
        self.declared: set[str] = set()
        self.suspect: list[str] = []
        self._count = 0

    def name(self) -> str:
        """A new one."""
        self._count += 1
        return f"%{self._prefix}{self._count}"

    def make(self, text: str) -> str:
        """The name of an instruction's result."""
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def say(self, text: str) -> None:
        """An instruction without a result, or a label."""
        self.lines.append(text if text.endswith(":") else f"  {text}")

    def two(self, operation: str, type_: str, left: str, right: str) -> str:
        """An operation on two values of a type."""
        return self.make(f"{operation} {type_} {left}, {right}")

    def call(self, name: str, type_: str, *values: str) -> str:
        """An intrinsic of LLVM whose operands and result have one type."""
        suffix = {"double": "f64", "float": "f32"}.get(type_, type_)
        self.declared.add(f"declare {type_} @llvm.{name}.{suffix}({', '.join([type_] * len(values))})")
        operands = ", ".join(f"{type_} {value}" for value in values)
        return self.make(f"call {type_} @llvm.{name}.{suffix}({operands})")

    def select(self, condition: str, type_: str, then: str, other: str) -> str:
        """One of two values, without a branch."""
        return self.make(f"select i1 {condition}, {type_} {then}, {type_} {other}")

    def compare(self, relation: str, type_: str, left: str, right: str) -> str:
        """An i1; `relation` in LLVM's words, such as "olt"."""
        return self.two(("fcmp " if type_ in ("double", "float") else "icmp ") + relation, type_, left, right)

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """By Horner's scheme, with one rounding a step; highest power first."""
        result = number(coefficients[0], "double")
        for coefficient in coefficients[1:]:
            result = self.call("fma", "double", result, x, number(coefficient, "double"))
        return result

    def load(self, pointer: str, dtype: str) -> str:
        """What a pointer points to; a byte in memory for a bool. Memory need not be aligned."""
        if dtype == "bool":
            return self.compare("ne", "i8", self.make(f"load i8, ptr {pointer}, align 1"), "0")
        return self.make(f"load {TYPES[dtype]}, ptr {pointer}, align 1")

    def store(self, pointer: str, dtype: str, value: str) -> None:
        """The reverse."""
        type_ = TYPES[dtype]
        if dtype == "bool":
            type_, value = "i8", self.make(f"zext i1 {value} to i8")
        self.say(f"store {type_} {value}, ptr {pointer}, align 1")

    def element(self, pointer: str, dtype: str, position: str) -> str:
        """A pointer to an element of values that lie beside one another."""
        return self.make(f"getelementptr {MEMORY[dtype]}, ptr {pointer}, i64 {position}")
