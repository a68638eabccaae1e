"""How cost grows: with the number of chunks, of workers and of nodes; exponents by least squares in log-log.

The work of a chunk or a node is next to nothing, so what is measured is our own cost. More workers than cores only show what
another worker costs, not what it is good for.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import graphir as gi
from graphir.client import Client
from scheduler.pipeline import compile

CHUNKS, WORKERS, NODES = (16, 128, 1_024, 16_384), (1, 2, 4, 8), (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Growth:
    """What was varied, what was measured, its sizes, and seconds at each."""

    varied: str
    measured: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """The slope in log-log."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


def descent() -> tuple[gi.Graph, dict[str, str]]:
    """A step of least squares with 8 features."""
    x, y, w = gi.input("x", ("n", 8)), gi.input("y", ("n",)), gi.input("w", (8,))
    (dw,) = gi.grad(gi.sum((x @ w - y) ** 2), [w])
    return gi.Graph({"next": w - 1e-9 * dw}), {"w": "next"}


def iteration(client: Client, chunks: int, steps: int) -> float:
    """Seconds an iteration on chunks of four rows, by events."""
    graph, carry = descent()
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=(4 * chunks, 8)), "y": rng.normal(size=4 * chunks), "w": np.zeros(8)}
    job = client.submit(graph, feeds, carry=carry, steps=steps, chunk={"n": 4})
    job.result()
    done = [event for event in job.events() if event["type"] == "step_done"]
    first = next(event for event in done if event["time"] > done[0]["time"])
    return float((done[-1]["time"] - first["time"]) / (done[-1]["step"] - first["step"]))


def chunks() -> Growth:
    """Iterations on two workers."""
    with gi.connect(workers=2) as client:
        seconds = [
            statistics.median(iteration(client, size, max(12, 20_000 // size)) for _ in range(ROUNDS))
            for size in CHUNKS
        ]
    return Growth("chunks", "an iteration on 2 workers", CHUNKS, tuple(seconds))


def workers() -> Growth:
    """Iterations on 16 chunks."""
    seconds = []
    for count in WORKERS:
        with gi.connect(workers=count) as client:
            seconds.append(statistics.median(iteration(client, 16, 1_500) for _ in range(ROUNDS)))
    return Growth("workers", "an iteration on 16 chunks", WORKERS, tuple(seconds))


def wide(nodes: int, seed: int) -> gi.Graph:
    """A random graph of additions of 8 numbers, without a dimension to cut."""
    values = [gi.input(f"x{k}", (8,)) for k in range(16)]
    operands = np.random.default_rng(seed).integers(1, 257, (nodes - 16, 2))
    for a, b in operands.tolist():
        values.append(values[-min(a, len(values))] + values[-min(b, len(values))])
    total = values[-1]
    for value in values[-256:-1]:
        total = total + value
    return gi.Graph({"sum": gi.sum(total)})


def nodes() -> list[Growth]:
    """Planning a graph that is new, submitting it, and until its result; a million nodes once only."""
    planned, sent, whole = [], [], []
    with gi.connect(workers=2) as client:
        _nodes(client, 100, 0)  # the workers start with the first job
        for size in NODES:
            rounds = [_nodes(client, size, seed) for seed in range(ROUNDS if size < 10**6 else 1)]
            for column, found in zip((planned, sent, whole), zip(*rounds, strict=True), strict=True):
                column.append(statistics.median(found))
    return [
        Growth("nodes", "planning a new graph", NODES, tuple(planned)),
        Growth("nodes", "from submission to acceptance", NODES, tuple(sent)),
        Growth("nodes", "from submission to result", NODES, tuple(whole)),
    ]


def _nodes(client: Client, size: int, seed: int) -> tuple[float, float, float]:
    graph = wide(size, seed)
    begun = time.perf_counter()
    compile(graph, {})
    planned = time.perf_counter() - begun
    graph = wide(size, seed + 1_000)
    feeds = {name: np.ones(8) for name in graph.inputs}
    begun = time.perf_counter()
    job = client.submit(graph, feeds)
    sent = time.perf_counter() - begun
    job.result()
    return planned, sent, time.perf_counter() - begun


def measure(only: Sequence[str] = ()) -> list[Growth]:
    """All of them, or by the names of what is varied."""
    kinds = {"chunks": lambda: [chunks()], "workers": lambda: [workers()], "nodes": nodes}
    return [found for name in only or kinds for found in kinds[name]()]


def table(found: list[Growth]) -> str:
    """Milliseconds at each size as a Markdown table."""
    lines = ["| varied | measured | ms at each size | exponent |", "|---|---|---|---|"]
    for each in found:
        pairs = zip(each.sizes, each.seconds, strict=True)
        shown = ", ".join(f"{size:,}: {seconds * 1e3:.3g}" for size, seconds in pairs)
        lines.append(f"| {each.varied} | {each.measured} | {shown} | {each.exponent:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure(sys.argv[1:])))
