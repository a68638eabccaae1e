"""The Ray actor: bytes in, values out; nothing clever.

A worker serves several jobs, each with a runner of its own. It gets each program's bytes once and keeps it by digest. Every call that computes gives its values as
separate objects, so that they stay in the cluster, and last a small object that says that it succeeded.
"""

import os
from collections.abc import Sequence
from typing import Any

import ray

from graphir import wire
from graphir.dataset import Dataset
from graphir.graph import Graph
from graphir.node import Array
from workers.chunks import ChunkRunner, Parts, Work

Chunks = dict[str, dict[int, Array]]


class Shell:
    """What the actor does, one call after the other."""

    def __init__(self) -> None:
        self._programs: dict[str, Graph] = {}
        self._runners: dict[str, ChunkRunner] = {}
        self._cancelled: set[str] = set()

    def pid(self) -> int:
        """The process that this worker is."""
        return os.getpid()

    def learn(self, programs: dict[str, bytes]) -> None:
        """Load programs that are new here."""
        for digest, data in programs.items():
            self._programs[digest] = wire.load(data)

    def setup(self, job: str, work: Work, start: int, stop: int) -> None:
        """Begin a job, or begin it again; its programs are known."""
        needed = {step.program: self._programs[step.program] for step in work.steps}
        self._runners[job] = ChunkRunner(work, needed, start, stop, lambda: job in self._cancelled)

    def hold(self, job: str, name: str, value: Array | Dataset, dtype: str) -> None:
        """Keep a feed until the job ends."""
        self._job(job).hold(name, value, dtype)

    def map(self, job: str, first: int, last: int, names: Sequence[str], *wholes: Array) -> tuple[Parts, None]:
        """Run map steps; `names` say what the whole values are."""
        return self._job(job).map(first, last, dict(zip(names, wholes, strict=True))), None

    def collect(self, job: str, values: Sequence[str]) -> tuple[Chunks, None]:
        """Give the chunks of shard values away."""
        return self._job(job).collect(values), None

    def finish(
        self, job: str, first: int, last: int, names: Sequence[str], gives: Sequence[str], ranges: int, *rest: Any
    ) -> tuple[Any, ...]:
        """Run combine and single steps and give some of their values.

        `rest` are the whole values that `names` names, then the parts and the chunks of `ranges` workers each.
        """
        count = len(names)
        wholes = dict(zip(names, rest[:count], strict=True))
        parts, collected = rest[count : len(rest) - ranges], rest[len(rest) - ranges :]
        return (*self._job(job).finish((first, last), gives, wholes, parts, collected), None)

    def scalars(self, names: Sequence[str], *values: Array) -> dict[str, float]:
        """Numbers for those who watch."""
        return {name: float(value) for name, value in zip(names, values, strict=True)}

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]  # Ray annotates this in part
    def cancel(self, job: str) -> None:
        """Let the job's calls end before their next chunk; this one does not wait for them."""
        self._cancelled.add(job)

    def stop(self, job: str) -> None:
        """End the job: forget its feeds and values."""
        self._runners.pop(job, None)
        self._cancelled.discard(job)

    def _job(self, job: str) -> ChunkRunner:
        if job not in self._runners:
            raise RuntimeError(f"this worker was not set up for job {job}")
        return self._runners[job]


Worker = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})(Shell)


def _cancel(worker: Any, job: str) -> None:
    ray.get(worker.cancel.remote(job))


cancel_from_outside = ray.remote(num_cpus=0, max_retries=0)(_cancel)
"""Cancel a job from a process of its own: calls of one caller wait for the inputs of those that it made before."""
