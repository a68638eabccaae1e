"""Fused groups as one loop each: every operand's element is read once, every output's written once, the rest stays in registers.

The loop is compiled for the operands' layouts (beside one another, one for all, some way apart), not for sizes. Its
results do not depend on where it begins or ends, so threads share it.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from graphir.node import Array, Node
from workers.backends.llvm import build, scalar
from workers.backends.llvm.code import Code

if TYPE_CHECKING:
    from workers.fuse import Group

NEXT, ONE, APART = "next", "one", "apart"
"""Layouts of an operand along the inner axis."""
Run = Callable[..., int]
_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 4)


def loop(group: "Group") -> "Loop | None":
    """The group's loop, or None if an op or dtype of it is not compiled."""
    return Loop(group) if all(map(scalar.covers, group.nodes)) else None


class Loop:
    """A group as compiled code, made for each choice of layouts when it is first met."""

    def __init__(self, group: "Group") -> None:
        self._group = group
        self._known: dict[tuple[str, ...], Run] = {}

    def start(self, arrays: Sequence[Array]) -> "Started":
        """Outputs that are to be filled, in C order."""
        shape = arrays[0].shape
        outputs = [np.empty(shape, node.type.dtype) for node in self._group.outputs]
        operands = [*arrays, *outputs]
        grid = _grid(operands)
        if grid is None:
            operands = [a if a.flags.c_contiguous or not any(a.strides) else np.ascontiguousarray(a) for a in operands]
            grid = _grid(operands)
            assert grid is not None
        sizes, strides = grid
        inner = [stride[1] for stride in strides]
        layouts = tuple(
            [ONE if s == 0 else NEXT if s == a.itemsize else APART for s, a in zip(inner, operands, strict=True)]
        )
        run = self._known.get(layouts)
        if run is None:
            run = self._known[layouts] = _FUNCTION(build.address(text(self._group, layouts)))
        pointers = (ctypes.c_void_p * len(operands))(*[a.ctypes.data for a in operands])
        outer = (ctypes.c_int64 * len(operands))(*[stride[0] for stride in strides])
        return Started(outputs, operands, sizes, run, (pointers, outer, (ctypes.c_int64 * len(operands))(*inner)))


@dataclass(eq=False)
class Started:
    """A loop with its operands. suspect: some operand was out of range, and the outputs are not to be used."""

    outputs: list[Array]
    operands: list[Array]
    sizes: tuple[int, int]
    function: Run
    arguments: tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_int64], ctypes.Array[ctypes.c_int64]]
    suspect: bool = field(default=False)

    @property
    def count(self) -> int:
        """What threads share: rows or columns, whichever are more."""
        return max(self.sizes)

    def run(self, begin: int, end: int) -> None:
        """A part of them."""
        rows, columns = self.sizes
        part = (0, rows, begin, end) if columns >= rows else (begin, end, 0, columns)
        if self.function(*self.arguments, *part):
            self.suspect = True


def _grid(operands: Sequence[Array]) -> tuple[tuple[int, int], list[tuple[int, int]]] | None:
    """Rows and columns, and each operand's strides in bytes along both; None if it takes more than two axes."""
    axes = [axis for axis, size in enumerate(operands[0].shape) if size != 1]
    merged: list[tuple[int, tuple[int, ...]]] = []
    for axis in axes:
        size, strides = operands[0].shape[axis], tuple([a.strides[axis] for a in operands])
        if merged and all(before == s * size for before, s in zip(merged[-1][1], strides, strict=True)):
            size *= merged.pop()[0]
        merged.append((size, strides))
    while len(merged) < 2:
        merged.insert(0, (1, (0,) * len(operands)))
    if len(merged) > 2:
        return None
    (rows, outer), (columns, inner) = merged
    return (rows, columns), list(zip(outer, inner, strict=True))


# ---- the text ----


def text(group: "Group", layouts: Sequence[str]) -> str:
    """A function of pointers, outer and inner strides, and ranges of rows and columns; not 0 if something is suspect."""
    columns = _columns(group, layouts)
    operands = range(len(layouts))
    taken = [line for k in operands for line in (
        f"  %a{k} = getelementptr ptr, ptr %pointers, i64 {k}", f"  %p{k} = load ptr, ptr %a{k}",
        f"  %b{k} = getelementptr i64, ptr %outer, i64 {k}", f"  %o{k} = load i64, ptr %b{k}",
        f"  %c{k} = getelementptr i64, ptr %inner, i64 {k}", f"  %s{k} = load i64, ptr %c{k}",
    )]  # fmt: skip
    rows = [line for k in operands for line in (
        f"  %m{k} = mul i64 %row, %o{k}", f"  %q{k} = getelementptr i8, ptr %p{k}, i64 %m{k}",
    )]  # fmt: skip
    passed = ", ".join([f"ptr %q{k}, i64 %s{k}" for k in operands])
    return "\n".join([
        *columns,
        "define i64 @RUN(ptr %pointers, ptr %outer, ptr %inner, i64 %top, i64 %bottom, i64 %begin, i64 %end) nounwind {",
        "entry:", *taken, "  br label %head",
        "head:",
        "  %row = phi i64 [%top, %entry], [%below, %work]", "  %all = phi i64 [0, %entry], [%both, %work]",
        "  %more = icmp slt i64 %row, %bottom", "  br i1 %more, label %work, label %done",
        "work:", *rows, f"  %found = call i64 @columns({passed}, i64 %begin, i64 %end)",
        "  %both = or i64 %all, %found", "  %below = add nsw i64 %row, 1", "  br label %head",
        "done:", "  ret i64 %all", "}",
    ])  # fmt: skip


def _columns(group: "Group", layouts: Sequence[str]) -> list[str]:
    """The function of one row's columns."""
    once, c = Code("w"), Code()
    values: dict[Node, str] = {}
    for k, node in enumerate(group.inputs):
        dtype = node.type.dtype.name
        values[node] = once.load(f"%p{k}", dtype) if layouts[k] == ONE else c.load(_at(c, k, dtype, layouts[k]), dtype)
    for node in group.nodes:
        values[node] = scalar.emit(c, node, [values[i] for i in node.inputs])
    for k, node in enumerate(group.outputs, len(group.inputs)):
        c.store(_at(c, k, node.type.dtype.name, layouts[k]), node.type.dtype.name, values[node])
    suspect = "0"
    for found in c.suspect:
        suspect = c.two("or", "i64", suspect, c.make(f"zext i1 {found} to i64"))
    parameters = ", ".join([f"ptr noalias %p{k}, i64 %s{k}" for k in range(len(layouts))])
    return [
        *sorted(c.declared),
        f"define internal i64 @columns({parameters}, i64 %begin, i64 %end) noinline nounwind {{",
        "entry:", *once.lines, "  %some = icmp slt i64 %begin, %end", "  br i1 %some, label %loop, label %none",
        "loop:", "  %i = phi i64 [%begin, %entry], [%next, %loop]", "  %seen = phi i64 [0, %entry], [%now, %loop]",
        *c.lines, f"  %now = or i64 %seen, {suspect}", "  %next = add nsw i64 %i, 1",
        "  %again = icmp slt i64 %next, %end", "  br i1 %again, label %loop, label %out",
        "out:", "  ret i64 %now", "none:", "  ret i64 0", "}",
    ]  # fmt: skip


def _at(c: Code, k: int, dtype: str, layout: str) -> str:
    """Where an operand's element of this column is."""
    if layout == NEXT:
        return c.element(f"%p{k}", dtype, "%i")
    if layout == ONE:
        return f"%p{k}"
    return c.make(f"getelementptr i8, ptr %p{k}, i64 {c.two('mul', 'i64', '%i', f'%s{k}')}")
