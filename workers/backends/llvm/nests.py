"""A small program as one function: a nest of loops for each value that is written, its operands computed where they are read.

Every size is a number in the code. Counters and running totals live in memory of the stack, which LLVM turns into registers. A sum is
split among the lanes of vectors; in which way, the sizes and the compiler alone decide.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from graphir.node import Node
from workers.backends.llvm import scalar
from workers.backends.llvm.code import TYPES, Code, number
from workers.backends.llvm.stored import Shapes

Index = tuple[str, ...]


class Nests:
    """The body of the function. `places`: pointers to values that are written or fed; `attributes`: as kernels get them."""

    def __init__(self, shapes: Shapes, attributes: Mapping[Node, Mapping[str, Any]]) -> None:
        self.code = Code()
        self.entry: list[str] = []
        self.constants: list[str] = []
        self.places: dict[Node, str] = {}
        self.literals: dict[Node, str] = {}
        self.stack_bytes = 0
        self._shapes, self._attributes = shapes, attributes
        self._known: dict[Any, str] = {}
        self._labels = 0

    # ---- control ----

    def label(self, name: str) -> str:
        self._labels += 1
        return f"{name}{self._labels}"

    def room(self, type_: str, count: int = 1) -> str:
        """Memory of the stack."""
        name = self.code.name()
        self.entry.append(f"  {name} = alloca {type_}, i64 {count}, align 64")
        return name

    @contextmanager
    def _scope(self) -> Iterator[None]:
        """What is computed inside is not known after it."""
        before = dict(self._known)
        yield
        self._known = before

    @contextmanager
    def loop(self, size: int | str) -> Iterator[str]:
        """The positions from 0 to size - 1; a size that is no number is known when the code runs, and not 0."""
        if size == 1:
            yield "0"
            return
        c, begin, end = self.code, self.label("loop"), self.label("done")
        counter = self.room("i64")
        c.say(f"store i64 0, ptr {counter}")
        c.say(f"br label %{begin}")
        c.say(f"{begin}:")
        position = c.make(f"load i64, ptr {counter}")
        with self._scope():
            yield position
            self._note_suspects()
        following = c.two("add nuw nsw", "i64", position, "1")
        c.say(f"store i64 {following}, ptr {counter}")
        c.say(f"br i1 {c.compare('ult', 'i64', following, str(size))}, label %{begin}, label %{end}")
        c.say(f"{end}:")

    def _note_suspects(self) -> None:
        c = self.code
        for found in c.suspect:
            seen = c.two("or", "i64", c.make("load i64, ptr %suspect"), c.make(f"zext i1 {found} to i64"))
            c.say(f"store i64 {seen}, ptr %suspect")
        c.suspect.clear()

    def write(self, node: Node) -> None:
        """Compute a node's value into its place.

        What is put together of parts is written part by part: of loops with conditions on the position LLVM's vectoriser made wrong code.
        """
        with self._scope():
            if node.op.name in _PARTS:
                _PARTS[node.op.name](self, node, self._attributes[node])
            else:
                self._write(node, ())
            self._note_suspects()

    def fill(self, node: Node, index: Index = ()) -> None:
        """Zeros everywhere."""
        shape, dtype = self._shapes[node], node.type.dtype.name
        if len(index) < len(shape):
            with self.loop(self.extent(node, len(index))) as position:
                self.fill(node, (*index, position))
            return
        at = self.code.element(self.places[node], dtype, Nests.offset(self, shape, index))
        self.code.store(at, dtype, number(0, TYPES[dtype]))

    def put(self, node: Node, source: Node, where: Callable[[Index], Index], index: Index = ()) -> None:
        """The elements of a part at other positions of the whole."""
        if len(index) < len(self._shapes[source]):
            with self.loop(self.extent(source, len(index))) as position:
                self.put(node, source, where, (*index, position))
            return
        dtype, value = node.type.dtype.name, self.value(source, index)
        offset = Nests.offset(self, self._shapes[node], where(index))
        self.code.store(self.code.element(self.places[node], dtype, offset), dtype, value)

    def _write(self, node: Node, index: Index) -> None:
        shape = self._shapes[node]
        if len(index) < len(shape):
            with self.loop(self.extent(node, len(index))) as position:
                self._write(node, (*index, position))
            return
        value = self._reduced(node, index) if node.op.name in _TOTALS else self._computed(node, index)
        dtype = node.type.dtype.name
        self.code.store(self.code.element(self.places[node], dtype, self.offset(shape, index)), dtype, value)

    # ---- whole numbers ----

    def whole_number(self, operation: str, left: str, right: int) -> str:
        if (operation, right) in (("add", 0), ("mul", 1), ("udiv", 1), ("sub", 0)):
            return left
        if left.lstrip("-").isdigit():
            x = int(left)
            if operation in ("add", "sub", "mul"):
                return str({"add": x + right, "sub": x - right, "mul": x * right}[operation])
        key = (operation, left, right)
        if key not in self._known:
            nsw = " nsw" if operation in ("add", "sub", "mul") else ""
            self._known[key] = self.code.two(operation + nsw, "i64", left, str(right))
        return self._known[key]

    def offset(self, shape: Sequence[int], index: Index) -> str:
        """The position in row-major order."""
        total = "0"
        for axis, position in enumerate(index):
            term = self.whole_number("mul", position, prod(shape[axis + 1 :]))
            key = ("sum", total, term)
            if total == "0":
                total = term
            elif term != "0":
                if key not in self._known:
                    self._known[key] = self.code.two("add nsw", "i64", total, term)
                total = self._known[key]
        return total

    # ---- values ----

    def value(self, node: Node, index: Index) -> str:
        """One element."""
        key = (node, index)
        if key not in self._known:
            place = self.places.get(node)
            if place is None:
                self._known[key] = self._computed(node, index)
            else:
                dtype = node.type.dtype.name
                offset = self.offset(self._shapes[node], index)
                self._known[key] = self.code.load(self.code.element(place, dtype, offset), dtype)
        return self._known[key]

    def _computed(self, node: Node, index: Index) -> str:
        name = node.op.name
        if name in _MOVES:
            return _MOVES[name](self, node, index, self._attributes[node])
        return scalar.emit(self.code, node, [self.value(source, index) for source in node.inputs])

    def shape(self, node: Node) -> tuple[int, ...]:
        return self._shapes[node]

    def extent(self, node: Node, axis: int) -> int | str:
        """Up to where loops over an axis go."""
        return self._shapes[node][axis]

    # ---- reductions ----

    def _reduced(self, node: Node, index: Index) -> str:
        c, dtype = self.code, node.type.dtype
        type_ = TYPES[dtype.name]
        room = self.room(type_)
        first, join = _TOTALS[node.op.name]
        c.say(f"store {type_} {first(dtype.name)}, ptr {room}")

        def add(value: str) -> None:
            total = join(c, type_, dtype.kind, c.make(f"load {type_}, ptr {room}"), value)
            c.say(f"store {type_} {total}, ptr {room}")

        if node.op.name == "matmul":
            left, right = node.inputs
            with self.loop(self._shapes[left][-1]) as k:
                x, y = self.value(left, (*index[:-1], k)), self.value(right, (*index[:-2], k, index[-1]))
                add(c.two("fmul" if dtype.kind == "f" else "mul", type_, x, y))
        else:
            self._over(node, index, (), add)
        return c.make(f"load {type_}, ptr {room}")

    def _over(self, node: Node, index: Index, inner: Index, add: Callable[[str], None]) -> None:
        source, axes = node.inputs[0], self._attributes[node]["axes"]
        shape = self._shapes[source]
        axis = len(inner)
        if axis == len(shape):
            add(self.value(source, inner))
        elif axis in axes:
            with self.loop(self.extent(source, axis)) as position:
                self._over(node, index, (*inner, position), add)
        else:
            kept = sum(1 for other in range(axis) if other not in axes)
            self._over(node, index, (*inner, index[kept]), add)


# ---- totals ----


def _sum(c: Code, type_: str, kind: str, total: str, value: str) -> str:
    return c.two("fadd reassoc" if kind == "f" else "add", type_, total, value)


def _extreme(name: str) -> Callable[[Code, str, str, str, str], str]:
    def join(c: Code, type_: str, kind: str, total: str, value: str) -> str:
        if kind == "f":
            return c.call("maximum" if name == "gt" else "minimum", type_, total, value)
        return c.select(c.compare(("s" if kind == "i" else "u") + name, type_, value, total), type_, value, total)

    return join


def _least(dtype: str) -> str:
    if dtype.startswith("float"):
        return number(float("-inf"), TYPES[dtype])
    return str(-(1 << (int(dtype[3:]) - 1))) if dtype.startswith("int") else "0"


def _greatest(dtype: str) -> str:
    if dtype.startswith("float"):
        return number(float("inf"), TYPES[dtype])
    return str((1 << (int(dtype[3:]) - 1)) - 1) if dtype.startswith("int") else "-1"


def _zero(dtype: str) -> str:
    return number(-0.0 if dtype.startswith("float") else 0, TYPES[dtype])


_TOTALS: dict[str, tuple[Callable[[str], str], Callable[[Code, str, str, str, str], str]]] = {
    "sum": (_zero, _sum), "matmul": (_zero, _sum),
    "max": (_least, _extreme("gt")), "min": (_greatest, _extreme("lt")),
}  # fmt: skip

# ---- moves and leaves: which element of which input an element is ----

_Attributes = Mapping[str, Any]


def _at(index: Index, axis: int, position: str) -> Index:
    return (*index[:axis], position, *index[axis + 1 :])


def _broadcast(n: Nests, node: Node, index: Index, given: _Attributes) -> str:
    return n.value(node.inputs[0], tuple([index[axis] for axis in given["axes"]]))


def _permute(n: Nests, node: Node, index: Index, given: _Attributes) -> str:
    return n.value(node.inputs[0], tuple([index[given["axes"].index(axis)] for axis in range(len(index))]))


def _slice(n: Nests, node: Node, index: Index, given: _Attributes) -> str:
    axis = given["axis"]
    position = n.whole_number("add", n.whole_number("mul", index[axis], given["step"]), given["start"])
    return n.value(node.inputs[0], _at(index, axis, position))


def _flip(n: Nests, node: Node, index: Index, given: _Attributes) -> str:
    axis = given["axis"]
    position = n.code.two("sub", "i64", str(n.shape(node)[axis] - 1), index[axis])
    return n.value(node.inputs[0], _at(index, axis, position))


def _place(n: Nests, node: Node, given: _Attributes) -> None:
    axis = given["axis"]

    def where(index: Index) -> Index:
        position = n.whole_number("mul", index[axis], given["step"])
        return _at(index, axis, n.whole_number("add", position, given["start"]))

    n.fill(node)
    n.put(node, node.inputs[0], where)


def _concat(n: Nests, node: Node, given: _Attributes) -> None:
    axis, begin = given["axis"], 0
    for source in node.inputs:
        n.put(node, source, lambda index, begin=begin: _at(index, axis, n.whole_number("add", index[axis], begin)))  # type: ignore[misc]
        begin += n.shape(source)[axis]


def _reshape(n: Nests, node: Node, index: Index, given: _Attributes) -> str:
    source, shape = n.shape(node.inputs[0]), n.shape(node)
    long = [position for position, size in zip(index, shape, strict=True) if size != 1]
    if [size for size in source if size != 1] == [size for size in shape if size != 1]:
        left = iter(long)
        return n.value(node.inputs[0], tuple(["0" if size == 1 else next(left) for size in source]))
    rest, found = n.offset(shape, index), []
    for axis in range(len(source)):
        inner = prod(source[axis + 1 :])
        found.append(n.whole_number("udiv", rest, inner))
        rest = n.whole_number("urem", rest, inner) if inner != 1 else "0"
    return n.value(node.inputs[0], tuple(found))


def _constant(n: Nests, node: Node, index: Index, given: _Attributes) -> str:
    array, dtype = given["value"].array, node.type.dtype.name
    if array.size == 1:
        return number(array.item(), TYPES[dtype])
    name = f"@constant{len(n.constants)}"
    type_ = "i8" if dtype == "bool" else TYPES[dtype]
    items = ", ".join(f"{type_} {number(item, type_)}" for item in array.ravel().tolist())
    if node not in n.literals:
        n.literals[node] = name
        n.constants.append(f"{name} = internal constant [{array.size} x {type_}] [{items}], align 64")
    return n.code.load(n.code.element(n.literals[node], dtype, n.offset(array.shape, index)), dtype)


def _iota(n: Nests, node: Node, index: Index, given: _Attributes) -> str:
    return n.whole_number("add", index[0], given["offset"][0])


_MOVES: dict[str, Callable[[Nests, Node, Index, _Attributes], str]] = {
    "broadcast": _broadcast, "permute": _permute, "slice": _slice, "flip": _flip,
    "reshape": _reshape, "constant": _constant, "iota": _iota,
    "size": lambda n, node, index, given: str(given["dim"]),
    "stop_gradient": lambda n, node, index, given: n.value(node.inputs[0], index),
}  # fmt: skip
_PARTS: dict[str, Callable[[Nests, Node, _Attributes], None]] = {"place": _place, "concat": _concat}
