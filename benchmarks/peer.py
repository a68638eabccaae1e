"""What each peer of the distributed figures can be asked: the seconds of one sample of a job, or None where it has nothing like it."""

import time
from collections.abc import Callable
from typing import Any

from benchmarks import jobs
from benchmarks.jobs import CASES, Arrays


class Peer:
    """What all have in common; a peer says how it sums over its shards, and what else it can do."""

    name = ""

    def load(self, case: str) -> None:
        """Have the data of a case on the workers."""

    def total(self, case: str, parameters: Arrays) -> Arrays:
        """Loss and gradients over all chunks."""
        raise NotImplementedError

    def iteration(self, case: str) -> float | None:
        """Seconds an iteration of gradient descent."""
        parameters, steps = CASES[case].start(), CASES[case].steps
        begun = time.perf_counter()
        for _ in range(steps):
            parameters = jobs.descended(case, parameters, self.total(case, parameters))
        return (time.perf_counter() - begun) / steps

    def tiny(self) -> float | None:
        """Seconds of the tiny known job."""

    def tasks(self) -> float | None:
        """Seconds of 10,000 tasks that do nothing."""

    def graph(self, seed: int) -> float | None:
        """Seconds of the random graph, its construction included."""

    def large(self) -> float | None:
        """Seconds until both workers have the sum of their large gradients."""

    def stop(self) -> None:
        """End what was started."""


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
