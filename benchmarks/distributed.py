"""Jobs on two workers, ours beside the peers that are installed, in rounds that go through all of them.

Iterations of ours are timed by the events of a job of many steps, without its first ones; the random graph is another one
in each round, so that nobody has seen it, and its construction counts for all; the tiny job has other values each time.
`python -m benchmarks.distributed logistic network` measures the jobs with these words in their names only; with --alone, ours
without peers beside it.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray

import graphir as gi
from benchmarks import jobs, peers
from benchmarks.jobs import CASES, CHUNKS, LARGE, TASKS, Arrays
from benchmarks.peer import Peer, timed

ROUNDS = 4
GRAPH, LARGE_SUM, TINY_JOB, NOTHING = (
    f"random graph of {TASKS:,} additions of 8 numbers",
    f"sum of {4 * LARGE // 10**6} MB gradients, had by both workers",
    "tiny known job, round trip",
    f"{TASKS:,} tasks that do nothing",
)
Row = dict[str, float | None]


class Ours(Peer):
    """Jobs of an embedded service with two Ray workers."""

    name = "gradfleet"

    def __init__(self) -> None:
        self.client = gi.connect(workers=2)
        self.feeds: dict[str, Arrays] = {}
        x = gi.input("x", (8,), "float32")
        self.tiny_graph = gi.Graph({"y": x + np.float32(1)})
        self.seed = 0

    def load(self, case: str) -> None:
        """The data, made at once; workers get it with each job, before the iterations that count."""
        self.feeds[case] = CASES[case].data(np.random.default_rng(0), CASES[case].rows * CHUNKS)

    def iteration(self, case: str) -> float:
        """By the times between events."""
        job = CASES[case]
        loss, weights = job.loss()
        names = list(job.start())
        after = [w - np.float32(job.rate) * g for w, g in zip(weights, gi.grad(loss, weights), strict=True)]
        graph = gi.Graph({"loss": loss, **{f"next_{key}": value for key, value in zip(names, after, strict=True)}})
        carry = {key: f"next_{key}" for key in names}
        feeds = {**self.feeds[case], **job.start()}
        return self._by_events(graph, feeds, carry, job.steps + 15, {"n": job.rows}, job.backend)

    def tiny(self) -> float:
        """A job of the same graph and shapes, with other values."""
        self.seed += 1
        feeds = {"x": np.full(8, self.seed, np.float32)}
        return timed(lambda: self.client.submit(self.tiny_graph, feeds).result())

    def tasks(self) -> float:
        """One graph on so many values."""
        points = [{"x": np.full(8, k, np.float32)} for k in range(TASKS)]
        return timed(lambda: self.client.map(self.tiny_graph, points))

    def graph(self, seed: int) -> float:
        """Built, submitted, computed."""
        leaves, pairs, sinks = jobs.wires(seed)

        def run() -> None:
            values: list[Any] = [gi.input(f"x{k}", (8,)) for k in range(len(leaves))]
            for a, b in pairs:
                values.append(values[a] + values[b])
            total = values[sinks[0]]
            for s in sinks[1:]:
                total = total + values[s]
            feeds = {f"x{k}": leaf for k, leaf in enumerate(leaves)}
            self.client.submit(gi.Graph({"sum": gi.sum(total)}), feeds).result()

        return timed(run)

    def large(self) -> float:
        """Each worker makes its gradient anew, as a sum over the one row of its chunk, and carries the sum of both."""
        x, w = gi.input("x", ("n", LARGE), "float32"), gi.input("w", (LARGE,), "float32")
        graph = gi.Graph({"total": gi.sum(x, axis=0)}, inputs=[x.node, w.node])
        feeds = {"x": np.ones((2, LARGE), np.float32), "w": np.zeros(LARGE, np.float32)}
        return self._by_events(graph, feeds, {"w": "total"}, 40, {"n": 1})

    def _by_events(
        self,
        graph: gi.Graph,
        feeds: Arrays,
        carry: dict[str, str],
        steps: int,
        chunk: dict[str, int],
        backend: str = "numpy",
    ) -> float:
        job = self.client.submit(graph, feeds, carry=carry, steps=steps, chunk=chunk, backend=backend)
        job.result()
        done = [event for event in job.events() if event["type"] == "step_done" and event["step"] >= 5]
        first = next(event for event in done if event["time"] > done[0]["time"])
        return float((done[-1]["time"] - first["time"]) / (done[-1]["step"] - first["step"]))

    def stop(self) -> None:
        """Its workers end; Ray is ours here."""
        self.client.close()


def measure(only: Sequence[str] = (), alone: bool = False) -> tuple[dict[str, Row], list[str]]:
    """For each job the median seconds of each participant, and the peers that are missing; `only`: words of jobs' names."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # by default Ray's workers yield to all others of the machine
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level="error")
    there, missing = ([], [peer.name for peer in peers.PEERS]) if alone else peers.present()
    there.append(Ours())
    rows: dict[str, Row] = {}
    try:
        for name, sampled in _jobs(there).items():
            if not only or any(word in name for word in only):
                rows[name] = sampled()
    finally:
        for peer in there:
            peer.stop()
        ray.shutdown()
    return rows, missing


def _jobs(there: list[Peer]) -> dict[str, Callable[[], Row]]:
    """What measures each job, by its name."""

    def descent(case: str) -> Row:
        for peer in there:
            peer.load(case)
        return _rounds(case, there, lambda peer, turn: peer.iteration(case))

    return {
        **{case: partial(descent, case) for case in CASES},
        TINY_JOB: lambda: _rounds(TINY_JOB, there, lambda peer, turn: peer.tiny(), inner=40),
        LARGE_SUM: lambda: _rounds(LARGE_SUM, there, lambda peer, turn: peer.large()),
        GRAPH: lambda: _rounds(GRAPH, there, lambda peer, turn: peer.graph(turn), rounds=3, warm=0),
        NOTHING: lambda: _rounds(NOTHING, there, lambda peer, turn: peer.tasks(), rounds=2, warm=0),
    }


def _rounds(
    name: str,
    there: list[Peer],
    sample: Callable[[Peer, int], float | None],
    *,
    inner: int = 1,
    rounds: int = ROUNDS,
    warm: int = 1,
) -> Row:
    """Medians; each round has `inner` samples of each in a row, the first `warm` rounds do not count."""
    begun = time.monotonic()
    found: dict[str, list[float]] = {peer.name: [] for peer in there}
    for turn in range(warm + rounds):
        for peer in there:
            taken = [sample(peer, turn) for _ in range(inner)]
            found[peer.name] += [value for value in taken if value is not None and turn >= warm]
    medians = {name: statistics.median(samples) if samples else None for name, samples in found.items()}
    shown = ", ".join(f"{peer} {_ms(value)}" for peer, value in medians.items())
    print(f"{name} in {time.monotonic() - begun:.0f} s: {shown}", file=sys.stderr, flush=True)
    return medians


def table(rows: dict[str, Row], missing: list[str]) -> str:
    """Milliseconds as a Markdown table, the ratio to the bare processes and to the best peer beside."""
    names = list(next(iter(rows.values())))
    lines = [
        f"| job | {' | '.join(names)} | to bare processes | to the best peer |",
        "|---" * (len(names) + 3) + "|",
    ]
    for job, row in rows.items():
        ours, bare = row[Ours.name], row.get(peers.Bare.name)
        others = [value for name, value in row.items() if name != Ours.name and value is not None]
        shown = [_ms(value) for value in row.values()]
        lines.append(
            f"| {job} | {' | '.join(shown)} | {_ratio(ours, bare)} | {_ratio(ours, min(others, default=None))} |"
        )
    lines += ["", f"Not there: {', '.join(missing) or 'none'}."]
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:,.0f}"


def _ratio(ours: float | None, other: float | None) -> str:
    return "-" if ours is None or other is None else f"{ours / other:.2f}"


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--alone"]
    print(table(*measure(words, alone="--alone" in sys.argv)))
