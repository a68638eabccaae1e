"""The overseer of a session: asks the ranks now and then what they are at, and races a slow one against a spare worker.

Nothing here waits. A slow rank goes on while the spare starts: if it gets back to its pace before that, it has won and the
spare is let go; otherwise the session gives its rank away. Where no spare can start, for want of a CPU, the slow worker has to
make room. Where nobody knows how long the rank should take, a scout finds it out first.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError

from graphir.errors import VersionError
from graphir.partition.plan import Plan
from scheduler.driver.members import Member, greeted
from scheduler.driver.scout import Scout, Scouting
from scheduler.driver.watch import Watch
from workers.activity import Sign
from workers.mesh import PeerLost

if TYPE_CHECKING:
    from scheduler.driver.ray import RayPool

LOOK_SECONDS = 2.0
"""How often the ranks are asked."""
SLOW_SECONDS = 8.0
"""For how long a rank is watched before it is judged."""
SPARE_SECONDS = 6.0
"""How long a spare worker may take to start."""
Ref = Any


class Straggler(Exception):
    """A rank is to be given to another worker: to `spare`, or to one that has still to be started."""

    def __init__(self, rank: int, reason: str, spare: Member | None) -> None:
        super().__init__(reason)
        self.rank, self.reason, self.spare = rank, reason, spare


@dataclass(frozen=True, slots=True)
class _Race:
    rank: int
    reason: str
    begun: float
    actor: Any
    greeting: Ref


class Overseer:
    """Looks after the ranks of one job. heard: is told what they say of themselves."""

    def __init__(self, pool: "RayPool", job: str, plan: Plan, heard: Callable[[int, Sign], None]) -> None:
        self._pool, self._job, self._heard = pool, job, heard
        self._scouting = Scouting(pool, job, plan)
        self._scout: Scout | None = None
        self._members: list[Member] = []
        self._asked: dict[Ref, int] = {}
        self._race: _Race | None = None
        self._next = 0.0
        self._watch = Watch(0, SLOW_SECONDS)

    def begin(self, members: Sequence[Member]) -> None:
        """The job has other ranks."""
        self.end()
        self._members, self._watch = list(members), Watch(len(members), SLOW_SECONDS, self._watch.paces())
        self._next = time.monotonic() + LOOK_SECONDS

    def replaced(self, members: Sequence[Member]) -> None:
        """Some ranks have other workers."""
        for rank, member in enumerate(members):
            if member is not self._members[rank]:
                self._watch.forget(rank)
        self._members, self._asked = list(members), {}

    def end(self) -> None:
        """Nobody is watched any more."""
        if self._race is not None:
            ray.kill(self._race.actor)
        self._race, self._asked = None, {}
        self._call_back()

    def look(self, waiting: Collection[int]) -> None:
        """Straggler if a rank is to be given away; PeerLost if all those waited for have waited for one another."""
        now = time.monotonic()
        if now < self._next and self._race is None:
            return
        self._listen(now)
        if self._race is not None:
            self._follow(self._race, now)
        elif found := self._watch.slow():
            self._call_back()
            self._watch.restart(found[0])
            self._race = _Race(*found, now, *self._pool.spare())
        elif waiting and self._watch.stuck(waiting, SLOW_SECONDS):
            raise PeerLost("all workers of the job wait for what others sent and nobody got")
        else:
            self._explore()

    def await_end(self, ranks: Collection[int]) -> None:
        """Straggler if one of these, which have still to end a call when all others have, is not thought to end it."""
        now = time.monotonic()
        if now < self._next:
            return
        self._listen(now)
        for rank in ranks:
            reason = self._watch.overdue(rank)
            if reason is not None:
                raise Straggler(rank, reason, None)
        self._explore(ranks)

    def _explore(self, last: Collection[int] = ()) -> None:
        """Have what a rank has been at for long, and nobody knows, done elsewhere too, and learn from that."""
        doubtful = self._watch.doubtful(self._scouting.patience, last) if self._scout is None else None
        if doubtful is not None:
            rank, program = doubtful
            self._scout = self._scouting.send(rank, program, self._members[rank])
        elif self._scout is not None and self._scout.back():
            seconds = self._scout.found()
            if seconds is not None:
                self._watch.learn(self._scout.about[1], seconds)
            self._call_back()
        elif self._scout is not None and not self._watch.at(*self._scout.about):
            self._call_back()

    def _call_back(self) -> None:
        if self._scout is not None:
            self._scout.end()
            self._scout = None

    def _listen(self, now: float) -> None:
        """Take in the signs that have come, and now and then ask for others."""
        ready, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        for ref in ready:
            rank = self._asked.pop(ref)
            try:
                sign = ray.get(ref)
            except RayError:  # it is dead: its call says so too
                continue
            if sign is not None:
                self._watch.take(rank, now, sign)
                self._heard(rank, sign)
        if now >= self._next:
            self._next = now + LOOK_SECONDS
            for rank, member in enumerate(self._members):
                if rank not in self._asked.values():
                    self._asked[member.actor.alive.remote(self._job)] = rank

    def _follow(self, race: _Race, now: float) -> None:
        """Whether the slow rank or the spare wins."""
        reason = self._watch.judged(race.rank)
        if reason is None and self._watch.watched(race.rank) < 2 * LOOK_SECONDS:
            return
        if reason is None:
            self.end()
            return
        ready, _ = ray.wait([race.greeting], timeout=0)
        if ready:
            self._race = None
            raise Straggler(race.rank, reason, _spare(race))
        if now > race.begun + SPARE_SECONDS:
            self.end()
            raise Straggler(race.rank, reason, None)


def _spare(race: _Race) -> Member | None:
    try:
        return greeted(race.actor, race.greeting)
    except (RayActorError, VersionError):
        ray.kill(race.actor)
        return None
