"""What cache tiles gain: the same executor with tiles and without, on one and two threads, in interleaved rounds."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.single_peers import our_graph
from benchmarks.workloads import WORKLOADS
from workers.executor import Executor

ROUNDS, LEAST_SECONDS = 15, 0.05
THREADS = (1, 2)


def measure() -> list[tuple[str, int, list[float]]]:
    """Each workload that is tiled, the number of tiles, and seconds a call: tiled and whole, by threads."""
    rows = []
    for w in WORKLOADS.values():
        if w.kind == "hessian":
            continue
        arrays = w.arrays()
        graph = our_graph(w, arrays)
        feeds = {name: arrays[name] for name in graph.inputs}
        tiling = Executor(graph)._tiling({})
        if tiling is not None:
            made = [_executor(graph, threads, tiled) for threads in THREADS for tiled in (True, False)]
            rows.append((w.title, len(tiling.tiles), _medians(made, feeds)))
    return rows


def _executor(graph: Any, threads: int, tiled: bool) -> Executor:
    made = Executor(graph, threads=threads)
    if not tiled:
        made._tiling = lambda sizes: None  # type: ignore[method-assign]  # no user should want this
    return made


def _medians(executors: Sequence[Executor], feeds: dict[str, Any]) -> list[float]:
    times: list[list[float]] = [[] for _ in executors]
    for round in range(ROUNDS + 2):
        for execute, found in zip(executors, times, strict=True):
            begun, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - begun < LEAST_SECONDS:
                execute(feeds)
                calls += 1
            if round > 1:
                found.append((time.perf_counter() - begun) / calls)
    return [median(found) for found in times]


def table(rows: Sequence[tuple[str, int, list[float]]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| workload | tiles | 1 thread, ms | without tiles | ratio | 2 threads, ms | without tiles | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, tiles, (one, whole, two, both) in rows:
        figures = f"{one * 1e3:.2f} | {whole * 1e3:.2f} | {whole / one:.2f} | {two * 1e3:.2f} | {both * 1e3:.2f}"
        lines.append(f"| {title} | {tiles} | {figures} | {both / two:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
