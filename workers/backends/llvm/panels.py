"""The code of narrow products, in vectors: as many running totals as fit into the registers.

"rows": each row of x times all columns of y, which come transposed, rows padded with zeros; lanes are added in pairs at the end.
"sums": for some columns of x at a time, the sums over all rows of x times y's; rows in blocks, so that x is read from cache.
"""

from collections.abc import Sequence

from workers.backends.llvm.vectors import Vectors

MOST_COLUMNS = {"rows": 12, "sums": 16}
"""With more, BLAS is as fast."""
BLOCK_BYTES = 1 << 18
"""Of x, in a block of rows."""


def text(kind: str, dtype: str, terms: int, columns: int, lanes: int, registers: int) -> str:
    """A function of x, the bytes from row to row, y, the result, and the number of rows."""
    declared, lines = function("@RUN", kind, dtype, terms, columns, lanes, registers)
    return "\n".join([*sorted(declared), *lines])


def function(
    name: str, kind: str, dtype: str, terms: int, columns: int, lanes: int, registers: int
) -> tuple[set[str], list[str]]:
    """What it needs declared, and its lines."""
    panel = _Panel(dtype, terms, columns, lanes)
    if kind == "rows":
        panel.rows(max(1, 16 // columns, registers // columns if columns > 2 else 1))
    else:
        panel.sums(max(1, registers // columns))
    head = f"define void {name}(ptr noalias %x, i64 %step, ptr noalias %y, ptr noalias %out, i64 %rows) nounwind {{"
    return panel.code.declared, [head, "entry:", *panel.code.lines, "  ret void", "}"]


def registers(width: int) -> int:
    """How many running totals there may be, of so many bytes each."""
    return 24 if width == 64 else 12


class _Panel(Vectors):
    def __init__(self, dtype: str, terms: int, columns: int, lanes: int) -> None:
        super().__init__(dtype, lanes)
        self.terms, self.columns = terms, columns
        self.padded = -(-terms // lanes) * lanes
        self._block, self._labels = "entry", 0

    # ---- control ----

    def label(self, name: str) -> str:
        self._labels += 1
        return f"{name}{self._labels}"

    def at(self, label: str) -> None:
        """Code goes on under the label."""
        self.code.say(f"{label}:")
        self._block = label

    def loop(self, begin: str, end: str, step: int, carried: Sequence[str], types: Sequence[str]) -> "_Loop":
        """Positions from begin while less than end, with values carried from step to step; to be closed with their next ones."""
        return _Loop(self, begin, end, step, carried, types)

    @property
    def block(self) -> str:
        """The label of the code that is being written."""
        return self._block

    # ---- vectors ----

    def place(self, pointer: str, offset: str) -> str:
        """So many bytes on."""
        return self.code.make(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def part(self, pointer: str, count: int) -> str:
        """A vector whose first lanes alone are in memory; the others are zero."""
        if count == self.lanes:
            return self.load(pointer)
        mask = f"<{self.lanes} x i1>"
        self.code.declared.add(
            f"declare {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr, i32, {mask}, {self.vector})"
        )
        return self.code.make(
            f"call {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr {pointer}, i32 {self.size}, "
            f"{mask} {self.mask(count)}, {self.vector} zeroinitializer)"
        )

    def fetch(self, pointer: str) -> None:
        """Bring it into the cache."""
        self.code.declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.code.say(f"call void @llvm.prefetch.p0(ptr {pointer}, i32 0, i32 3, i32 1)")

    def store(self, pointer: str, value: str, count: int) -> None:
        """The first lanes of a vector."""
        if count == self.lanes:
            self.code.say(f"store {self.vector} {value}, ptr {pointer}, align {self.size}")
            return
        mask = f"<{self.lanes} x i1>"
        self.code.declared.add(f"declare void @llvm.masked.store.{self.suffix}.p0({self.vector}, ptr, i32, {mask})")
        self.code.say(
            f"call void @llvm.masked.store.{self.suffix}.p0({self.vector} {value}, ptr {pointer}, i32 {self.size}, "
            f"{mask} {self.mask(count)})"
        )

    def mask(self, count: int) -> str:
        return "<" + ", ".join([f"i1 {int(lane < count)}" for lane in range(self.lanes)]) + ">"

    def add(self, a: str, b: str) -> str:
        return self.code.make(f"fadd {self.vector} {a}, {b}")

    def totals(self, vectors: Sequence[str]) -> list[str]:
        """The sums of each vector's lanes, a vector of them for as many vectors as there are lanes."""
        found = []
        for begin in range(0, len(vectors), self.lanes):
            level = list(vectors[begin : begin + self.lanes])
            width = self.lanes
            while width > 1:
                level += ["zeroinitializer"] * (len(level) % 2)
                level = [self._pairs(level[k], level[k + 1]) for k in range(0, len(level), 2)]
                width //= 2
            found.append(level[0])
        return found

    def _pairs(self, a: str, b: str) -> str:
        """The sums of neighbours of both, one after the other."""
        c, v = self.code, self.vector
        halves = []
        for odd in (0, 1):
            order = ", ".join([f"i32 {2 * lane + odd}" for lane in range(self.lanes)])
            halves.append(c.make(f"shufflevector {v} {a}, {v} {b}, <{self.lanes} x i32> <{order}>"))
        return self.add(*halves)

    # ---- rows ----

    def rows(self, together: int) -> None:
        """So many rows at a time, and what is left one by one."""
        c = self.code
        done = "0"
        for count in dict.fromkeys((together, 1)):
            most = c.two("sub", "i64", "%rows", str(count - 1))
            loop = self.loop(done, most, count, (), ())
            self._some_rows(loop.position, count)
            loop.close(())
            done = loop.after
        # nothing is left

    def _some_rows(self, row: str, count: int) -> None:
        c, columns = self.code, self.columns
        begin = self.place("%x", c.two("mul", "i64", row, "%step"))
        sources = [begin]
        for _ in range(1, count):
            sources.append(self.place(sources[-1], "%step"))
        zeros = ["zeroinitializer"] * (count * columns)
        whole, rest = divmod(self.terms, self.lanes)
        loop = self.loop("0", str(whole), 1, zeros, [self.vector] * len(zeros)) if whole else None
        totals = loop.carried if loop else zeros
        if loop:
            at = c.two("mul", "i64", loop.position, str(self.lanes * self.size))
            for source in sources if columns > 2 else ():
                self.fetch(self.place(self.place(source, c.two("mul", "i64", "%step", str(count))), at))
            totals = self._multiplied([self.load(self.place(source, at)) for source in sources], at, totals)
            loop.close(totals)
            totals = loop.results
        if rest:
            at = str(whole * self.lanes * self.size)
            totals = self._multiplied([self.part(self.place(source, at), rest) for source in sources], at, totals)
        out = self.place("%out", c.two("mul", "i64", row, str(columns * self.size)))
        for k, vector in enumerate(self.totals(totals)):
            here = self.place(out, str(k * self.lanes * self.size))
            self.store(here, vector, min(self.lanes, count * columns - k * self.lanes))

    def _multiplied(self, values: Sequence[str], at: str, totals: Sequence[str]) -> list[str]:
        """The totals of each row and column with one more vector of terms."""
        found = list(totals)
        for column in range(self.columns):
            where = self.place("%y", at)
            factor = self.load(self.place(where, str(column * self.padded * self.size)))
            for k, value in enumerate(values):
                place = k * self.columns + column
                found[place] = self.fma(value, factor, found[place])
        return found

    # ---- sums ----

    def sums(self, together: int) -> None:
        """So many vectors of x's columns at a time, for each block of rows."""
        c = self.code
        vectors = self.padded // self.lanes
        height = max(32, BLOCK_BYTES // (self.padded * self.size))
        outer = self.loop("0", "%rows", height, (), ())
        first = outer.position
        last = c.call("smin", "i64", c.two("add", "i64", first, str(height)), "%rows")
        whole = vectors if vectors <= together else vectors // together * together
        if vectors > together:
            inner = self.loop("0", str(whole), together, (), ())
            self._some_columns(first, last, inner.position, [self.lanes] * together)
            inner.close(())
        left = vectors if vectors <= together else vectors - whole
        if left:
            counts = [self.lanes] * left
            counts[-1] = self.terms - (vectors - 1) * self.lanes
            self._some_columns(first, last, str(vectors - left), counts)
        outer.close(())

    def _some_columns(self, first: str, last: str, vector: str, counts: Sequence[int]) -> None:
        """Adds the sums over a block of rows to the result."""
        c, columns = self.code, self.columns
        offset = c.two("mul", "i64", vector, str(self.lanes * self.size))
        source, out = self.place("%x", offset), self.place("%out", offset)
        zeros = ["zeroinitializer"] * (len(counts) * columns)
        loop = self.loop(first, last, 1, zeros, [self.vector] * len(zeros))
        row = self.place(source, c.two("mul", "i64", loop.position, "%step"))
        values = [self.part(self.place(row, str(k * self.lanes * self.size)), n) for k, n in enumerate(counts)]
        for k in range(len(counts) if columns > 2 else 0):  # no processor foresees that their neighbours are read next
            self.fetch(self.place(row, str((len(counts) + k) * self.lanes * self.size)))
        factors = self.place("%y", c.two("mul", "i64", loop.position, str(columns * self.size)))
        found = list(loop.carried)
        for column in range(columns):
            factor = self.everywhere(self.place(factors, str(column * self.size)))
            for k, value in enumerate(values):
                place = column * len(counts) + k
                found[place] = self.fma(value, factor, found[place])
        loop.close(found)
        for column in range(columns):
            for k in range(len(counts)):
                here = self.place(out, str((column * self.padded + k * self.lanes) * self.size))
                self.store(here, self.add(self.load(here), loop.results[column * len(counts) + k]), self.lanes)


class _Loop:
    """A loop that is being written; it may run no time at all. after: the position at which it ended."""

    def __init__(
        self, panel: _Panel, begin: str, end: str, step: int, carried: Sequence[str], types: Sequence[str]
    ) -> None:
        c = panel.code
        self._panel, self._step, self._types = panel, step, types
        self._head, self._body, self._done = (panel.label(name) for name in ("head", "body", "done"))
        before = panel.block
        c.say(f"br label %{self._head}")
        panel.at(self._head)
        self.position = c.name()
        self.carried = [c.name() for _ in carried]
        self._place = len(c.lines)
        self._entry = [(self.position, "i64", begin, before)]
        self._entry += [(n, t, v, before) for n, t, v in zip(self.carried, types, carried, strict=True)]
        more = c.compare("slt", "i64", self.position, end)
        c.say(f"br i1 {more}, label %{self._body}, label %{self._done}")
        panel.at(self._body)

    def close(self, carried: Sequence[str]) -> None:
        """The end of a step, with the values that the next one begins with."""
        c, panel = self._panel.code, self._panel
        following = c.two("add nsw", "i64", self.position, str(self._step))
        latch = panel.block
        c.say(f"br label %{self._head}")
        phis = [
            f"  {name} = phi {type_} [{value}, %{before}], [{new}, %{latch}]"
            for (name, type_, value, before), new in zip(self._entry, (following, *carried), strict=True)
        ]
        c.lines[self._place : self._place] = phis
        panel.at(self._done)
        self.results, self.after = list(self.carried), self.position
