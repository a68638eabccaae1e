"""Forecasts beside measurements, on 1, 2 and 4 workers of this machine, and forecasts for clusters that nobody here has.

The workers are calibrated first (`gradfleet calibrate` does the same); then jobs of several kinds run, and the median of an
iteration is set beside what `simulate` says. The model of costs knows none of these jobs. What the scheduler itself takes for
many workers is measured beside what it forecasts for them.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

import graphir as gi
from benchmarks import jobs
from graphir.partition.cost import DEFAULT, Rates
from graphir.partition.plan import Plan
from scheduler.pipeline import compile
from scheduler.place import place, ranks_for
from scheduler.simulate import Cluster, simulate
from workers.route import Route
from workers.speeds import Measured

Array = np.ndarray[Any, Any]
WORKERS = (1, 2, 4)
ROUNDS, CHUNKS = 3, 16


@dataclass(frozen=True)
class Job:
    """Rows of each of 16 chunks, the sum over rows that is descended, its data and the parameters to begin with."""

    rows: int
    steps: int
    loss: Callable[[], tuple[gi.Expr, list[gi.Expr]]]
    data: Callable[[np.random.Generator], dict[str, Array]]
    start: Callable[[], dict[str, Array]]

    def graph(self) -> tuple[gi.Graph, dict[str, str]]:
        """One step of descent, and what is carried."""
        loss, weights = self.loss()
        rate = np.dtype(loss.dtype).type(1e-7)
        names = list(self.start())
        following = [w - rate * g for w, g in zip(weights, gi.grad(loss, weights), strict=True)]
        outputs = {"loss": loss, **{f"next_{name}": value for name, value in zip(names, following, strict=True)}}
        return gi.Graph(outputs), {name: f"next_{name}" for name in names}


def softmax() -> tuple[gi.Expr, list[gi.Expr]]:
    """Softmax regression in double precision."""
    x, t, w = gi.input("x", ("n", 64)), gi.input("t", ("n",), "int64"), gi.input("w", (64, 10))
    logits = x @ w
    return gi.sum(gi.logsumexp(logits, axis=1) - gi.take_along_axis(logits, t[:, None], axis=1)[:, 0]), [w]


def elementwise() -> tuple[gi.Expr, list[gi.Expr]]:
    """A chain of special functions of each element."""
    x, a = gi.input("x", ("n", 8)), gi.input("a", (8,))
    y = gi.tanh(x * a)
    y = gi.log1p(gi.exp(y)) * gi.sin(y) + gi.sqrt(1 + y * y)
    return gi.sum(y), [a]


def convolution() -> tuple[gi.Expr, list[gi.Expr]]:
    """A layer of eight 3 x 3 filters on images of 28 x 28, and a sum of squares."""
    x, k = gi.input("x", ("n", 1, 28, 28), "float32"), gi.input("k", (8, 1, 3, 3), "float32")
    return gi.sum(gi.square(gi.maximum(gi.conv(x, k), np.float32(0)))), [k]


def normalised() -> tuple[gi.Expr, list[gi.Expr]]:
    """Batch normalisation over all rows: three stages."""
    x, g = gi.input("x", ("n", 64), "float32"), gi.input("g", (64,), "float32")
    y = (x - gi.mean(x, axis=0)) / (gi.std(x, axis=0) + np.float32(1e-3))
    return gi.sum(gi.tanh(y * g)), [g]


def _network_data(rng: np.random.Generator) -> dict[str, Array]:
    return {"x": rng.random((16 * 1024, 784), dtype=np.float32), "t": rng.integers(0, 10, 16 * 1024)}


def _logistic_data(rng: np.random.Generator) -> dict[str, Array]:
    return jobs.logistic_data(rng, 1_000_000)


JOBS = {
    "logistic regression, 1,000,000 x 50 float32": Job(
        62_500, 60, jobs.logistic, _logistic_data, lambda: {"w": np.zeros(50, np.float32)}
    ),
    "network 784-512-512-10, 16 x 1,024 rows float32": Job(1024, 10, jobs.network, _network_data, jobs.network_start),
    "softmax regression, 400,000 x 64 float64": Job(
        25_000,
        30,
        softmax,
        lambda rng: {"x": rng.standard_normal((400_000, 64)), "t": rng.integers(0, 10, 400_000)},
        lambda: {"w": np.zeros((64, 10))},
    ),
    "special functions, 400,000 x 8 float64": Job(
        25_000, 20, elementwise, lambda rng: {"x": rng.standard_normal((400_000, 8))}, lambda: {"a": np.ones(8)}
    ),
    "convolution, 4,096 images of 28 x 28 float32": Job(
        256,
        20,
        convolution,
        lambda rng: {"x": rng.random((4096, 1, 28, 28), dtype=np.float32)},
        lambda: {"k": np.full((8, 1, 3, 3), 0.1, np.float32)},
    ),
    "batch normalisation, 200,000 x 64 float32": Job(
        12_500,
        20,
        normalised,
        lambda rng: {"x": rng.random((200_000, 64), dtype=np.float32)},
        lambda: {"g": np.ones(64, np.float32)},
    ),
}


def measured(name: str, workers: int, client: Any) -> float:
    """Seconds an iteration of a job: the median over rounds, from the times of its events."""
    job = JOBS[name]
    graph, carry = job.graph()
    feeds = {**job.data(np.random.default_rng(0)), **job.start()}
    rounds = []
    for _ in range(ROUNDS):
        run = client.submit(graph, feeds, carry=carry, steps=job.steps + 10, chunk={"n": job.rows}, cut=["n"])
        run.result()
        done = [event for event in run.events() if event["type"] == "step_done" and event["step"] >= 5]
        first = next(event for event in done if event["time"] > done[0]["time"])
        rounds.append((done[-1]["time"] - first["time"]) / (done[-1]["step"] - first["step"]))
    return statistics.median(rounds)


def planned(name: str) -> tuple[Plan, dict[str, str]]:
    """A job's plan and what it carries."""
    job = JOBS[name]
    graph, carry = job.graph()
    return compile(graph, {"n": job.rows * CHUNKS}, cut=["n"], chunk={"n": job.rows}), carry


def forecast(name: str, workers: int, rates: Measured | Rates) -> float:
    """What the simulation says of the same job on so many workers of this machine."""
    plan, carry = planned(name)
    ranks = ranks_for(plan, workers)
    cores = rates.cores if isinstance(rates, Measured) else len(os.sched_getaffinity(0))
    return simulate(plan, Cluster(ranks, rates, hosts=1, cores=cores), carry).seconds


Row: TypeAlias = tuple[str, int, float, float, float, float]


def measure() -> list[Row]:
    """Job, workers, and seconds an iteration: measured, forecast after a rehearsal, by measured speeds, by assumed rates."""
    rows, speeds, rehearsed = [], None, {}
    for workers in sorted(WORKERS, key=lambda count: count != len(os.sched_getaffinity(0))):
        with gi.connect(workers=workers) as client:
            speeds = speeds or client.calibrate()
            for name in JOBS:
                if name not in rehearsed:
                    rehearsed[name] = client.calibrate(planned(name)[0])
                said = [forecast(name, workers, rates) for rates in (rehearsed[name], speeds, DEFAULT)]
                rows.append((name, workers, measured(name, workers, client), *said))
    return sorted(rows, key=lambda row: (list(JOBS).index(row[0]), row[1]))


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| job, 16 chunks | workers | measured, ms | forecast, ms | ratio | by speeds of ops, ms | by assumed rates, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {workers} | {found * 1e3:.1f} | {said * 1e3:.1f} | {said / found:.2f} | {ops * 1e3:.1f} | {assumed * 1e3:.1f} |"
        for name, workers, found, said, ops, assumed in rows
    ]
    near = sum(abs(said / found - 1) <= 0.25 for _, _, found, said, *_ in rows)
    return "\n".join([*lines, "", f"Of {len(rows)} cells, {near} are within 25 %."])


# ---- large clusters ----

SCALES = (1, 10, 100, 1_000, 10_000)


def scaling() -> list[tuple[int, int, float, float, float, float, float, float]]:
    """Workers, chunks, forecast seconds and share computed; the scheduler's own: plan, place, route, simulate."""
    graph, carry = Job(1, 1, jobs.logistic, _logistic_data, lambda: {"w": np.zeros(50, np.float32)}).graph()
    rows, chunk = 10_000_000_000, 100_000
    begun = time.perf_counter()
    plan = compile(graph, {"n": rows}, cut=["n"], chunk={"n": chunk})
    planned = time.perf_counter() - begun
    found = []
    for workers in SCALES:
        ranks = ranks_for(plan, workers)
        begun = time.perf_counter()
        work = place(plan, ranks, carry, list(plan.outputs))
        placed = time.perf_counter()
        Route(work, ranks)
        routed = time.perf_counter()
        said = simulate(plan, Cluster(ranks), carry)
        ended = time.perf_counter()
        found.append(
            (workers, plan.chunks, said.seconds, said.busy, planned, placed - begun, routed - placed, ended - routed)
        )
    return found


def scaling_table(rows: list[tuple[int, int, float, float, float, float, float, float]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| workers | chunks | iteration, s | busy | plan, s | place, s | route, s | simulate, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {workers:,} | {chunks:,} | {seconds:.4g} | {busy:.0%} | {' | '.join(f'{own:.2f}' for own in owns)} |"
        for workers, chunks, seconds, busy, *owns in rows
    ]
    return "\n".join(lines)


# ---- planning ----


def chain(nodes: int, shape: tuple[str, ...]) -> gi.Graph:
    """One op after the other."""
    value = gi.input("x", shape)
    for _ in range(nodes):
        value = gi.sin(value)
    return gi.Graph({"out": value})


def wide(nodes: int, shape: tuple[str, ...]) -> gi.Graph:
    """Every node takes two earlier ones at random; what nobody used is added up in the end."""
    rng = np.random.default_rng(0)
    values = [gi.input("x", shape)]
    values.append(values[0] * 0.5)
    used = {0}
    for far, near, kind in rng.random((nodes * 9 // 10, 3)).tolist():
        a, b = int(far * len(values)), len(values) - 1 - int(near * min(len(values), 1000))
        used |= {a, b}
        values.append(values[a] + values[b] if kind < 0.5 else values[a] * values[b])
    ends = [value for k, value in enumerate(values) if k not in used]
    total = ends[0]
    for value in ends[1:]:
        total = total + value
    return gi.Graph({"out": total})


def planning() -> list[tuple[str, int, float, float]]:
    """Shape of the graph, its nodes, and seconds of `compile` without and with a named dimension of 1,000 rows."""
    rows = []
    for make, nodes in itertools.product((chain, wide), (10_000, 100_000, 1_000_000)):
        taken = []
        for shape in ((), ("n",)):
            graph = make(nodes, shape)
            begun = time.perf_counter()
            compile(graph, {"n": 1000} if shape else {})
            taken.append(time.perf_counter() - begun)
        rows.append((make.__name__, nodes, *taken))
    return rows


def planning_table(rows: list[tuple[str, int, float, float]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| graph | nodes | nothing to cut by name, s | cut along n, s |", "|---|---|---|---|"]
    lines += [f"| {kind} | {nodes:,} | {uncut:.2f} | {cut:.2f} |" for kind, nodes, uncut, cut in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    print(planning_table(planning()), flush=True)
    print(scaling_table(scaling()), flush=True)
    print(table(measure()))
