"""Tables and a picture of the figures of one machine."""

import math
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Any

OURS = "gradfleet"
COLOURS = ("#2f6db3", "#6b7280", "#c2571a", "#8a3ffc", "#b07aa1", "#3f8f3a", "#9c755f", "#d4a017", "#1b9e9e", "#e377c2")
LEFT, WIDTH, STEP, SPAN = 290, 900, 26, 16.0
"""Where the scale begins, the picture's width, a row's height, and by what factor the scale goes either way."""


def tables(rows: Sequence[Any]) -> str:
    """Times, first calls and memory, and who could not take part."""
    peers = [
        p
        for p in dict.fromkeys(p for row in rows for p in row.cells)
        if any(row.cells[p].samples for row in rows if p in row.cells)
    ]
    parts = [
        "![Each peer's time as a multiple of ours](single.svg)",
        "Milliseconds a call. The ratio is the best peer's time to ours, and to that of our fastest back-end: above 1, ours is faster.",
        _times(rows, peers),
        "Seconds until the first result.",
        _others(rows, peers, lambda cell: f"{cell.first:.3g}"),
        "Peak memory above the inputs, MB.",
        _others(rows, peers, lambda cell: f"{cell.memory:,.0f}"),
    ]
    return "\n\n".join([*parts, *filter(None, (_missing(rows), _profiles(rows)))])


def _times(rows: Sequence[Any], peers: Sequence[str]) -> str:
    lines = [
        f"| | | {' | '.join(peers)} | best peer | ratio | best back-end | memory read, GB/s |",
        "|---|---|" + "---|" * (len(peers) + 4),
    ]
    for row in rows:
        cells = " | ".join(_cell(row, peer, lambda c: f"{c.seconds * 1e3:.3g}") for peer in peers)
        best, ratio, most = best_peer(row)
        named = f"{best} | {ratio:.2f} | {most:.2f}" if best else "- | - | -"
        lines.append(
            f"| {row.workload.name} | {row.workload.title}, {row.workload.dtype} | {cells} | {named} | {median(row.bandwidth):.0f} |"
        )
    return "\n".join(lines)


def _others(rows: Sequence[Any], peers: Sequence[str], text: Any) -> str:
    lines = [f"| | {' | '.join(peers)} |", "|---|" + "---|" * len(peers)]
    lines += [f"| {row.workload.name} | {' | '.join(_cell(row, peer, text) for peer in peers)} |" for row in rows]
    return "\n".join(lines)


def _cell(row: Any, peer: str, text: Any) -> str:
    cell = row.cells.get(peer)
    return text(cell) if cell is not None and cell.samples else "-"


def best_peer(row: Any) -> tuple[str, float, float]:
    """The fastest of the others, its time to ours, and to our fastest back-end's; no name where somebody is missing."""
    times = {peer: cell.seconds for peer, cell in row.cells.items() if cell.samples}
    others = {peer: seconds for peer, seconds in times.items() if not peer.startswith(OURS)}
    if not others or OURS not in times:
        return "", 0.0, 0.0
    best = min(others, key=others.__getitem__)
    return best, others[best] / times[OURS], others[best] / min(times[peer] for peer in times.keys() - others.keys())


def _missing(rows: Sequence[Any]) -> str:
    """Who has no figure, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for peer, cell in row.cells.items():
            if cell.why:
                reasons.setdefault((peer, cell.why), []).append(row.workload.name)
    lines = [f"- {peer}: {why} ({', '.join(names)})" for (peer, why), names in reasons.items()]
    return "\n".join(["Without a figure:", "", *lines]) if lines else ""


def _profiles(rows: Sequence[Any]) -> str:
    """Where our time goes where a peer is faster."""
    parts = [
        f"{row.workload.name}, {row.workload.title}:\n\n```text\n{row.profile.rstrip()}\n```"
        for row in rows
        if row.profile
    ]
    return (
        "\n\n".join(["Where the time of our fastest back-end goes, where a peer is faster.", *parts]) if parts else ""
    )


# ---- the picture ----


def picture(rows: Sequence[Any]) -> str:
    """A dot for each peer where its time is as a multiple of ours, on a logarithmic scale; right of the line ours is faster."""
    peers = [peer for peer in dict.fromkeys(p for row in rows for p in row.cells) if peer != OURS]
    colours = dict(zip(peers, COLOURS, strict=False))
    height = 70 + STEP * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Each peer's time as a multiple of ours</title>",
        "<style>text{font:12px sans-serif;fill:#1b1f24}.grid{stroke:#d5d9e0}.one{stroke:#1b1f24;stroke-width:1.5}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        *_legend(colours),
        *_scale(60, height - 40),
    ]
    for k, row in enumerate(rows):
        y = 76 + STEP * k
        parts.append(f'<text x="8" y="{y + 4}">{escape(f"{row.workload.name}  {row.workload.title}"[:46])}</text>')
        parts += _dots(row, y, colours)
    return "\n".join([*parts, "</svg>", ""])


def _legend(colours: dict[str, str]) -> list[str]:
    parts, x = [], LEFT
    for peer, colour in colours.items():
        parts.append(f'<circle cx="{x}" cy="20" r="5" fill="{colour}"/><text x="{x + 9}" y="24">{escape(peer)}</text>')
        x += 24 + 6.6 * len(peer)
    return parts


def _scale(top: float, bottom: float) -> list[str]:
    parts = []
    for power in range(-4, 5):
        x, name = _place(2.0**power), f"{2**power}" if power >= 0 else f"1/{2**-power}"
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" class="{"one" if power == 0 else "grid"}"/>'
        )
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{name}</text>')
    return parts


def _dots(row: Any, y: float, colours: dict[str, str]) -> list[str]:
    ours = row.cells.get(OURS)
    if ours is None or not ours.samples:
        return []
    return [
        f'<circle cx="{_place(cell.seconds / ours.seconds):.1f}" cy="{y}" r="5" fill="{colours[peer]}" fill-opacity=".85">'
        f"<title>{escape(peer)}: {cell.seconds * 1e3:.3g} ms, ours {ours.seconds * 1e3:.3g} ms</title></circle>"
        for peer, cell in row.cells.items()
        if peer != OURS and cell.samples and peer in colours
    ]


def _place(ratio: float) -> float:
    """Where on the scale; what is beyond its ends is at them."""
    part = math.log(min(max(ratio, 1 / SPAN), SPAN)) / math.log(SPAN)
    return LEFT + (WIDTH - LEFT - 20) * (part + 1) / 2
