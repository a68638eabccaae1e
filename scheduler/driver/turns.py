"""Turns: whose call goes to the workers next, by weighted fair queueing (start-time fair queueing: Goyal, Vin, Cheng 1996).

Each job that is open has a share, whose time grows by the seconds that workers gave to its calls, divided by its weight; a call
goes out when no share with less time wants the same workers. A share that comes, or comes back, begins at the time of the
last call sent, so it neither catches up on the past nor waits for it. A step of priority is a factor of PRIORITY in weight: more
for those above, never nothing for those below, and after AGE_SECONDS of waiting a call goes next whatever its share. At a worker at most DEPTH calls are queued, so a new job's first call is
not behind many others. Used by several threads.
"""

import threading
import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

PRIORITY = 4.0
"""How many times as much of the workers a job has as one whose priority is one lower."""
DEPTH = 2
"""Calls at one worker at one time: one under way, and one behind it so that it does not wait for the driver."""
AGE_SECONDS = 60.0
"""How long a call may wait for those of jobs with larger shares."""
GRACE_SECONDS, GRACE_PART = 0.05, 0.04
"""So long, and such a part of its own call, one waits for a job that has had less and may soon send another call."""
IDLE_SECONDS = 1.0
"""A share that wanted nothing for so long loses what others had more meanwhile; the pauses between calls are shorter."""


@dataclass(eq=False)
class Share:
    """A job's part of the workers."""

    weight: float
    time: float
    number: int
    calls: int = 0
    waits: bool = False
    waits_since: float = 0.0
    idle_since: float = float("-inf")
    workers: frozenset[Hashable] = frozenset()

    @property
    def busy(self) -> bool:
        """Whether it has calls at the workers, or one to send."""
        return self.waits or self.calls > 0


@dataclass(frozen=True, eq=False)
class Turn:
    """Leave to send a call. charged: what the share was charged for it in advance, in seconds."""

    share: Share
    workers: tuple[Hashable, ...]
    charged: float
    begun: float

    def cost(self, seconds: float) -> float:
        """The time that so many seconds of its workers are to its share."""
        return seconds * len(self.workers) / self.share.weight


class Turns:
    """The shares of all open jobs of a pool."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._changed = clock, threading.Condition()
        self._shares: list[Share] = []
        self._queues: dict[Hashable, list[Turn]] = {}
        self._ended: dict[Hashable, float] = {}
        self._now, self._joined = 0.0, 0

    def join(self, priority: int) -> Share:
        """The share of a new job."""
        with self._changed:
            self._joined += 1
            share = Share(PRIORITY**priority, self._now, self._joined)
            self._shares.append(share)
            return share

    def leave(self, share: Share) -> None:
        """The job has ended."""
        with self._changed:
            self._shares.remove(share)
            busy = {worker for other in self._shares for worker in other.workers}
            self._ended = {
                worker: at for worker, at in self._ended.items() if worker in busy or self._queues.get(worker)
            }
            self._changed.notify_all()

    def take(self, share: Share, workers: Collection[Hashable], seconds: float, patience: float) -> Turn | None:
        """Leave to send a call that should take so many seconds; None if others come first all the while.

        A share that has no call at the workers keeps its place before later ones until it gets its turn or withdraws.
        """
        with self._changed:
            if not share.busy and self._clock() - share.idle_since > IDLE_SECONDS:
                share.time = max(share.time, self._now)
            if not share.waits:
                share.waits_since = self._clock()
            share.waits, share.workers = True, frozenset(workers)
            try:
                until = self._clock() + patience
                grace = min(GRACE_SECONDS, seconds * GRACE_PART)
                while not self._may_go(share, grace):
                    if (left := until - self._clock()) <= 0:
                        return None
                    self._changed.wait(min(left, GRACE_SECONDS / 4))
                self._now = max(self._now, share.time)
                turn = Turn(share, tuple(workers), seconds, self._clock())
                share.time += turn.cost(seconds)
                share.calls += 1
                for worker in workers:
                    self._queues.setdefault(worker, []).append(turn)
                return turn
            finally:
                share.waits = not share.calls
                self._changed.notify_all()

    def withdraw(self, share: Share) -> None:
        """The job does not want a turn any more, for now."""
        with self._changed:
            share.waits = False
            self._changed.notify_all()

    def done(self, turn: Turn) -> float:
        """The call has ended: how many seconds the workers gave to it."""
        with self._changed:
            now = self._clock()
            seconds = max(0.0, now - self._served_since(turn))
            turn.share.time += turn.cost(seconds - turn.charged)
            turn.share.calls -= 1
            turn.share.idle_since = now
            for worker in turn.workers:
                self._queues[worker].remove(turn)
                if not self._queues[worker]:
                    del self._queues[worker]
                self._ended[worker] = now
            self._changed.notify_all()
            return seconds

    def pressed(self, turn: Turn, seconds: float) -> bool:
        """Whether a call has been under way for so long, and a job that has had less wants the same workers."""
        with self._changed:
            if any(self._queues[worker][0] is not turn for worker in turn.workers):
                return False
            taken = self._clock() - self._served_since(turn)
            due = turn.share.time + turn.cost(max(0.0, taken - turn.charged))
            return taken >= seconds and any(
                other.busy and other.time < due for other in self._rivals(turn.share, frozenset(turn.workers))
            )

    def _may_go(self, share: Share, grace: float) -> bool:
        if any(len(self._queues.get(worker, ())) >= DEPTH for worker in share.workers):
            return False
        mine = self._rank(share)
        now = self._clock()
        return not any(
            (other.waits and self._rank(other) < mine)
            or (other.time < share.time and mine[0] and (other.calls or now - other.idle_since < grace))
            for other in self._rivals(share, share.workers)
        )

    def _rank(self, share: Share) -> tuple[bool, float, int]:
        """Of two that wait, the one with the smaller rank goes first: whoever has waited too long, then who has had less."""
        young = not share.waits or self._clock() - share.waits_since < AGE_SECONDS
        return young, share.time, share.number

    def _rivals(self, share: Share, workers: frozenset[Hashable]) -> list[Share]:
        return [other for other in self._shares if other is not share and other.workers & workers]

    def _served_since(self, turn: Turn) -> float:
        return max(turn.begun, *(self._ended.get(worker, turn.begun) for worker in turn.workers))
