"""The Ray actor: bytes in, values out; nothing clever.

A worker gets each program's bytes once and keeps it by digest. Every call that computes gives its values as
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
        self._runner: ChunkRunner | None = None

    def pid(self) -> int:
        """The process that this worker is."""
        return os.getpid()

    def setup(self, work: Work, start: int, stop: int, programs: dict[str, bytes]) -> None:
        """Begin a job: forget the one before, load the programs that are new here."""
        for digest, data in programs.items():
            self._programs[digest] = wire.load(data)
        self._runner = ChunkRunner(work, self._programs, start, stop)

    def hold(self, name: str, value: Array | Dataset, dtype: str) -> None:
        """Keep a feed until the next job."""
        self._job.hold(name, value, dtype)

    def map(self, first: int, last: int, names: Sequence[str], *wholes: Array) -> tuple[Parts, None]:
        """Run map steps; `names` say what the whole values are."""
        return self._job.map(first, last, dict(zip(names, wholes, strict=True))), None

    def collect(self, values: Sequence[str]) -> tuple[Chunks, None]:
        """Give the chunks of shard values away."""
        return self._job.collect(values), None

    def finish(
        self, first: int, last: int, names: Sequence[str], gives: Sequence[str], ranges: int, *rest: Any
    ) -> tuple[Any, ...]:
        """Run combine and single steps and give some of their values.

        `rest` are the whole values that `names` names, then the parts and the chunks of `ranges` workers each.
        """
        count = len(names)
        wholes = dict(zip(names, rest[:count], strict=True))
        parts, collected = rest[count : len(rest) - ranges], rest[len(rest) - ranges :]
        return (*self._job.finish((first, last), gives, wholes, parts, collected), None)

    def scalars(self, names: Sequence[str], *values: Array) -> dict[str, float]:
        """Numbers for those who watch."""
        return {name: float(value) for name, value in zip(names, values, strict=True)}

    def stop(self) -> None:
        """End the job: forget its feeds and values."""
        self._runner = None

    @property
    def _job(self) -> ChunkRunner:
        if self._runner is None:
            raise RuntimeError("this worker was not set up for a job")
        return self._runner


Worker = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Shell)
