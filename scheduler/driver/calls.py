"""Calls of one job to its workers: a quarter of a second's iterations each, two under way at a time.

A call is under way on all ranks of the job, which wait for one another: the first error ends it for all. A worker that does
not even answer while its call takes far too long is killed; one that is merely busy is waited for, or raced (`overseer`).
"""

import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from graphir.errors import ServiceUnavailable
from graphir.partition.plan import Plan
from scheduler.driver.members import Member
from scheduler.driver.overseer import Overseer
from scheduler.driver.pool import Interrupted, TaskError, task_error, tell_bound
from scheduler.driver.turns import Turn
from workers.activity import Sign
from workers.mesh import PeerLost
from workers.runner import Stopped

if TYPE_CHECKING:
    from scheduler.driver.ray import RayPool

CALL_SECONDS = 0.25
"""How long one call should take."""
LONG_SECONDS = 2.0
"""A call that takes longer lets other jobs in that have had less, and is made again. So it loses what it computed: less than
twice what it takes in all, since each time it is given twice as long."""
QUICKER = 8.0
"""How much shorter an iteration is taken to be after one call; what was seen of it may have been its end only."""
AHEAD = 2
"""Calls under way or queued at one time."""
ASK_SECONDS = 0.5
"""How often a waiting job asks whether it is still wanted."""
HANG_SECONDS, HANG_TIMES, ANSWER_SECONDS = 8.0, 5.0, 4.0
"""A call that takes longer than this, and than so many times what it took before, has its workers asked if they live."""
SETTLE_SECONDS = 10.0
"""After which time workers that have not ended a cancelled call are asked if they live."""
Ref = Any


@dataclass(frozen=True, slots=True)
class Call:
    """Some iterations that all ranks perform."""

    ticket: int
    step: int
    count: int
    refs: tuple[Ref, ...]
    turn: Turn


class RankFailed(Exception):
    """A call failed on a rank; `error` is None if the rank has not the values to begin with."""

    def __init__(self, rank: int, error: RayError | None) -> None:
        super().__init__(f"rank {rank}: {error}")
        self.rank, self.error = rank, error


class MadeWay(Exception):
    """A call takes long, and another job that has had less wants its workers."""


class Calls:
    """The calls of one job that are under way."""

    def __init__(
        self,
        pool: "RayPool",
        name: str,
        priority: int,
        plan: Plan,
        interrupted: Callable[[], bool],
        heard: Callable[[int, Sign], None],
    ) -> None:
        self._pool, self._name, self._interrupted, self._heard = pool, name, interrupted, heard
        self._pace, self._long = CALL_SECONDS, LONG_SECONDS
        self._share = pool.turns.join(priority)
        self.members: list[Member] = []
        self.flying: deque[Call] = deque()
        self.overseer = Overseer(pool, name, plan, heard)

    def leave(self) -> None:
        """The job has ended; without a head there is nobody to tell."""
        if not self._pool.headless:
            self._abandon()
            self.overseer.end()
        self._pool.turns.leave(self._share)

    def launch(self, done: int, limit: int, *, waits: bool) -> None:
        """Send calls. The first one is waited for if `waits`; those ahead are not, since what is under way is awaited first."""
        issued = self.flying[-1].step + self.flying[-1].count if self.flying else done
        while len(self.flying) < AHEAD and issued < limit:
            count = max(1, min(limit - issued, int(CALL_SECONDS / self._pace)))
            turn = self._turn(count * self._pace, waits=waits and not self.flying)
            if turn is None:
                return
            with self._pool.issuing() as ticket:
                refs = tuple(m.actor.run.remote(self._name, ticket, issued, count) for m in self.members)
            self.flying.append(Call(ticket, issued, count, refs, turn))
            issued += count

    def _turn(self, seconds: float, *, waits: bool) -> Turn | None:
        """Leave to send a call."""
        patience = ASK_SECONDS if waits else 0.0
        while (turn := self._pool.turns.take(self._share, self.members, seconds, patience)) is None and waits:
            self.ask()
        return turn

    def first(self, setups: Sequence[tuple[int, Ref]]) -> tuple[Call, list[dict[str, float]]]:
        """Wait for the first call under way, and for what was asked for before it; the numbers to watch."""
        call = self.flying[0]
        for rank, ref in setups:
            self.get(rank, ref)
        results = self._results(call)
        seconds = self._pool.turns.done(call.turn) / call.count
        self._pace, self._long = max(seconds, self._pace / QUICKER, 1e-6), LONG_SECONDS
        return self.flying.popleft(), results[0]

    def get(self, rank: int, ref: Ref) -> Any:
        """What a rank answers, or RankFailed, or Interrupted. One that does not even say that it is alive is ended."""
        asked = time.monotonic()
        while True:
            try:
                return ray.get(ref, timeout=ASK_SECONDS)
            except GetTimeoutError:
                self.ask()
            except RayError as error:
                raise RankFailed(rank, error) from error
            if time.monotonic() > asked + HANG_SECONDS:
                if self._kill_the_silent([rank]):
                    raise RankFailed(rank, RayActorError())
                asked = time.monotonic()

    def ask(self) -> None:
        """Interrupted if the job is not wanted any more."""
        self._pool.reap()
        if self._interrupted():
            self._abandon()
            raise Interrupted

    def _ask_or_abandon(self, pending: Mapping[Ref, int]) -> None:
        try:
            self.ask()
        except Interrupted:
            for ref, rank in pending.items():
                self._pool.abandon(self.members[rank], ref)
            raise

    def _abandon(self) -> None:
        """Cancel what is under way, and have it seen to that it ends."""
        for call in self.cancel():
            for member, ref in zip(self.members, call.refs, strict=True):
                self._pool.abandon(member, ref)

    def cancel(self) -> list[Call]:
        """Let what is under way end before the next chunk; the calls that were."""
        calls = list(self.flying)
        for call in calls:
            for member in self.members:
                member.actor.cancel.remote(call.ticket)
            self._pool.turns.done(call.turn)
        self._pool.turns.withdraw(self._share)
        self.flying.clear()
        return calls

    def settled(self, calls: Sequence[Call], gone: Collection[int]) -> dict[int, RayError]:
        """The error of each rank. A worker that does not even answer is killed, and a long kernel waited for.

        Straggler if one has taken far too long since; then ask again without it.
        """
        errors: dict[int, RayError] = {rank: RayActorError() for rank in gone}
        pending = {ref: rank for call in calls for rank, ref in enumerate(call.refs) if rank not in gone}
        until = time.monotonic() + SETTLE_SECONDS
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=ASK_SECONDS)
            for ref in ready:
                _note(errors, pending.pop(ref), ref)
            if pending:
                self._ask_or_abandon(pending)
                self.overseer.await_end(pending.values())
            if pending and time.monotonic() > until:
                silent = self._kill_the_silent(pending.values())
                errors |= {rank: RayActorError() for rank in silent}
                pending = {ref: rank for ref, rank in pending.items() if rank not in silent}
                until = time.monotonic() + SETTLE_SECONDS
        return errors

    def _results(self, call: Call) -> dict[int, list[dict[str, float]]]:
        """What each rank says of a call."""
        results: dict[int, list[dict[str, float]]] = {}
        pending = {ref: rank for rank, ref in enumerate(call.refs)}
        patience = HANG_SECONDS + HANG_TIMES * self._pace * call.count
        asked = time.monotonic() + patience
        while pending:
            self.overseer.look(pending.values())
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=ASK_SECONDS)
            for ref in ready:
                rank = pending.pop(ref)
                answer = self.get(rank, ref)
                if answer is None:  # nobody cancelled it
                    raise RankFailed(rank, None)
                results[rank], sign = answer
                self._heard(rank, sign)
            if pending:
                self.ask()
                self._make_way(call)
            if pending and time.monotonic() > asked:
                for rank in self._kill_the_silent(pending.values()):
                    raise RankFailed(rank, RayActorError())
                asked = time.monotonic() + patience
        return results

    def _make_way(self, call: Call) -> None:
        """MadeWay if others wait for the end of a long call; it is made again later, and then given twice the time."""
        if self._pool.turns.pressed(call.turn, self._long):
            self._pace = max(self._pace, self._long / call.count)
            self._long *= 2
            raise MadeWay

    def _kill_the_silent(self, ranks: Collection[int]) -> list[int]:
        """End workers that do not even say that they are alive, so that others take their ranks."""
        answers = {self.members[rank].actor.alive.remote(self._name): rank for rank in set(ranks)}
        _, silent = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        for ref in silent:
            self._pool.end(self.members[answers[ref]])
        return [answers[ref] for ref in silent]


def _note(errors: dict[int, RayError], rank: int, ref: Ref) -> None:
    """Keep the rank's error, the first one that is its own fault if there is any."""
    try:
        ray.get(ref)
    except RayError as error:
        if rank not in errors or followed(errors[rank]):
            errors[rank] = error


def followed(error: RayError) -> bool:
    """Whether it only followed from what befell another worker."""
    return isinstance(cause(error), PeerLost | Stopped)


def cause(error: BaseException) -> BaseException:
    """What went wrong in a task; what goes wrong in Ray itself may go well the next time."""
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, BaseException) else error
    return ServiceUnavailable(f"{type(error).__name__}: {error}") if isinstance(error, RayError) else error


def rank_error(error: RayError, rank: int, said: Callable[[], str]) -> TaskError:
    """A task's error on a rank. said: what the plan says of memory, for want of which it may be."""
    wrong = cause(error)
    tell_bound(wrong, said)
    return task_error(wrong, f"worker-{rank}", "".join(traceback.format_exception(error)))


def last_words(error: RayError) -> str:
    """What Ray knows of a worker's end."""
    _, found, detail = str(error).partition("Worker exit detail: ")
    return f": {detail.splitlines()[0][:300]}" if found and detail else ""
