"""A thousand jobs from 32 clients at once to a `gradfleet serve` of its own: how long a submission takes, and how many jobs end a second.

Clients are threads of four processes, each with a connection of its own; each submits its jobs one after the other, then awaits
them all. Every job has the same graph and other data, so nothing but the graph is known to the service.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import graphir as gi
from graphir.client import connect

JOBS, CLIENTS, PROCESSES, ROWS = 1_000, 32, 4, 64
WAIT = 600.0
_SERVE = "from scheduler.cli import main; main()"


@dataclass(frozen=True)
class Load:
    """What clients saw: seconds of each submission, and from the first submission to the last one and to the last result."""

    name: str
    submits: list[float]
    accepted: float
    ended: float


def measure() -> list[Load]:
    """SQLite, and the database that GRADFLEET_BENCH_DATABASE names if it does."""
    found = [_load("SQLite, no Ray workers", "--workers", "0"), _load("SQLite, 2 Ray workers", "--workers", "2")]
    if url := os.environ.get("GRADFLEET_BENCH_DATABASE"):
        found.append(_load("PostgreSQL, no Ray workers", "--workers", "0", "--database", url))
    return found


def table(loads: list[Load]) -> str:
    """Milliseconds of a submission, and rates."""
    lines = [
        "| | submit, p50 ms | p99 ms | longest | submissions a second | jobs ended a second |",
        "|---|---|---|---|---|---|",
    ]
    for load in loads:
        middle, late, longest = (1e3 * float(np.quantile(load.submits, q)) for q in (0.5, 0.99, 1.0))
        count = len(load.submits)
        lines.append(
            f"| {load.name} | {middle:.1f} | {late:.1f} | {longest:.0f} | {count / load.accepted:.0f} "
            f"| {count / load.ended:.0f} |"
        )
    return "\n".join(lines)


def _load(name: str, *options: str) -> Load:
    with tempfile.TemporaryDirectory() as directory, _serving(Path(directory), options) as url:
        _clients(url, 0, 1, 4)  # the service is warm, and Ray has started
        each = CLIENTS // PROCESSES
        with get_context("spawn").Pool(PROCESSES) as pool:
            pool.map(abs, range(PROCESSES))
            parts = pool.starmap(_clients, [(url, 1 + k, each, JOBS // CLIENTS) for k in range(PROCESSES)], chunksize=1)
    begun = min(part[1] for part in parts)
    submits = [seconds for part in parts for seconds in part[0]]
    return Load(name, submits, max(part[2] for part in parts) - begun, max(part[3] for part in parts) - begun)


def _clients(url: str, seed: int, clients: int, jobs: int) -> tuple[list[float], float, float, float]:
    """Seconds of submissions; when they began, when the last was accepted, and when the last result was there."""
    x, t, w = gi.input("x", ("n", 8)), gi.input("t", ("n",)), gi.input("w", (8,))
    loss = gi.mean((x @ w - t) ** 2)
    graph = gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0]})
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(clients, jobs, ROWS, 8))

    def one(k: int) -> tuple[list[float], float, float]:
        with connect(url) as client:
            seconds, made = [], []
            for rows in data[k]:
                feeds = {"x": rows, "t": rows[:, 0], "w": np.zeros(8)}
                begun = time.perf_counter()
                made.append(client.submit(graph, feeds))
                seconds.append(time.perf_counter() - begun)
            accepted = time.time()
            for job in made:
                job.result(WAIT)
            return seconds, accepted, time.time()

    begun = time.time()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(one, range(clients)))
    submits = [seconds for each, _, _ in found for seconds in each]
    return submits, begun, max(accepted for _, accepted, _ in found), max(ended for _, _, ended in found)


@contextmanager
def _serving(directory: Path, options: tuple[str, ...]) -> Iterator[str]:
    """Its log is kept in a file, as an operator's would be: nobody would read it from a pipe."""
    command = [sys.executable, "-c", _SERVE, "serve", "--directory", str(directory), "--port", "0", *options]
    log = directory / "log"
    with log.open("w") as out, subprocess.Popen(command, stderr=out) as server:
        try:
            while not (found := re.search(r"^listening on (\S+)$", log.read_text(), re.MULTILINE)):
                if server.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            yield found[1]
        finally:
            server.terminate()
