"""Iterations on two workers beside two bare processes that run the same kernels and talk over pipes.

The bare processes are what is left when nothing is scheduled, kept or repaired: each holds half of the chunks, runs the
same program on each with the same executor, adds up, and sends its sums to the parent, which adds them and sends the new
parameters back. Rounds are interleaved. Ours is timed by the events of a job of many steps, without its first ones.
"""

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import graphir as gi
from workers import blas
from workers.executor import Executor

ROUNDS, CHUNKS = 5, 16
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One job: rows of each chunk, the sum over a chunk's rows that is descended, its parameters and its data."""

    rows: int
    steps: int
    rate: float
    loss: Callable[[], tuple[gi.Expr, list[gi.Expr]]]
    data: Callable[[np.random.Generator, int], dict[str, Array]]
    start: Callable[[], dict[str, Array]]


def logistic() -> tuple[gi.Expr, list[gi.Expr]]:
    """Logistic regression with 50 features."""
    x, y, w = gi.input("x", ("n", 50), "float32"), gi.input("y", ("n",), "float32"), gi.input("w", (50,), "float32")
    z = x @ w
    return gi.sum(gi.logaddexp(z, gi.zeros_like(z)) - z * y), [w]


def logistic_data(rng: np.random.Generator, rows: int) -> dict[str, Array]:
    """Normal features and coin flips."""
    x = rng.standard_normal((rows, 50), dtype=np.float32)
    return {"x": x, "y": (rng.random(rows) > 0.5).astype(np.float32)}


WIDTHS = (784, 512, 512, 10)


def network() -> tuple[gi.Expr, list[gi.Expr]]:
    """A network with two hidden layers and cross entropy."""
    x, t = gi.input("x", ("n", WIDTHS[0]), "float32"), gi.input("t", ("n",), "int64")
    weights = [gi.input(f"w{k}", shape, "float32") for k, shape in enumerate(itertools.pairwise(WIDTHS))]
    hidden = x
    for w in weights[:-1]:
        hidden = gi.maximum(hidden @ w, gi.zeros_like(hidden @ w))
    logits = hidden @ weights[-1]
    picked = gi.take_along_axis(logits, t[:, None], axis=1)[:, 0]
    return gi.sum(gi.logsumexp(logits, axis=1) - picked), weights


def network_data(rng: np.random.Generator, rows: int) -> dict[str, Array]:
    """Random images and labels."""
    return {"x": rng.random((rows, WIDTHS[0]), dtype=np.float32), "t": rng.integers(0, 10, rows)}


def network_start() -> dict[str, Array]:
    """Small normal weights."""
    rng = np.random.default_rng(2)
    shapes = itertools.pairwise(WIDTHS)
    return {f"w{k}": (rng.standard_normal(s) * 0.03).astype(np.float32) for k, s in enumerate(shapes)}


CASES = {
    "logistic regression, 1,000,000 x 50 float32": Case(
        62_500, 100, 1e-6, logistic, logistic_data, lambda: {"w": np.zeros(50, np.float32)}
    ),
    "network 784-512-512-10, 16 x 1,024 rows float32": Case(1_024, 20, 1e-5, network, network_data, network_start),
}


def _bare(pipe: Connection, name: str, rank: int) -> None:
    case = CASES[name]
    loss, weights = case.loss()
    gradients = gi.grad(loss, weights)
    graph = gi.simplify(gi.Graph({"loss": loss, **{f"d{k}": g for k, g in enumerate(gradients)}}))
    executor = Executor(graph)
    rng = np.random.default_rng(rank)
    shards = [case.data(rng, case.rows) for _ in range(CHUNKS // 2)]
    with blas.threads(1):
        while (parameters := pipe.recv()) is not None:
            found = [executor.run({**shard, **parameters}, {"n": case.rows}) for shard in shards]
            pipe.send({key: sum(f[key] for f in found[1:]) + found[0][key] for key in found[0]})


def bare(name: str, pipes: list[Connection], steps: int) -> float:
    """Seconds an iteration of two bare processes."""
    case = CASES[name]
    parameters = case.start()
    begun = time.perf_counter()
    for _ in range(steps):
        for pipe in pipes:
            pipe.send(parameters)
        left, right = (pipe.recv() for pipe in pipes)
        rate = np.float32(case.rate)
        parameters = {key: v - rate * (left[f"d{k}"] + right[f"d{k}"]) for k, (key, v) in enumerate(parameters.items())}
    return (time.perf_counter() - begun) / steps


def ours(name: str, client: Any, feeds: dict[str, Array], steps: int) -> float:
    """Seconds an iteration of a job, from the times of its events."""
    case = CASES[name]
    loss, weights = case.loss()
    names = list(case.start())
    descended = [w - np.float32(case.rate) * g for w, g in zip(weights, gi.grad(loss, weights), strict=True)]
    graph = gi.Graph({"loss": loss, **{f"next_{key}": value for key, value in zip(names, descended, strict=True)}})
    carry = {key: f"next_{key}" for key in names}
    job = client.submit(graph, {**feeds, **case.start()}, carry=carry, steps=steps + 10, chunk={"n": case.rows})
    job.result()
    done = [event for event in job.events() if event["type"] == "step_done" and event["step"] >= 5]
    first = next(event for event in done if event["time"] > done[0]["time"])
    return float((done[-1]["time"] - first["time"]) / (done[-1]["step"] - first["step"]))


def measure() -> list[tuple[str, float, float]]:
    """For each job the medians of seconds an iteration: bare processes, ours."""
    context = multiprocessing.get_context("spawn")
    rows = []
    with gi.connect(workers=2) as client:
        for name, case in CASES.items():
            ends = [context.Pipe() for _ in range(2)]
            processes = [context.Process(target=_bare, args=(end, name, k)) for k, (_, end) in enumerate(ends)]
            for process in processes:
                process.start()
            pipes = [near for near, _ in ends]
            feeds = case.data(np.random.default_rng(0), case.rows * CHUNKS)
            bare(name, pipes, 3)
            samples = [(bare(name, pipes, case.steps), ours(name, client, feeds, case.steps)) for _ in range(ROUNDS)]
            for pipe, process in zip(pipes, processes, strict=True):
                pipe.send(None)
                process.join()
            left, right = zip(*samples, strict=True)
            rows.append((name, statistics.median(left), statistics.median(right)))
    return rows


def table(rows: list[tuple[str, float, float]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| job, 16 chunks, 2 workers | bare processes, ms | gradfleet, ms | ratio |", "|---|---|---|---|"]
    lines += [f"| {name} | {left * 1e3:.1f} | {right * 1e3:.1f} | {right / left:.2f} |" for name, left, right in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
