"""Lanes of workers over time, as SVG: how much of each span a worker computed, by kind of step, and how much it waited for others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from graphir.partition import palette
from graphir.sheet import scoped

MOST = 240
"""Most spans; of more, neighbours are put together."""
MOST_WORKERS = 32
_LEFT, _RIGHT, _LANE, _GAP, _TOP, _WIDTH = 84.0, 10.0, 24.0, 6.0, 26.0, 1000.0
KINDS = {"map": "map", "combine": "combine", "single": "single", "waits": "waits for others"}


def _fills(colours: Mapping[str, tuple[str, str]]) -> str:
    return "".join(f".{kind}{{fill:{colours[kind][1]}}}" for kind in KINDS if kind in colours)


STYLE = scoped(
    "gf-lanes",
    "text{font:12px system-ui,sans-serif;fill:#57606c}.name{text-anchor:end;fill:#1b1f24}.x{text-anchor:middle}"
    ".lane{fill:#f1f3f5}.grid{stroke:#dfe3e8;stroke-width:1}.waits{fill:#b9c0c9}" + _fills(palette.LIGHT),
    "text{fill:#a3adba}.name{fill:#e6e9ee}.lane{fill:#1b222b}.grid{stroke:#2a323c}.waits{fill:#4a5563}"
    + _fills(palette.DARK),
)


@dataclass(slots=True)
class _Span:
    """Until when, for how long, and the seconds of each worker by kind."""

    end: float
    seconds: float
    workers: dict[str, dict[str, float]]


class Spans:
    """What workers did, as told by events."""

    def __init__(self) -> None:
        self._spans: list[_Span] = []
        self._merged = 1
        self.by_step: dict[int, float] = {}
        self.latest: frozenset[int] = frozenset()
        self._count = 0

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, event: Mapping[str, Any]) -> None:
        """A report of workers."""
        workers: dict[str, dict[str, float]] = {}
        busy = set()
        for lane in event["lanes"]:
            kinds = workers.setdefault(lane["worker"], {"waits": lane["waited"]})
            for number, name, seconds in lane["steps"]:
                kind = name.split(" ")[0]
                kinds[kind] = kinds.get(kind, 0.0) + seconds
                self.by_step[number] = self.by_step.get(number, 0.0) + seconds
                busy.add(number)
        self.latest = frozenset(busy)
        self._keep(_Span(event["time"], event["seconds"], workers))

    def shares(self) -> dict[int, float]:
        """The part of the time computed that each step took."""
        total = sum(self.by_step.values())
        return {number: seconds / total for number, seconds in self.by_step.items()} if total > 0 else {}

    def _keep(self, span: _Span) -> None:
        self._count += 1
        if self._spans and (self._count - 1) % self._merged:
            self._spans[-1] = _joined(self._spans[-1], span)
        else:
            self._spans.append(span)
        if len(self._spans) > MOST:
            pairs = [self._spans[k : k + 2] for k in range(0, len(self._spans), 2)]
            self._spans = [_joined(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
            self._merged *= 2
            self._count = (len(self._spans) - 1) * self._merged + (
                self._merged if len(pairs[-1]) == 2 else self._merged // 2
            )

    def svg(self) -> str:
        """The picture as a self-contained SVG document."""
        workers = sorted({name for span in self._spans for name in span.workers}, key=_by_number)
        begin = min(span.end - span.seconds for span in self._spans)
        total = max(self._spans[-1].end - begin, 1e-9)
        across = (_WIDTH - _LEFT - _RIGHT) / total
        height = _TOP + len(workers[:MOST_WORKERS]) * (_LANE + _GAP) + 26
        body = [_legend()]
        for place, worker in enumerate(workers[:MOST_WORKERS]):
            y = _TOP + place * (_LANE + _GAP)
            body.append(f'<text class="name" x="{_LEFT - 8}" y="{y + 17:.1f}">{escape(worker)}</text>')
            body.append(
                f'<rect class="lane" x="{_LEFT}" y="{y:.1f}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_LANE}"/>'
            )
            for span in self._spans:
                if worker in span.workers:
                    x = _LEFT + (span.end - span.seconds - begin) * across
                    body.append(_bar(worker, span, x, y, span.seconds * across, begin))
        body += _times(total, across, height - 8)
        told = escape(_told(workers, self._spans, total))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="gf-lanes" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" '
            f'width="{_WIDTH:.0f}" height="{height:.0f}" role="img" aria-label="{told}"><title>{told}</title>'
            f"<style>{STYLE}</style>{''.join(body)}</svg>\n"
        )


def _joined(before: _Span, after: _Span) -> _Span:
    workers = {name: dict(kinds) for name, kinds in before.workers.items()}
    for name, kinds in after.workers.items():
        known = workers.setdefault(name, {})
        for kind, seconds in kinds.items():
            known[kind] = known.get(kind, 0.0) + seconds
    return _Span(after.end, after.end - (before.end - before.seconds), workers)


def _bar(worker: str, span: _Span, x: float, y: float, width: float, begin: float) -> str:
    kinds = {kind: span.workers[worker].get(kind, 0.0) for kind in KINDS}
    whole = max(span.seconds, sum(kinds.values()), 1e-9)
    at, parts = y + _LANE, []
    for kind, seconds in kinds.items():
        tall = _LANE * seconds / whole
        at -= tall
        if tall >= 0.1:
            parts.append(
                f'<rect class="{kind}" x="{x:.2f}" y="{at:.2f}" width="{max(width, 0.3):.2f}" height="{tall:.2f}"/>'
            )
    shares = ", ".join(f"{KINDS[kind]} {seconds / whole:.0%}" for kind, seconds in kinds.items() if seconds > 0)
    since = span.end - span.seconds - begin
    tip = f"{worker}, {since:.1f} to {since + span.seconds:.1f} s: {shares or 'nothing'}"
    return f"<g><title>{escape(tip)}</title>{''.join(parts)}</g>"


def _legend() -> str:
    parts, x = [], _LEFT
    for kind, words in KINDS.items():
        parts.append(f'<rect class="{kind}" x="{x:.0f}" y="4" width="12" height="12" rx="2"/>')
        parts.append(f'<text x="{x + 18:.0f}" y="14">{words}</text>')
        x += 40 + 6.6 * len(words)
    return "".join(parts)


def _times(total: float, across: float, y: float) -> Iterable[str]:
    for k in range(6):
        seconds = total * k / 5
        shown = (
            f"{seconds:.1f} s"
            if total < 100
            else f"{seconds / 60:.1f} min"
            if total < 7200
            else f"{seconds / 3600:.1f} h"
        )
        look = "" if k == 0 else "name" if k == 5 else "x"
        yield f'<text class="{look}" x="{_LEFT + seconds * across:.1f}" y="{y:.1f}">{shown}</text>'


def _told(workers: Sequence[str], spans: Sequence[_Span], total: float) -> str:
    each = []
    for worker in workers[:MOST_WORKERS]:
        busy = sum(s for span in spans for kind, s in span.workers.get(worker, {}).items() if kind != "waits")
        each.append(f"{worker} computed {busy / total:.0%}")
    more = f"; {len(workers) - MOST_WORKERS} more workers" if len(workers) > MOST_WORKERS else ""
    return f"What workers did in {total:.1f} s: {', '.join(each)} of the time{more}"


def _by_number(name: str) -> tuple[str, int]:
    head, _, number = name.rpartition("-")
    return head, int(number) if number.isdigit() else 0
