"""Scouts: what a rank has been at for long, and nobody ever did before, is done by another worker too, to see how long it takes.

If the other is done long before, the rank is known to be slow, or to hang, and its work goes elsewhere as that of any straggler;
if not, nothing has changed. The other worker takes no CPU that Ray counts, so there is one wherever there is a worker.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from graphir import wire
from graphir.partition.cost import program_seconds
from graphir.partition.plan import Plan
from scheduler.driver.members import Member
from scheduler.driver.watch import TIMES

if TYPE_CHECKING:
    from scheduler.driver.ray import RayPool

FIRST_SECONDS = 20.0
"""How long a first run may take before it is done elsewhere too, and many times what is estimated."""
Ref = Any


@dataclass(frozen=True, slots=True)
class Scout:
    """A worker that does what a rank is at; `about` is the rank and the program."""

    about: tuple[int, str]
    actor: Any
    seconds: Ref

    def back(self) -> bool:
        """Whether it is done, or never will be."""
        return bool(ray.wait([self.seconds], timeout=0)[0])

    def found(self) -> float | None:
        """The seconds that it took, if it did it."""
        try:
            seconds: float | None = ray.get(self.seconds)
        except RayError:  # it died, or has no memory for it, or the rank is gone
            return None
        return seconds

    def end(self) -> None:
        """It is not needed any more."""
        ray.kill(self.actor)


class Scouting:
    """Who has scouts for one job, and when. The more often it was in vain, the longer until the next time."""

    def __init__(self, pool: "RayPool", job: str, plan: Plan) -> None:
        self._pool, self._job, self._plan = pool, job, plan
        self._steps = {step.program.digest: step for step in plan.steps}
        self._expected: dict[str, float] = {}
        self._sent: Counter[int] = Counter()

    def patience(self, rank: int, program: str) -> float:
        """For how many seconds a rank may be at a program that nobody knows."""
        if program not in self._expected:
            step = self._steps[program]
            self._expected[program] = program_seconds(step.program, self._plan.widest(step.over))
        return max(FIRST_SECONDS, TIMES * self._expected[program]) * 2.0 ** self._sent[rank]

    def send(self, rank: int, program: str, member: Member) -> Scout:
        """Let another worker do what a rank is at."""
        self._sent[rank] += 1
        actor = self._pool.scout()
        data = wire.dump(self._steps[program].program)
        return Scout((rank, program), actor, actor.repeat.remote(program, data, member.actor.task.remote(self._job)))
