"""The program of a tile as one function, which takes the tile's rows block by block: what a block needs stays in cache from its first product to
its last, and no thread waits for another between. Products are narrow ones; see `parts` for what else there may be.

Sizes but that of the tile are numbers in the code. The order of sums follows from them and the length of a block.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from graphir.graph import Graph
from graphir.interpret import bound_attributes
from graphir.node import Array, Node
from graphir.ops.rules import elementwise_axes
from workers.backends.llvm import build, panels
from workers.backends.llvm.blocks import BlockNests
from workers.backends.llvm.code import MEMORY
from workers.backends.llvm.parts import Parts, parts
from workers.backends.llvm.stored import LEAVES, MOVES, PARTS, stored
from workers.backends.llvm.vector import FUNCTIONS

BLOCK_BYTES = 1 << 18
"""What a block reads and makes, about."""
STACK_BYTES = 1 << 19
"""Memory that values inside may take."""
_READ = (MOVES | LEAVES) - PARTS
"""Ops whose values are computed where they are read."""
Run = Callable[[Mapping[str, Array]], "list[Array] | None"]
_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)


def stream(
    graph: Graph, writes: Sequence[str], local: str, sizes: Mapping[str, int], offsets: Mapping[str, int]
) -> Run | None:
    """From a tile's arrays, in C order, to its outputs in the order of `writes`; None if the program is not for this code.

    The function gives None if an argument is out of range, for which NumPy's kernels have an error or a value.
    """
    found = parts(graph, local)
    if found is None or not build.vector_bytes():
        return None
    given = [node for node in found.graph.inputs.values() if node in found.rows]
    text = _Text(found, local, sizes, offsets)
    if not given or not text.fits:
        return None
    run = _FUNCTION(build.address(text.whole()))
    names, outputs = list(found.graph.inputs), [found.graph.outputs[name] for name in writes]
    forms = [(node.type.bind({**sizes, local: 1}), node.type.dtype, node in found.rows) for node in text.outputs]
    measured = next(name for name, node in found.graph.inputs.items() if node is given[0])
    order = [text.outputs.index(node) for node in outputs]

    def call(arrays: Mapping[str, Array]) -> list[Array] | None:
        rows = arrays[measured].shape[0]
        made = [np.empty((rows, *shape[1:]) if of_rows else shape, dtype) for shape, dtype, of_rows in forms]
        operands = [np.asarray(arrays[name], order="C") for name in names]
        pointers = [array.ctypes.data for array in (*operands, *made)]
        if run((ctypes.c_void_p * len(pointers))(*pointers), rows):
            return None
        return [made[k] for k in order]

    return call


class _Text:
    """The function's text. %p: pointers that are given; %q: memory that lasts for the whole tile."""

    def __init__(self, found: Parts, local: str, sizes: Mapping[str, int], offsets: Mapping[str, int]) -> None:
        self.parts, self.graph = found, found.graph
        self.outputs = list(dict.fromkeys(self.graph.outputs.values()))
        single = {node: node.type.bind({**sizes, local: 1}) for node in self.graph.nodes}
        self.bytes = {node: prod(shape) * node.type.dtype.itemsize for node, shape in single.items()}
        given = [node for node in self.graph.inputs.values() if node in found.rows]
        self._written = self._rows_written(single)
        of_row = sum(self.bytes[node] for node in dict.fromkeys([*given, *self._written]))
        self.block = min(256, max(16, BLOCK_BYTES // max(1, of_row) // 16 * 16))
        bound = {**sizes, local: self.block}
        self._shapes = {node: node.type.bind(bound) for node in self.graph.nodes}
        self._attributes = {node: bound_attributes(node, bound, offsets) for node in self.graph.nodes}
        self._declared: set[str] = set()
        self._functions: list[str] = []
        self._memory: list[int] = []
        self._stack = self.block * sum(self.bytes[node] for node in self._written)
        values = [*self.graph.inputs.values(), *self.outputs]
        self._given = {node: f"%p{k}" for k, node in enumerate(values)}
        self._lasting = {n: self._room(self.bytes[n]) for n in found.before if n.op.name not in _READ}
        self._panels: dict[Node, tuple[str, str, int]] = {}
        for node in self.graph.nodes:
            self._panel(node)
        self._totals = {n: self._room(self.bytes[n]) for n in found.sums if n not in self._panels}

    @property
    def fits(self) -> bool:
        """Whether memory of the stack is enough."""
        return self._stack + sum(self._memory) <= STACK_BYTES and self._long_enough

    def _room(self, size: int) -> str:
        self._memory.append(size)
        return f"%q{len(self._memory) - 1}"

    def _rows_written(self, shapes: Mapping[Node, tuple[int, ...]]) -> list[Node]:
        """The nodes of rows whose values are written to memory, in order."""
        written = stored(self.graph, shapes)
        self._long_enough = written is not None
        chosen = set(written or ())
        for node in self.graph.nodes:
            product = self.parts.product(node)
            chosen.update(product[1:] if product is not None else ())
            wide = node.type.rank > 1
            if wide and node.op.axes is elementwise_axes:
                chosen.update([i for i in node.inputs if i.op.name == "broadcast" and i.inputs[0].type.rank])
            if node.op.name in FUNCTIONS:  # of which a sum's loop may make no vectors
                chosen.add(node)
        return [node for node in self.parts.rows if node in chosen and node.op.name != "input"]

    def _panel(self, node: Node) -> None:
        """A narrow product: its function, and memory for the narrow factor or the sums."""
        product = self.parts.product(node)
        if product is None:
            return
        kind, wide, narrow = product
        (terms, columns), dtype = (self._shapes[wide][1], self._shapes[narrow][1]), node.type.dtype
        width = build.vector_bytes()
        lanes = width // dtype.itemsize
        padded = -(-terms // lanes) * lanes
        name = f"@panel{len(self._panels)}"
        declared, lines = panels.function(
            name, "rows" if kind == "rows" else "sums", dtype.name, terms, columns, lanes, panels.registers(width)
        )
        self._declared |= declared
        lines[0] = lines[0].replace("define", "define internal")
        self._functions += lines
        self._panels[node] = name, self._room(columns * padded * dtype.itemsize), padded

    # ---- the functions ----

    def whole(self) -> str:
        names = [*self._given.values(), *(f"%q{k}" for k in range(len(self._memory)))]
        for name, fill in (("before", self._before), ("work", self._work), ("after", self._after)):
            self._function(name, names, fill)
        passed = ", ".join([f"ptr {name}" for name in names])
        moved, block = self._moved(names)
        rooms = [f"  %q{k} = alloca i8, i64 {max(size, 1)}, align 64" for k, size in enumerate(self._memory)]
        loads = [line for k in range(len(self._given)) for line in (
            f"  %g{k} = getelementptr ptr, ptr %given, i64 {k}", f"  %p{k} = load ptr, ptr %g{k}"
        )]  # fmt: skip
        return "\n".join([
            *sorted(self._declared), "declare i64 @llvm.smin.i64(i64, i64)" if not self._declares_smin else "",
            *self._functions,
            "define i64 @RUN(ptr %given, i64 %rows) nounwind {", "entry:", *loads, *rooms,
            f"  %first = call i64 @before({passed}, i64 0)", "  br label %head",
            "head:",
            "  %row = phi i64 [0, %entry], [%next, %block]", "  %seen = phi i64 [%first, %entry], [%both, %block]",
            "  %more = icmp slt i64 %row, %rows", "  br i1 %more, label %block, label %done",
            "block:", "  %left = sub i64 %rows, %row", f"  %count = call i64 @llvm.smin.i64(i64 %left, i64 {self.block})",
            *moved, f"  %found = call i64 @work({block}, i64 %count)", "  %both = or i64 %seen, %found",
            f"  %next = add i64 %row, {self.block}", "  br label %head",
            "done:", f"  %last = call i64 @after({passed}, i64 0)", "  %all = or i64 %seen, %last", "  ret i64 %all", "}",
        ])  # fmt: skip

    @property
    def _declares_smin(self) -> bool:
        return any("@llvm.smin.i64" in line for line in self._declared)

    def _moved(self, names: Sequence[str]) -> tuple[list[str], str]:
        """Pointers to a block's rows, and what is passed for it."""
        lines, passed = [], list(names)
        for k, node in enumerate(self._given):
            if node in self.parts.rows:
                lines += [
                    f"  %o{k} = mul i64 %row, {self.bytes[node]}",
                    f"  %b{k} = getelementptr i8, ptr %p{k}, i64 %o{k}",
                ]
                passed[k] = f"%b{k}"
        return lines, ", ".join([f"ptr {name}" for name in passed])

    def _function(self, name: str, names: Sequence[str], fill: Callable[[BlockNests], None]) -> None:
        nests = BlockNests(self._shapes, self._attributes, self.parts.rows)
        nests.places |= {node: place for node, place in self._given.items() if node.op.name == "input"}
        nests.places |= self._lasting
        fill(nests)
        self._declared |= nests.code.declared
        constants = [line.replace("@constant", f"@{name}.constant") for line in nests.constants]
        body = [line.replace("@constant", f"@{name}.constant") for line in nests.code.lines]
        self._functions += [
            *constants,
            f"define internal i64 @{name}({', '.join([f'ptr noalias {n}' for n in names])}, i64 %count) noinline nounwind {{",
            "entry:", "  %suspect = alloca i64", "  store i64 0, ptr %suspect", *nests.entry, *body,
            "  %result = load i64, ptr %suspect", "  ret i64 %result", "}",
        ]  # fmt: skip

    def _before(self, nests: BlockNests) -> None:
        for node in self._lasting:
            nests.write(node)
        for node, (_, room, padded) in self._panels.items():
            product = self.parts.product(node)
            assert product is not None
            kind, _, narrow = product
            if kind == "rows":
                nests.pack(narrow, room, padded)
            else:
                nests.clear(room, node.type.dtype.name, self._shapes[narrow][1] * padded)
        for node, room in self._totals.items():
            nests.clear(room, node.type.dtype.name, prod(self._shapes[node]))

    def _work(self, nests: BlockNests) -> None:
        written = set(self._written)
        for node in self.graph.nodes:
            panel, product = self._panels.get(node), self.parts.product(node)
            if panel is not None and product is not None:
                kind, wide, narrow = product
                place = panel[1] if kind != "rows" else self._place(node, nests)
                second = panel[1] if kind == "rows" else nests.places[narrow]
                nests.call(panel[0], nests.places[wide], self.bytes[wide], second, place)
            elif node in written:
                self._place(node, nests)
                nests.write(node)
            elif node in self._totals:
                nests.add(node, self._totals[node])

    def _place(self, node: Node, nests: BlockNests) -> str:
        room = self._given.get(node) or nests.room(MEMORY[node.type.dtype.name], prod(self._shapes[node]))
        nests.places[node] = room
        return room

    def _after(self, nests: BlockNests) -> None:
        for node, (_, room, padded) in self._panels.items():
            if node in self.parts.sums:
                product = self.parts.product(node)
                assert product is not None
                place = self._place(node, nests)
                nests.unpack(node, room, place, padded, turned=product[0] == "turned")
        for node, room in self._totals.items():
            nests.places[node] = room
        for node in self.parts.after:
            if node in self.outputs or node.op.name not in _READ:
                self._place(node, nests)
                nests.write(node)
        for node in self._totals:
            if node in self.outputs:
                nests.copy(node, self._given[node])
