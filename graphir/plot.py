"""Curves of numbers over iterations, and lanes of workers over time, as SVG; the same in notebooks and on the service's page.

What is kept of a curve is bounded: from `MOST` points on, neighbours are put together, and least and greatest are kept, so that no
spike is lost. Nothing but the standard library is needed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from graphir.sheet import scoped

MOST = 600
"""Most points of a curve; of more, neighbours are put together."""
WIDTH, HEIGHT = 420.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 30.0, 26.0
WIDE_RATIO = 30.0
"""Of positive numbers that differ by more than this, logarithms are drawn."""
STYLE = scoped(
    "gf-curve",
    "text{font:11px system-ui,sans-serif;fill:#57606c}.name{font-size:13px;font-weight:600;fill:#1b1f24}.last{font-size:13px;"
    "fill:#1b1f24;text-anchor:end}.y{text-anchor:end}.x{text-anchor:middle}.grid{stroke:#dfe3e8;stroke-width:1}"
    ".line{fill:none;stroke:#1f5fa8;stroke-width:1.6;stroke-linejoin:round}.dot{fill:#1f5fa8}.span{fill:#1f5fa8;fill-opacity:.16}",
    "text{fill:#a3adba}.name,.last{fill:#e6e9ee}.grid{stroke:#2a323c}.line{stroke:#7fb2ea}.dot,.span{fill:#7fb2ea}",
)


@dataclass(frozen=True, slots=True)
class Point:
    """One iteration's number, or those of some iterations: the last one, the least and the greatest."""

    step: int
    value: float
    low: float
    high: float


class Series:
    """The numbers of one output, by iteration."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.count, self.stride = 0, 1

    def add(self, step: int, value: float) -> None:
        """The number of an iteration; one that is made again takes the place of its former self, and of what followed."""
        while self.points and self.points[-1].step >= step:
            self.points.pop()
        self.count = step + 1
        if self.points and self.points[-1].step // self.stride == step // self.stride:
            self.points[-1] = _joined(self.points[-1], Point(step, value, value, value))
        else:
            self.points.append(Point(step, value, value, value))
        if len(self.points) > MOST:
            self._thin()

    def _thin(self) -> None:
        self.stride *= 2
        kept: list[Point] = []
        for point in self.points:
            if kept and kept[-1].step // self.stride == point.step // self.stride:
                kept[-1] = _joined(kept[-1], point)
            else:
                kept.append(point)
        self.points = kept


def _joined(before: Point, after: Point) -> Point:
    if not math.isfinite(before.value) or not math.isfinite(after.value):  # what is no number is to be seen
        return before if not math.isfinite(before.value) else after
    return Point(after.step, after.value, min(before.low, after.low), max(before.high, after.high))


def curve(name: str, series: Series) -> str:
    """The numbers of an output as a self-contained SVG document."""
    finite = [point for point in series.points if math.isfinite(point.value)]
    head = f'<text class="name" x="0" y="14">{escape(_short(name))}</text>'
    if not finite:
        return _document(name, f"{name}: no finite number so far", head)
    scale = _Scale.of(finite)
    last = series.points[-1]
    body = [
        head,
        f'<text class="last" x="{WIDTH - _RIGHT}" y="14">{_text(last.value)}</text>',
        *_grid(scale),
        *_band(finite, scale, series.stride),
        *_lines(series.points, scale),
        f'<circle class="dot" cx="{scale.x(finite[-1].step):.1f}" cy="{scale.y(finite[-1].value):.1f}" r="3"/>',
    ]
    return _document(name, _told(name, series, finite), "".join(body))


def _told(name: str, series: Series, finite: Sequence[Point]) -> str:
    first, last = series.points[0], series.points[-1]
    least, greatest = min(p.low for p in finite), max(p.high for p in finite)
    wrong = len(series.points) - len(finite)
    return (
        f"{name} over {series.count} iterations: {_text(first.value)} at first, {_text(last.value)} at last, "
        f"between {_text(least)} and {_text(greatest)}" + (f"; {wrong} not finite" if wrong else "")
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """From iterations and numbers to places."""

    last: int
    low: float
    high: float
    is_log: bool

    @staticmethod
    def of(points: Sequence[Point]) -> "_Scale":
        low, high = min(p.low for p in points), max(p.high for p in points)
        is_log = low > 0 and high / low > WIDE_RATIO
        if is_log:
            low, high = math.log10(low), math.log10(high)
        if high - low <= 1e-12 * max(1.0, abs(high)):
            pad = 0.5 * max(abs(high), 1e-300)
            low, high = low - pad, high + pad
        return _Scale(max(1, points[-1].step), low, high, is_log)

    def x(self, step: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * step / self.last

    def y(self, value: float) -> float:
        at = math.log10(value) if self.is_log else value
        part = at / (self.high - self.low) - self.low / (self.high - self.low)
        return HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * min(1.0, max(0.0, part))

    def values(self) -> list[float]:
        """Where there are lines across."""
        if not self.is_log:
            return _round_values(self.low, self.high, 4)
        powers = _round_values(self.low, self.high, 4)
        return [10.0**power for power in powers if power == int(power) or self.high - self.low < 3]


def _round_values(low: float, high: float, most: int) -> list[float]:
    """Some round numbers between two others."""
    rough = (high - low) / most
    if not math.isfinite(rough) or rough <= 0:
        return [low]
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, first + 2 * most + 2) if k * step <= high + 1e-9 * step]


def _grid(scale: _Scale) -> Iterator[str]:
    for value in scale.values():
        y = scale.y(value)
        yield f'<path class="grid" d="M{_LEFT},{y:.1f}H{WIDTH - _RIGHT}"/>'
        yield f'<text class="y" x="{_LEFT - 7}" y="{y + 4:.1f}">{_text(value)}</text>'
    for step in _round_values(0, scale.last, 4):
        if step == int(step):
            yield f'<text class="x" x="{scale.x(step):.1f}" y="{HEIGHT - 8}">{int(step)}</text>'


def _band(points: Sequence[Point], scale: _Scale, stride: int) -> Iterator[str]:
    """Between least and greatest where points stand for several iterations."""
    if stride > 1:
        upper = [f"{scale.x(p.step):.1f},{scale.y(p.high):.1f}" for p in points]
        lower = [f"{scale.x(p.step):.1f},{scale.y(p.low):.1f}" for p in reversed(points)]
        yield f'<polygon class="span" points="{" ".join([*upper, *lower])}"/>'


def _lines(points: Sequence[Point], scale: _Scale) -> Iterator[str]:
    """Lines through what is finite, with gaps where it is not."""
    run: list[str] = []
    for point in [*points, None]:
        if point is not None and math.isfinite(point.value):
            run.append(f"{scale.x(point.step):.1f},{scale.y(point.value):.1f}")
        elif run:
            yield f'<polyline class="line" points="{" ".join(run)}"/>'
            run = []


def _document(name: str, told: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gf-curve" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" '
        f'width="{WIDTH:.0f}" height="{HEIGHT:.0f}" role="img" aria-label="{escape(told)}"><title>{escape(told)}</title>'
        f"<style>{STYLE}</style>{body}</svg>\n"
    )


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"


def _text(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
