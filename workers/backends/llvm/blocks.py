"""Nests for a block of rows: loops over rows go up to a count that is known when they run.

A value of rows and columns whose operands lie alike is computed in one loop over all its elements, so that few columns fill vectors too.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from math import prod
from typing import Any

from graphir.node import Node
from graphir.ops.rules import elementwise_axes
from workers.backends.llvm import scalar
from workers.backends.llvm.code import MEMORY, TYPES, number
from workers.backends.llvm.nests import Index, Nests
from workers.backends.llvm.stored import Shapes

COUNT = "%count"


class BlockNests(Nests):
    """rows: the nodes whose first axis is that of the rows."""

    def __init__(self, shapes: Shapes, attributes: Mapping[Node, Mapping[str, Any]], rows: Container[Node]) -> None:
        super().__init__(shapes, attributes)
        self._rows = rows

    # ---- sizes that are known when the code runs ----

    def extent(self, node: Node, axis: int) -> int | str:
        return COUNT if axis == 0 and node in self._rows else super().extent(node, axis)

    def offset(self, shape: Sequence[int], index: Index) -> str:
        return index[0] if len(index) == 1 else super().offset(shape, index)

    def write(self, node: Node) -> None:
        if not self._lies_alike(node):
            super().write(node)
            return
        size = self.whole_number("mul", COUNT, prod(self.shape(node)[1:]))
        with self.loop(size) as position:
            dtype = node.type.dtype.name
            value = self._computed(node, (position,))
            self.code.store(self.code.element(self.places[node], dtype, position), dtype, value)

    def _lies_alike(self, node: Node) -> bool:
        """Whether an element of an elementwise value of several columns depends on elements at its own place alone."""
        if node not in self._rows or node.type.rank < 2 or node.op.axes is not elementwise_axes:
            return False
        stack, seen = list(node.inputs), set[Node]()
        while stack:
            source = stack.pop()
            if source in seen:
                continue
            seen.add(source)
            if source in self.places:
                if self.shape(source) != self.shape(node):
                    return False
            elif source.op.axes is elementwise_axes:
                stack.extend(source.inputs)
            elif not (source.op.name == "broadcast" and not source.inputs[0].type.rank):
                return False
        return True

    # ---- positions that are values ----

    def _computed(self, node: Node, index: Index) -> str:
        make = _ALONG.get(node.op.name)
        return super()._computed(node, index) if make is None else make(self, node, index, self._attributes[node])

    def position(self, node: Node, index: Index, size: int) -> str:
        """A value as a position of an axis, counted from its end if it is negative; what is outside is suspect."""
        c, dtype = self.code, node.type.dtype.name
        given = scalar.cast(c, self.value(node, index), dtype, "int64" if dtype.startswith("int") else "uint64")
        key = ("position", given, size)
        if key not in self._known:
            from_end = c.two("add", "i64", given, str(size))
            low = c.compare("slt", "i64", given, "0") if dtype.startswith("int") else "false"
            found = c.select(low, "i64", from_end, given)
            outside = c.compare("uge", "i64", found, str(size))
            c.suspect.append(outside)
            self._known[key] = c.select(outside, "i64", "0", found)
        return self._known[key]

    # ---- steps of a program ----

    def call(self, panel: str, wide: str, step: int, narrow: str, out: str) -> None:
        """A narrow product of the block's rows."""
        self.code.say(f"call void {panel}(ptr {wide}, i64 {step}, ptr {narrow}, ptr {out}, i64 {COUNT})")

    def clear(self, room: str, dtype: str, count: int) -> None:
        """Zeros."""
        with self.loop(count) as position:
            self.code.store(self.code.element(room, dtype, position), dtype, number(0, TYPES[dtype]))

    def pack(self, node: Node, room: str, padded: int) -> None:
        """A matrix, transposed, its rows padded with zeros."""
        (terms, columns), dtype = self.shape(node), node.type.dtype.name
        self.clear(room, dtype, columns * padded)
        self._moved(
            (terms, columns), room, padded, dtype, lambda i, j, at: self.code.store(at, dtype, self.value(node, (i, j)))
        )

    def unpack(self, node: Node, room: str, place: str, padded: int, *, turned: bool) -> None:
        """The reverse, or without transposing."""
        c, dtype, shape = self.code, node.type.dtype.name, self.shape(node)

        def store(i: str, j: str, at: str) -> None:
            index = (j, i) if turned else (i, j)
            c.store(c.element(place, dtype, Nests.offset(self, shape, index)), dtype, c.load(at, dtype))

        self._moved(shape[::-1] if turned else shape, room, padded, dtype, store)

    def _moved(
        self, shape: tuple[int, ...], room: str, padded: int, dtype: str, move: Callable[[str, str, str], None]
    ) -> None:
        with self.loop(shape[1]) as j, self.loop(shape[0]) as i:
            at = self.code.two("add", "i64", self.code.two("mul", "i64", j, str(padded)), i)
            move(i, j, self.code.element(room, dtype, at))

    def add(self, node: Node, total: str) -> None:
        """A block's sums to those of the blocks before."""
        dtype = node.type.dtype
        self.places[node] = self.room(MEMORY[dtype.name], prod(self.shape(node)))
        self.write(node)
        c, operation = self.code, "fadd" if dtype.kind == "f" else "add"
        with self.loop(prod(self.shape(node))) as position:
            here = c.element(total, dtype.name, position)
            more = c.load(c.element(self.places[node], dtype.name, position), dtype.name)
            c.store(here, dtype.name, c.two(operation, TYPES[dtype.name], c.load(here, dtype.name), more))

    def copy(self, node: Node, place: str) -> None:
        """A value to another place."""
        dtype = node.type.dtype.name
        with self.loop(prod(self.shape(node))) as position:
            value = self.code.load(self.code.element(self.places[node], dtype, position), dtype)
            self.code.store(self.code.element(place, dtype, position), dtype, value)


def _take(n: BlockNests, node: Node, index: Index, given: Mapping[str, Any]) -> str:
    source, indices = node.inputs
    axis = given["axis"]
    position = n.position(indices, index, n.shape(source)[axis])
    return n.value(source, (*index[:axis], position, *index[axis + 1 :]))


def _scatter(n: BlockNests, node: Node, index: Index, given: Mapping[str, Any]) -> str:
    updates, indices = node.inputs
    c, axis, type_ = n.code, given["axis"], TYPES[node.type.dtype.name]
    total = number(0, type_)
    for k in range(n.shape(indices)[axis]):
        at = (*index[:axis], str(k), *index[axis + 1 :])
        here = c.compare("eq", "i64", n.position(indices, at, given["size"]), index[axis])
        total = c.two("fadd", type_, total, c.select(here, type_, n.value(updates, at), number(0, type_)))
    return total


_ALONG: dict[str, Callable[[BlockNests, Node, Index, Mapping[str, Any]], str]] = {
    "take_along_axis": _take, "scatter_add_along_axis": _scatter,
}  # fmt: skip
