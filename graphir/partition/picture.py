"""The picture of a plan: a panel for each step, coloured by its kind, with the nodes of its program inside.

Steps that do not wait for each other stand side by side. Derivative nodes have dashed borders, as in pictures of graphs. Of large
plans the largest steps are folded into one box each, with counts, until what is left can be read. Below is told what is not
cut, and why. The text keeps out folders, since pictures travel; colours follow the reader's light or dark scheme.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, TypeAlias

from graphir import draw
from graphir.node import Node
from graphir.partition.explain import heading, without_folders
from graphir.partition.palette import STYLE
from graphir.units import in_bytes

if TYPE_CHECKING:
    from graphir.partition.plan import Plan, Step

LARGEST = 300
"""Most nodes that are drawn one by one."""
MOST_OPEN = 24
"""Most map and single steps that are drawn with their nodes; of more all are folded."""
MOST_PANELS = 120
"""Most steps that are drawn one by one; of more, like steps of a stage share a panel."""
PARTS = 6
"""How many colours there are for the parts of a stage."""
WIDEST = 1500.0
MOST_AROUND = 12
"""How many lines that pass rows are led around them; of more each goes straight, behind the panels."""

PAD = 14
_HEAD, _GAP, _DOWN = 40, 26, 56
_LINE = 16
Point: TypeAlias = tuple[float, float]


@dataclass(eq=False)
class Panel:
    """The steps of one panel: one, or several alike that are folded together."""

    numbers: list[int]
    kind: str
    lines: list[str]
    layout: draw.Layout | None = None
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0
    ins: dict[str, Point] = field(default_factory=dict)
    outs: dict[str, Point] = field(default_factory=dict)


def to_svg(plan: "Plan") -> str:
    """The plan as a self-contained SVG document."""
    return Picture(plan).svg()


class Picture:
    """role: what it is to those who listen."""

    role = "img"

    def __init__(self, plan: "Plan") -> None:
        self.plan = plan
        self.made = {value: node for step in plan.steps for value, node in step.program.outputs.items()}
        self.read = {read.value for step in plan.steps for read in step.reads}
        self.outputs: dict[str, list[str]] = {}
        for name, value in plan.outputs.items():
            self.outputs.setdefault(value, []).append(name)
        self.beside = Counter(step.stage for step in plan.steps if step.kind == "single")
        self.open = self._find_open()
        self.panels = [self._panel(numbers) for numbers in self._grouped()]
        self.rows = self._rows()
        self.width = max([sum(p.width + _GAP for p in row) + _GAP for row in self.rows] + [640.0])
        self.margin = self._margin()
        self.width += self.margin
        self._arrange()

    def svg(self) -> str:
        """The document."""
        legend, below = _legend(max(p.y + p.height for p in self.panels) + 24, self._kinds(), self.width)
        notes = self._notes()
        height = below + 30 + _LINE * len(notes) + 16
        body = [f'<rect class="back" width="{self.width:.0f}" height="{height:.0f}"/>']
        body += [
            f'<text class="{"head" if k == 0 else "left"}" x="{_GAP}" y="{24 + _LINE * k}">{escape(line)}</text>'
            for k, line in enumerate(self._heading())
        ]
        body += self._values()
        body += map(self._frame, self.panels)
        body += [part for panel in self.panels for part in (*self._inside(panel), *self._lines_of(panel))]
        body.append(legend)
        body += [
            f'<text class="left" x="{_GAP}" y="{below + 42 + _LINE * k:.0f}">{escape(line)}</text>'
            for k, line in enumerate(notes)
        ]
        title, about = escape(self._heading()[0]), escape(self._about())
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="gf-plan" viewBox="0 0 {self.width:.0f} {height:.0f}" width="{self.width:.0f}" '
            f'height="{height:.0f}" role="{self.role}" aria-labelledby="gf-plan-title gf-plan-about"><title id="gf-plan-title">{title}</title>'
            f'<desc id="gf-plan-about">{about}</desc><style>{STYLE}</style><defs>{draw.TIP}</defs>{"".join(body)}</svg>\n'
        )

    # ---- what is drawn ----

    def _grouped(self) -> list[list[int]]:
        """The numbers of the steps of each panel."""
        steps = self.plan.steps
        if len(steps) <= MOST_PANELS:
            return [[number] for number in range(len(steps))]
        groups: dict[tuple[int, str, tuple[str, ...]], list[int]] = {}
        for number, step in enumerate(steps):
            groups.setdefault((step.stage, step.kind, step.over), []).append(number)
        return list(groups.values())

    def _panel(self, numbers: list[int]) -> Panel:
        steps = [self.plan.steps[number] for number in numbers]
        kind = self._kind(numbers[0]) if len(numbers) == 1 else steps[0].kind
        panel = Panel(numbers, kind, [_head(self.plan, steps), *self._counts(steps)])
        if len(numbers) == 1 and numbers[0] in self.open:
            panel.layout = self._laid_out(steps[0])
        else:
            panel.lines += self._told(steps)
        inner = panel.layout
        panel.width = max(2 * PAD + 6.9 * max(map(len, panel.lines)), inner.width + 2 * PAD if inner else 0.0)
        panel.height = _HEAD + (inner.height - 30 if inner else _LINE * (len(panel.lines) - 2) + 8)
        return panel

    def _find_open(self) -> set[int]:
        """The steps whose nodes are drawn: all but the largest, as many as can be read."""
        inner = [k for k, step in enumerate(self.plan.steps) if step.kind != "combine"]
        found, total = set[int](), 0
        for number in sorted(inner, key=lambda k: len(self.plan.steps[k].program)):
            total += len(self.plan.steps[number].program)
            if total > LARGEST or len(inner) > MOST_OPEN:
                break
            found.add(number)
        return found

    def _kind(self, number: int) -> str:
        step = self.plan.steps[number]
        if step.kind != "single" or self.beside[step.stage] == 1:
            return step.kind
        before = sum(s.kind == "single" and s.stage == step.stage for s in self.plan.steps[:number])
        return f"part{before % PARTS}"

    def _kinds(self) -> dict[str, str]:
        """The colours that occur, and what they mean."""
        words = {"map": "map: once a chunk", "combine": "combine: along a fixed tree", "single": "single: once"}
        found: dict[str, str] = {}
        for panel in self.panels:
            part = panel.kind.startswith("part")
            found[panel.kind] = f"part {int(panel.kind[4:]) + 1}" if part else words[panel.kind]
        return found

    def _laid_out(self, step: "Step") -> draw.Layout:
        return draw.layout(step.program, {node: self._texts(step, node) for node in step.program.nodes})

    def _texts(self, step: "Step", node: Node) -> tuple[str, str]:
        """The two lines in a node's box; of what is read also its bytes."""
        if node.op.name != "input":
            return draw.label(node), str(node.type)
        read = next(read for read in step.reads if read.input == node.attr("name"))
        gathered = [dim for dim in self.plan.values[read.value].dims if dim not in step.over]
        size = self.plan.block_bytes(read.value) * self.plan.cells(gathered)
        return self._name(read.value), f"{node.type} · {in_bytes(size)}"

    def _name(self, value: str) -> str:
        """What a reader calls a value: an input's or output's name, or what made it."""
        while value not in self.plan.graph.inputs and value not in self.outputs:
            node = self.made[value]
            if node.op.name != "input":
                return draw.label(node)
            maker = next(step for step in self.plan.steps if value in step.writes)
            value = next(read.value for read in maker.reads if read.input == node.attr("name"))
        return value if value in self.plan.graph.inputs else self.outputs[value][0]

    def _counts(self, steps: list["Step"]) -> list[str]:
        """The panel's second line."""
        nodes = sum(len(step.program) for step in steps)
        derived = sum(node.origin.kind == "vjp" for step in steps for node in step.program.nodes)
        if steps[0].kind == "combine":
            written = [self.plan.values[name] for step in steps for name in step.writes]
            return [", ".join(str(v.type) for v in written[:3]) + (" ..." if len(written) > 3 else "")]
        return [f"{nodes} node(s), {derived} of derivatives" if derived else f"{nodes} node(s)"]

    def _told(self, steps: list["Step"]) -> list[str]:
        """What a folded panel says of what is inside."""
        if steps[0].kind == "combine":
            return [f"gives {', '.join(n)}" for n in [self._output_names(steps)] if n]
        ops = Counter(
            n.op.name for step in steps for n in step.program.nodes if not n.op.cheap and n.op.name != "input"
        )
        most = ", ".join(f"{count} {name}" for name, count in ops.most_common(5))
        reads = list(dict.fromkeys(r.value for step in steps for r in step.reads if r.value in self.plan.graph.inputs))
        lines = [most + (", ..." if len(ops) > 5 else "")] if most else []
        if reads:
            lines.append(f"reads {', '.join(reads[:6])}{', ...' if len(reads) > 6 else ''}")
        names = self._output_names(steps)
        return [*lines, f"gives {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"] if names else lines

    def _output_names(self, steps: list["Step"]) -> list[str]:
        return [name for step in steps for value in step.writes for name in self.outputs.get(value, ())]

    def _bytes(self, value: str) -> int:
        return self.plan.block_bytes(value) * self.plan.cells(self.plan.values[value].dims)

    # ---- where ----

    def _rows(self) -> list[list[Panel]]:
        """Panels by longest path over what they read, each row as wide as can be read."""
        by = {value: panel for panel in self.panels for k in panel.numbers for value in self.plan.steps[k].writes}
        level: dict[int, int] = {}
        for panel in self.panels:
            before = [by[r.value] for k in panel.numbers for r in self.plan.steps[k].reads if r.value in by]
            level[id(panel)] = 1 + max([level[id(p)] for p in before if p is not panel], default=-1)
        rows: list[list[Panel]] = []
        for depth in sorted(set(level.values())):
            rows.append([])
            for panel in (p for p in self.panels if level[id(p)] == depth):
                if rows[-1] and sum(p.width + _GAP for p in rows[-1]) + panel.width > WIDEST:
                    rows.append([])
                rows[-1].append(panel)
        return rows

    def _margin(self) -> float:
        """Room at the side for lines that are led around rows."""
        row = {number: k for k, panels in enumerate(self.rows) for panel in panels for number in panel.numbers}
        makers = {value: number for number, step in enumerate(self.plan.steps) for value in step.writes}
        reads = {
            (makers[r.value], n) for n, step in enumerate(self.plan.steps) for r in step.reads if r.value in makers
        }
        passing = sum(row[reader] - row[maker] > 1 for maker, reader in reads)
        return 36 + 16.0 * passing if 0 < passing <= MOST_AROUND else 0.0

    def _arrange(self) -> None:
        y = 24.0 + _LINE * len(self._heading()) + 4
        for row in self.rows:
            x = (self.width - self.margin - sum(p.width + _GAP for p in row) + _GAP) / 2
            for panel in row:
                panel.x, panel.y = x, y
                x += panel.width + _GAP
                self._anchor(panel)
            y += max(p.height for p in row) + _DOWN

    def _anchor(self, panel: Panel) -> None:
        """Where values enter and leave a panel."""
        for step in (self.plan.steps[number] for number in panel.numbers):
            middle = panel.x + panel.width / 2
            for read in step.reads:
                x = self._at(panel, step.program.inputs[read.input])[0] if panel.layout else middle
                panel.ins[read.value] = x, panel.y
            for value, node in step.program.outputs.items():
                x = self._at(panel, node)[0] if panel.layout else middle
                panel.outs[value] = x, panel.y + panel.height

    def _at(self, panel: Panel, node: Node) -> Point:
        assert panel.layout is not None
        x, y = panel.layout.centres[node]
        return panel.x + (panel.width - panel.layout.width) / 2 + x, panel.y + _HEAD + y - 8

    # ---- parts of the document ----

    def _heading(self) -> list[str]:
        return [heading(self.plan)]

    def _about(self) -> str:
        kinds = Counter(step.kind for step in self.plan.steps)
        steps = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"{len(self.plan.graph)} nodes in {len(self.plan.steps)} steps ({steps}). " + " ".join(self._notes())

    def _notes(self) -> list[str]:
        """What is not cut and why, and what was considered."""
        lines = [without_folders(note.splitlines()[0]) for note in self.plan.notes]
        shown = lines[:12] + ([f"and {len(lines) - 12} more: see to_text()"] if len(lines) > 12 else [])
        return [line for note in shown for line in wrap(note, int(self.width / 6.6), subsequent_indent="    ")]

    def _frame(self, panel: Panel) -> str:
        at = f'x="{panel.x:.1f}" y="{panel.y:.1f}" width="{panel.width:.1f}" height="{panel.height:.1f}" rx="10"'
        return f'<rect class="back" {at}/><rect class="panel {panel.kind}" {at}/>'

    def _lines_of(self, panel: Panel) -> Iterator[str]:
        yield self._head(panel, panel.lines[0])
        for k, line in enumerate(panel.lines[1:], 1):
            yield f'<text class="left type" x="{panel.x + PAD:.1f}" y="{panel.y + 17 + 15 * k:.1f}">{escape(line)}</text>'

    def _head(self, panel: Panel, line: str) -> str:
        return f'<text class="head" x="{panel.x + PAD:.1f}" y="{panel.y + 17:.1f}">{escape(line)}</text>'

    def _inside(self, panel: Panel) -> Iterator[str]:
        if panel.layout is None:
            return
        step = self.plan.steps[panel.numbers[0]]
        at = {node: self._at(panel, node) for node in step.program.nodes}
        for value, node in step.program.outputs.items():
            if value in self.read:
                yield f'<path class="value" d="M{_at(at[node])}V{panel.outs[value][1]:.1f}"/>'
        for read in step.reads:
            if read.value in self.made:
                low = at[step.program.inputs[read.input]][1] - draw.HEIGHT / 2
                yield f'<path class="value" d="M{_at(panel.ins[read.value])}V{low:.1f}"/>'
        for node in step.program.nodes:
            yield from (draw.edge(at[source], at[node]) for source in dict.fromkeys(node.inputs))
        for node in step.program.nodes:
            yield self._box(panel, step, node, at[node])

    def _box(self, panel: Panel, step: "Step", node: Node, at: Point) -> str:
        assert panel.layout is not None
        (x, y), width = at, panel.layout.widths[node]
        upper, lower = self._texts(step, node)
        kind = "leaf" if not node.inputs else panel.kind
        derived = " vjp" if node.origin.kind == "vjp" else ""
        names = [
            name for value, made in step.program.outputs.items() if made is node for name in self.outputs.get(value, ())
        ]
        outputs = "".join(
            f'<text class="out" x="{x:.1f}" y="{y + 30 + 13 * k:.1f}">{escape(name)}</text>'
            for k, name in enumerate(names)
        )
        return (
            f'<g><title>{escape(draw.tooltip(node))}</title><rect class="box {kind}{derived}" x="{x - width / 2:.1f}" '
            f'y="{y - draw.HEIGHT / 2:.1f}" width="{width:.1f}" height="{draw.HEIGHT}" rx="6"/>'
            f'<text x="{x:.1f}" y="{y - 2:.1f}">{escape(upper)}</text>'
            f'<text class="type" x="{x:.1f}" y="{y + 11:.1f}">{escape(lower)}</text>{outputs}</g>'
        )

    def _values(self) -> Iterator[str]:
        """What goes from panel to panel, with its bytes; around the rows that it passes, if that is not too much."""
        row = {self.panels.index(panel): number for number, panels in enumerate(self.rows) for panel in panels}
        lines = sorted(self._lines())
        passing = [line for line in lines if row[line[1]] - row[line[0]] > 1]
        around = 0
        for source, target, start, end, size in lines:
            if row[target] - row[source] < 2 or len(passing) > MOST_AROUND:
                bend = (end[1] - start[1]) / 2
                way = f"M{_at(start)}C{_at((start[0], start[1] + bend))} {_at((end[0], end[1] - bend))} {_at(end)}"
                middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            else:
                x = self.width - _GAP - 30 - 16 * around
                way = _around(start, end, x, 3.0 * around)
                middle, around = (x, start[1] + (end[1] - start[1]) * (0.3 + 0.1 * (around % 5))), around + 1
            yield f'<path class="value" marker-end="url(#tip)" d="{way}"/>'
            yield f'<text class="bytes" x="{middle[0]:.1f}" y="{middle[1] + 3:.1f}">{in_bytes(size)}</text>'

    def _lines(self) -> Iterator[tuple[int, int, Point, Point, int]]:
        """From which panel to which, where it begins and ends, and how many bytes."""
        maker = {value: number for number, panel in enumerate(self.panels) for value in panel.outs}
        for number, panel in enumerate(self.panels):
            sizes: dict[tuple[int, Point, Point], int] = {}
            for value, at in panel.ins.items():
                source = maker.get(value, number)
                if source != number:
                    ends = source, self.panels[source].outs[value], at
                    sizes[ends] = sizes.get(ends, 0) + self._bytes(value)
            yield from ((source, number, start, end, size) for (source, start, end), size in sizes.items())


def _at(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def _around(start: Point, end: Point, x: float, aside: float) -> str:
    """Down into the gap below the row, out to the margin, along it, and back above the last row."""
    low, high = start[1] + 8 + aside, end[1] - 12 - aside
    return f"M{_at(start)}V{low:.1f}H{x:.1f}V{high:.1f}H{end[0]:.1f}V{end[1]:.1f}"


def _head(plan: "Plan", steps: list["Step"]) -> str:
    """The panel's first line."""
    step = steps[0]
    number = f"{step.kind} {step.stage}" + (f", {len(steps)} steps" if len(steps) > 1 else "")
    if step.kind == "combine":
        operators = {along.dim: along.combine for along in plan.values[step.reads[0].value].blocks}
        return f"{number}: {operators[step.along or '']} of {plan.cells([step.along or ''])} parts"
    if step.over:
        grid = " x ".join(f"{len(plan.borders[dim]) - 1} of {dim}" for dim in step.over)
        return f"{number}: once for each chunk, {grid}"
    return f"{number}: once"


def _legend(y: float, kinds: dict[str, str], width: float) -> tuple[str, float]:
    """The legend in lines of this width, and where it ends."""
    parts, x = [], float(_GAP)
    for kind, text in {
        **kinds,
        "leaf": "leaf: fed, read or constant",
        "single vjp": "dashed: appended by grad",
    }.items():
        if x > _GAP and x + 28 + 7 * len(text) > width:
            x, y = float(_GAP), y + 22
        parts.append(f'<rect class="box {kind}" x="{x:.0f}" y="{y:.0f}" width="22" height="13" rx="3"/>')
        parts.append(f'<text class="left" x="{x + 28:.0f}" y="{y + 11:.0f}">{escape(text)}</text>')
        x += 28 + 7 * len(text) + 20
    return f"<g>{''.join(parts)}</g>", y
