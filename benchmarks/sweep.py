"""A thousand tiny points by `client.map`: a job for each, and one batched job."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

import graphir as gi
from graphir.client import Client

POINTS, ROUNDS = 1_000, 3


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a sweep on so many workers."""

    workers: int
    apart: float
    together: float


def model() -> tuple[gi.Graph, list[dict[str, Any]]]:
    """The loss and gradient of a logistic regression on 20 rows at a thousand weights."""
    x, t, w = gi.input("x", ("n", 8)), gi.input("t", ("n",)), gi.input("w", (8,))
    z = x @ w
    loss = gi.mean(gi.log1p(gi.exp(-gi.abs(z))) + gi.maximum(z, 0.0) - z * t)
    graph = gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0]})
    rng = np.random.default_rng(0)
    shared = {"x": rng.normal(size=(20, 8)), "t": (rng.random(20) < 0.5).astype("float64")}
    return graph, [{**shared, "w": rng.normal(size=8)} for _ in range(POINTS)]


def measure() -> list[Times]:
    """In this process and on two Ray workers, interleaved."""
    return [_measured(workers) for workers in (0, 2)]


def _measured(workers: int) -> Times:
    graph, points = model()
    with gi.connect(workers=workers) as client:
        client.map(graph, points[:20])
        client.map(graph, points[:20], batched=False)
        rounds = [
            (_seconds(client, graph, points, False), _seconds(client, graph, points, True)) for _ in range(ROUNDS)
        ]
    return Times(workers, median(apart for apart, _ in rounds), median(together for _, together in rounds))


def _seconds(client: Client, graph: gi.Graph, points: list[dict[str, Any]], batched: bool) -> float:
    begun = time.perf_counter()
    found = client.map(graph, points, batched=batched)
    took = time.perf_counter() - begun
    assert len(found) == POINTS
    return took


def table(times: list[Times]) -> str:
    """As Markdown."""
    lines = ["| workers | a job each | one batched job | ratio |", "|---|---|---|---|"]
    for each in times:
        where = "in this process" if each.workers == 0 else str(each.workers)
        lines.append(
            f"| {where} | {each.apart:.2f} s | {each.together * 1e3:.0f} ms | {each.apart / each.together:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
