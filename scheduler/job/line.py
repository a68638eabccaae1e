"""The line of jobs that have not ended: which one runs next, and which gives its place up for another.

The highest priority goes first, and AGE_SECONDS of waiting are worth one step of it, so nobody waits for ever. Among equals goes
whoever has had fewer slices, then whoever was submitted first. At the end of its slice a job gives its place up if one that waits
would go before it. Slices grow with their number, up to a point, so that setting a job aside (a checkpoint, its feeds sent
again) costs little beside its work; after a slice in which no step ended the next one is twice as long, without a limit.
Pure but for its own state: times come from the caller, who also sees to it that one thread comes at a time.
"""

import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from graphir.errors import QueueFull
from scheduler.limits import MAX_WAITING_BYTES, MAX_WAITING_JOBS

SLICE_SECONDS = 5.0
LONGER = 3
"""How often slices become twice as long."""
AGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """A job in the line. since: when it began to wait, or to run; slices: how often it was set aside; idle: without a step.

    arrays: bytes of fed arrays by digest. deadline: when it is to have ended.
    """

    id: str
    priority: int
    since: float
    slices: int = 0
    idle: int = 0
    arrays: Mapping[str, int] = field(default_factory=dict)
    deadline: float | None = None

    def rank(self, now: float) -> tuple[int, int, str]:
        """Who has less goes first."""
        age = int(max(0.0, now - self.since) // AGE_SECONDS)
        return -self.priority - age, self.slices, self.id

    @property
    def slice(self) -> float:
        """How long it may run before others come in."""
        return SLICE_SECONDS * 2.0 ** (min(self.slices, LONGER) + self.idle)


class Line:
    """Jobs that wait and jobs that run, at most `places` of these.

    Those that wait stand in rows by priority and slices, each in the order in which they came, so that the next is soon found.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._waiting: dict[str, Place] = {}
        self._rows: dict[tuple[int, int], dict[str, Place]] = {}
        self._running: dict[str, Place] = {}
        self._uses: Counter[str] = Counter()
        self._deadlines: dict[str, float] = {}
        self._earliest = math.inf
        self.bytes = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def known(self) -> set[str]:
        """The ids of those that wait or run."""
        return self._waiting.keys() | self._running.keys()

    def check_room(self, more: int) -> None:
        """QueueFull unless one more job, whose arrays have so many bytes, may wait."""
        if len(self) >= MAX_WAITING_JOBS:
            full = f"{len(self)} jobs are waiting, the limit"
        elif self._waiting and self.bytes + more > MAX_WAITING_BYTES:
            full = f"jobs are waiting with {self.bytes} bytes of arrays, {more} more are over the limit of {MAX_WAITING_BYTES}"
        else:
            return
        raise QueueFull(
            f"{full}; submit again when some have ended (Job.result waits for one), cancel some (Client.jobs lists "
            "them), put many points into one job (Client.map), or feed files (gi.dataset)"
        )

    def add(self, place: Place) -> None:
        """A job has come, unless it is here already."""
        if place.id not in self._waiting and place.id not in self._running:
            self._wait(place)

    def late(self, now: float) -> list[str]:
        """The jobs that waited past their deadlines, which do not any more."""
        if now <= self._earliest:
            return []
        late = [id for id, deadline in self._deadlines.items() if deadline < now]
        for id in late:
            self._leave(id)
        self._earliest = min(self._deadlines.values(), default=math.inf)
        return late

    def next(self, now: float) -> str | None:
        """The job that runs next, which from now on does."""
        found = self._first(1, now)
        if not found:
            return None
        place = found[0]
        self._leave(place.id)
        self._running[place.id] = replace(place, since=now)
        return place.id

    def begins(self, id: str, now: float) -> None:
        """The slice of a job begins when its plan is made and workers are there, not when it left the line."""
        self._running[id] = replace(self._running[id], since=now)

    def gives_way(self, id: str, now: float) -> bool:
        """Whether a job that runs is to be set aside."""
        return id in self._giving_way(now)

    def set_aside(self, id: str, now: float, *, got_on: bool) -> None:
        """A job that ran waits again. got_on: some step of it ended meanwhile."""
        place = self._running.pop(id)
        idle = 0 if got_on else place.idle + 1
        self._wait(replace(place, since=now, slices=place.slices + 1, idle=idle))

    def ended(self, id: str) -> None:
        """A job that ran has ended."""
        self._running.pop(id, None)

    def cancelled(self, id: str) -> None:
        """A job waits no more here; one that runs does until it has stopped."""
        self._leave(id)

    def _wait(self, place: Place) -> None:
        self._waiting[place.id] = place
        self._rows.setdefault((place.priority, place.slices), {})[place.id] = place
        if place.deadline is not None:
            self._deadlines[place.id] = place.deadline
            self._earliest = min(self._earliest, place.deadline)
        for digest, size in place.arrays.items():
            self.bytes += 0 if self._uses[digest] else size
            self._uses[digest] += 1

    def _leave(self, id: str) -> None:
        place = self._waiting.pop(id, None)
        if place is None:
            return
        row = self._rows[place.priority, place.slices]
        del row[id]
        if not row:
            del self._rows[place.priority, place.slices]
        self._deadlines.pop(id, None)
        for digest, size in place.arrays.items():
            self._uses[digest] -= 1
            if not self._uses[digest]:
                del self._uses[digest]
                self.bytes -= size

    def _first(self, count: int, now: float) -> list[Place]:
        """The jobs that run next. Of a row nobody goes before those that came earlier."""
        fronts = (place for row in self._rows.values() for place in islice(row.values(), count))
        return heapq.nsmallest(count, fronts, key=lambda place: place.rank(now))

    def _giving_way(self, now: float) -> set[str]:
        """As many as are waited for and cannot be had without, those that would go last first."""
        free = self.places - len(self._running)
        if len(self._waiting) <= free:
            return set()
        over = [place for place in self._running.values() if now - place.since >= place.slice]
        if not over:
            return set()
        waiting = [place.rank(now) for place in self._first(free + len(over), now)[free:]]
        again = {place.id: replace(place, since=now, slices=place.slices + 1).rank(now) for place in over}
        worst = sorted(again, key=lambda id: again[id], reverse=True)
        return {id for id, first in zip(worst, waiting, strict=False) if first < again[id]}
