"""Instructions on vectors of one floating dtype, in LLVM's text form."""

from workers.backends.llvm.code import TYPES, Code

BYTES = {"float32": 4, "float64": 8}
"""Of a number; the dtypes of which there are vectors."""


class Vectors:
    """Grows `code`, with so many numbers in a vector."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.code = Code()
        self.type, self.size, self.lanes = TYPES[dtype], BYTES[dtype], lanes
        self.vector = f"<{lanes} x {self.type}>"
        self.suffix = f"v{lanes}f{self.size * 8}"

    def load(self, pointer: str) -> str:
        """The vector that a pointer points to, its numbers aligned."""
        return self.code.make(f"load {self.vector}, ptr {pointer}, align {self.size}")

    def everywhere(self, pointer: str) -> str:
        """A number in memory, in all lanes."""
        c = self.code
        one = c.make(f"load {self.type}, ptr {pointer}, align {self.size}")
        first = c.make(f"insertelement {self.vector} poison, {self.type} {one}, i64 0")
        return c.make(
            f"shufflevector {self.vector} {first}, {self.vector} poison, <{self.lanes} x i32> zeroinitializer"
        )

    def fma(self, a: str, b: str, total: str) -> str:
        """a * b + total with one rounding."""
        self.code.declared.add(f"declare {self.vector} @llvm.fma.{self.suffix}({', '.join([self.vector] * 3)})")
        return self.code.make(
            f"call {self.vector} @llvm.fma.{self.suffix}({self.vector} {a}, {self.vector} {b}, {self.vector} {total})"
        )
