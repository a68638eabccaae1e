"""What each worker of a job did, step by step of the plan, from the signs that it gives with its answers and when it is asked.

Told every half second at first, and the longer a job runs the more seldom: as often as its time doubles, the same number of times.
"""

import time
from collections.abc import Callable, Mapping

from graphir.partition.plan import Plan
from scheduler.driver.watch import spent
from scheduler.job.events import Event, Lane, Worked
from workers.activity import Sign

LEAST_SECONDS, PARTS = 0.5, 200
"""At least so long is between two reports, and this part of the job's time so far."""
MOST_LANES, MOST_STEPS = 64, 12
"""Most workers that are told of, and most steps of each: those that took longest."""


class Lanes:
    """The workers of one job."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: dict[str, tuple[int, str]] = {}
        for number, step in enumerate(plan.steps):
            self._steps.setdefault(step.program.digest, (number, f"{step.kind} {step.stage}"))
        self._signs: dict[int, Sign] = {}
        self._before: dict[int, Sign] = {}
        self._begun = self._told = clock()

    def take(self, rank: int, sign: Sign) -> None:
        """What a rank is at."""
        self._signs[rank] = sign

    def news(self) -> list[Event]:
        """What was done since the last time, if it is due; the time is still to be set."""
        now = self._clock()
        seconds = now - self._told
        if not self._signs or seconds < max(LEAST_SECONDS, (now - self._begun) / PARTS):
            return []
        lanes = tuple(self._lane(rank, self._signs[rank]) for rank in sorted(self._signs)[:MOST_LANES])
        self._before |= self._signs
        self._signs, self._told = {}, now
        return [Worked(0.0, seconds, lanes)]

    def _lane(self, rank: int, sign: Sign) -> Lane:
        before = self._before.get(rank)
        if before is not None and _runs(before) > _runs(sign):
            before = None  # another worker has this rank
        known: Mapping[str, tuple[int, float]] = {} if before is None else spent(before)
        waited = 0.0 if before is None else _waited(before)
        steps = [
            (*self._steps[program], max(0.0, seconds - known.get(program, (0, 0.0))[1]))
            for program, (_, seconds) in spent(sign).items()
            if program in self._steps
        ]
        most = sorted(steps, key=lambda step: -step[2])[:MOST_STEPS]
        return Lane(
            f"worker-{rank}", tuple(sorted(step for step in most if step[2] > 0)), max(0.0, _waited(sign) - waited)
        )


def _runs(sign: Sign) -> int:
    return sum(runs for runs, _ in sign.spent.values())


def _waited(sign: Sign) -> float:
    """Seconds that a rank has waited, the present wait included."""
    return sign.waited + (sign.since if sign.doing[0] == "waits" else 0.0)
