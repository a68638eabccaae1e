"""Sums of products of rows that begin anywhere, as machine code: one function for each dtype and size of a block of registers.

products: for each place of a row the sum over terms, filters times rows; sums: for each filter and term the sum over places. Loops over
images, groups and blocks are inside. Rows have room for whole blocks: there is no remainder.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from workers.backends.llvm import build
from workers.backends.llvm.vectors import BYTES, Vectors

_RUN = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 8)


@dataclass(frozen=True, slots=True)
class Shape:
    """Numbers in a vector; filters of a block, and its vectors (products) or terms (sums)."""

    lanes: int
    tall: int
    wide: int


@cache
def shape(dtype: str, filters: int, *, sums: bool = False) -> Shape:
    """A block whose totals take all registers but those that operands need, no taller than there are filters."""
    large = build.has_feature("avx512f")
    most = 8 if large else 4
    tall = next(size for size in (1, 2, 4, 8) if size >= min(filters, most))
    lanes = (64 if large else 32) // BYTES[dtype]
    return Shape(lanes, max(1, tall // 2), 6) if sums else Shape(lanes, tall, 3)


@cache
def function(dtype: str, filters: int, *, sums: bool = False) -> Callable[..., None]:
    """Of the addresses of x, off, w and out, and of images, image, groups, group, terms, blocks, steps and row.

    image, group: elements from one to the next in x; terms: of sums, blocks of them; steps: blocks of a row, whose elements `row` are.
    """
    text = _sums if sums else _products
    made: Callable[..., None] = _RUN(build.address(text(dtype, shape(dtype, min(filters, 8), sums=sums))))
    return made


class _Text(Vectors):
    """Lines of a function over vectors of one type."""

    def __init__(self, dtype: str, lanes: int) -> None:
        super().__init__(dtype, lanes)
        self._label = "entry"

    def two(self, operation: str, left: str, right: str | int) -> str:
        """Of two whole numbers."""
        return self.code.two(operation, "i64", left, str(right))

    def on(self, pointer: str, type_: str, number: str | int) -> str:
        """The pointer so many numbers, vectors or offsets on."""
        return self.code.make(f"getelementptr {type_}, ptr {pointer}, i64 {number}")

    def at(self, pointer: str, *terms: tuple[str, str | int]) -> str:
        """The pointer so many numbers on: a sum of products."""
        for left, right in terms:
            pointer = self.on(pointer, self.type, self.two("mul", left, right))
        return pointer

    def offset(self, pointer: str, number: str | int) -> str:
        """The whole number at a position of a list."""
        return self.code.make(f"load i64, ptr {self.on(pointer, 'i64', number)}")

    @contextmanager
    def loop(self, name: str, count: str, totals: list[str]) -> Iterator[str]:
        """Counts to a number that is at least 1; the totals, names of vectors, are changed inside and known after it."""
        name = f"each.{name}"
        before, self._label = self._label, name
        lines = self.code.lines
        lines += [f"  br label %{name}", f"{name}:"]
        at = len(lines)
        given = list(totals)
        phis = [f"%{name}.t{k}" for k in range(len(totals))]
        totals[:] = phis
        yield f"%{name}.i"
        lines += [
            f"  %{name}.n = add nuw nsw i64 %{name}.i, 1", f"  %{name}.m = icmp ult i64 %{name}.n, {count}",
            f"  br i1 %{name}.m, label %{name}, label %{name}.end", f"{name}.end:",
        ]  # fmt: skip
        lines[at:at] = [
            f"  %{name}.i = phi i64 [0, %{before}], [%{name}.n, %{self._label}]",
            *[
                f"  {phi} = phi {self.vector} [{first}, %{before}], [{last}, %{self._label}]"
                for phi, first, last in zip(phis, given, totals, strict=True)
            ],
        ]
        self._label = f"{name}.end"


def _text(t: _Text) -> str:
    parameters = "ptr noalias %x, ptr noalias %off, ptr noalias %w, ptr noalias %out, " + ", ".join(
        [f"i64 %{name}" for name in ("images", "image", "groups", "group", "terms", "blocks", "steps", "row")]
    )
    head = f"define void @RUN({parameters}) nounwind {{"
    return "\n".join([*sorted(t.code.declared), head, "entry:", *t.code.lines, "  ret void", "}"])


def _products(dtype: str, shape: Shape) -> str:
    """out[image, group, filter, place] = sum over terms of w[group, block, term, filter] * x[image, group, off[term] + place]."""
    t = _Text(dtype, shape.lanes)
    tall, wide = shape.tall, shape.wide
    with t.loop("image", "%images", []) as i, t.loop("group", "%groups", []) as g, t.loop("block", "%blocks", []) as b:
        block = t.two("add", t.two("mul", g, "%blocks"), b)
        kernels = t.at("%w", (t.two("mul", block, "%terms"), tall))
        own = t.two("mul", t.two("mul", i, "%groups"), "%blocks")
        rows = t.at("%out", (t.two("add", own, block), t.two("mul", "%row", tall)))
        source = t.at("%x", (i, "%image"), (g, "%group"))
        with t.loop("step", "%steps", []) as s:
            here = t.at(source, (s, wide * shape.lanes))
            totals = ["zeroinitializer"] * (tall * wide)
            with t.loop("term", "%terms", totals) as q:
                begin = t.on(here, t.type, t.offset("%off", q))
                given = [t.load(t.on(begin, t.vector, v)) for v in range(wide)]
                factors = t.at(kernels, (q, tall))
                for f in range(tall):
                    factor = t.everywhere(t.on(factors, t.type, f))
                    for v in range(wide):
                        totals[f * wide + v] = t.fma(factor, given[v], totals[f * wide + v])
            for f in range(tall):
                row = t.at(rows, ("%row", f), (s, wide * shape.lanes))
                for v in range(wide):
                    t.code.say(f"store {t.vector} {totals[f * wide + v]}, ptr {t.on(row, t.vector, v)}, align {t.size}")
    return _text(t)


def _sums(dtype: str, shape: Shape) -> str:
    """out[group, filter, term] = sum over images and places of w[image, group, filter, place] * x[image, group, off[term] + place]."""
    t = _Text(dtype, shape.lanes)
    tall, wide = shape.tall, shape.wide
    t.code.declared.add(f"declare {t.type} @llvm.vector.reduce.fadd.{t.suffix}({t.type}, {t.vector})")
    width = t.two("mul", "%terms", wide)
    with t.loop("group", "%groups", []) as g, t.loop("block", "%blocks", []) as b, t.loop("term", "%terms", []) as q:
        block = t.two("add", t.two("mul", g, "%blocks"), b)
        places = t.on("%off", "i64", t.two("mul", q, wide))
        offsets = [t.offset(places, j) for j in range(wide)]
        totals = ["zeroinitializer"] * (tall * wide)
        with t.loop("image", "%images", totals) as i:
            source = t.at("%x", (i, "%image"), (g, "%group"))
            own = t.two("mul", t.two("mul", i, "%groups"), "%blocks")
            given = t.at("%w", (t.two("add", own, block), t.two("mul", "%row", tall)))
            lines = [t.at(given, ("%row", f)) for f in range(tall)]
            starts = [t.on(source, t.type, off) for off in offsets]
            with t.loop("step", "%steps", totals) as s:
                step = t.two("mul", s, shape.lanes)
                left = [t.load(t.on(line, t.type, step)) for line in lines]
                for j, start in enumerate(starts):
                    right = t.load(t.on(start, t.type, step))
                    for f in range(tall):
                        totals[f * wide + j] = t.fma(left[f], right, totals[f * wide + j])
        out = t.at("%out", (t.two("mul", block, tall), width), (q, wide))
        for f in range(tall):
            row = t.at(out, (width, f))
            for j in range(wide):
                total = t.code.make(
                    f"call reassoc {t.type} @llvm.vector.reduce.fadd.{t.suffix}"
                    f"({t.type} -0.0, {t.vector} {totals[f * wide + j]})"
                )
                t.code.say(f"store {t.type} {total}, ptr {t.on(row, t.type, j)}, align {t.size}")
    return _text(t)
