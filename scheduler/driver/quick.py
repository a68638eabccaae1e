"""A job that is one short step: one call of one worker, which sets it up, performs it and answers with its values.

What a worker needs for it is the same for other feeds of the same shapes, so the worker keeps it, and a job that comes again
is the feeds and one answer. A second worker would cost such a job more than it gains, and the bits are the same with one.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, WorkerCrashedError

from graphir.errors import VersionError
from graphir.graph import Graph
from graphir.node import Array
from graphir.partition.cost import DEFAULT, program_seconds
from graphir.partition.plan import Plan, Step
from scheduler.driver.calls import ANSWER_SECONDS, ASK_SECONDS, HANG_SECONDS, last_words, rank_error
from scheduler.driver.members import Assignment, Member, greeted
from scheduler.driver.pool import (
    Feeds,
    Interrupted,
    WorkerDied,
    put_together,
    said_of_memory,
    wanted,
)
from scheduler.job.events import Assembled, Event, Straggled
from scheduler.place import place
from workers.actor import UNKNOWN, Setup
from workers.work import Work

if TYPE_CHECKING:
    from scheduler.driver.ray import RayPool

QUICK_SECONDS, QUICK_BYTES = 2e-3, 1 << 20
"""Steps that are estimated to take less, with feeds of fewer bytes, are performed so."""
KEPT = 64
"""How many set-ups a worker keeps."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a plan needs of a worker, whatever its feeds are."""

    name: str
    work: Work
    shown: tuple[str, ...]
    programs: Mapping[str, Graph]
    feeds: tuple[tuple[str, str, int, int | None], ...]


class Quick:
    """The plans of this kind that came last."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Any, ...], tuple[tuple[Step, ...], Known | None]] = OrderedDict()
        self._count = 0

    def known(self, plan: Plan, feeds: Feeds, carry: Mapping[str, str], fetch: Collection[str]) -> Known | None:
        """The plan as workers know it, or None if it has several steps, is long, or reads more than a little."""
        arrays = [feed for feed in feeds.values() if isinstance(feed, np.ndarray)]
        if carry or plan.batch is not None or len(arrays) < len(feeds) or sum(a.nbytes for a in arrays) > QUICK_BYTES:
            return None
        key = id(plan.steps), tuple(fetch), plan.check_finite, plan.backend
        if key not in self._known:  # beside the steps, so that nothing else gets their identity
            self._known[key] = plan.steps, self._made(plan, fetch) if _seconds(plan) <= QUICK_SECONDS else None
            while len(self._known) > 4 * KEPT:
                self._known.popitem(last=False)
        return self._known[key][1]

    def _made(self, plan: Plan, fetch: Collection[str]) -> Known:
        self._count += 1
        kept = wanted(plan, {}, fetch)
        inputs = tuple((name, node.type.dtype.name, 0, None) for name, node in plan.graph.inputs.items())
        programs = {step.program.digest: step.program for step in plan.steps}
        shown = tuple(name for name in kept if name in fetch)
        return Known(f"quick-{self._count}", place(plan, 1, {}, kept), shown, programs, inputs)


@dataclass(frozen=True, slots=True)
class Flight:
    """A call that is under way."""

    member: Member
    ticket: int
    ref: Any


class QuickSession:
    """One such job on a pool."""

    def __init__(
        self, pool: "RayPool", job: Assignment, known: Known, plan: Plan, feeds: Feeds, interrupted: Callable[[], bool]
    ) -> None:
        self._pool, self._job, self._known, self._plan = pool, job, known, plan
        self._values = [feeds[name] for name, *_ in known.feeds]
        self._interrupted = interrupted
        self._made: dict[str, Array] = {}
        self._news: list[Event] = []
        self._scout: tuple[Any, Any] | None = None
        job.fitting(pool.members)
        self._share = pool.turns.join(job.priority)

    def restore(self, carried: Mapping[str, Array], step: int) -> None:
        """Nothing is carried."""

    def advance(self, most: int) -> list[dict[str, float]]:
        """Perform the step."""
        while (answer := self._performed()) == UNKNOWN:
            pass
        if answer is None:
            raise Interrupted
        numbers, kept = answer
        outputs = self._plan.outputs
        self._made = {name: put_together(self._plan, outputs[name], [kept]) for name in self._known.shown}
        return [numbers]

    def carried(self) -> dict[str, Array]:
        """Nothing is carried."""
        return {}

    def outputs(self) -> dict[str, Array]:
        """The outputs that are fetched."""
        return self._made

    def replace(self, worker: str) -> None:
        """Let the next call go to a worker in the place of the dead one, or to any other."""
        self._pool.another(self._member)

    def news(self) -> list[Event]:
        """Which worker performed it."""
        news, self._news = self._news, []
        return news

    def release(self) -> None:
        """Forget the values."""
        self._values, self._made = [], {}
        self._pool.turns.leave(self._share)
        self._end_scout()

    def _performed(self) -> Any:
        """The answer to one call, which waits for its turn like any other."""
        member = self._chosen()
        take = self._pool.turns.take
        while (turn := take(self._share, [member], QUICK_SECONDS, ASK_SECONDS)) is None:
            self._ask()
        try:
            return self._answer(self._call(member))
        finally:
            self._pool.turns.done(turn)

    def _chosen(self) -> Member:
        self._pool.refresh()
        self._pool.wait_for_members(self._ask)
        members = self._job.fitting(self._pool.members)
        self._member = members[self._job.number % len(members)]
        kernels = self._member.kernels
        self._news.append(Assembled(0.0, len(members), self._pool.asked, kernels.digest, str(kernels)))
        return self._member

    def _call(self, member: Member) -> Flight:
        known = self._known
        with self._pool.issuing() as ticket:
            setup = None
            if member.learns(known.name, KEPT):
                programs, forget = self._pool.programs(member, known.programs)
                setup = Setup(known.name, known.work, 0, (), programs, forget, known.feeds)
            ref = member.actor.once.remote((known.name, setup, KEPT, ticket, self._values))
            return Flight(member, ticket, ref)

    def _answer(self, first: Flight) -> Any:
        """The answer of whoever gives it first: if one takes far too long, another is asked too."""
        flights, late = [first], time.monotonic() + HANG_SECONDS
        try:
            while True:
                ready, _ = ray.wait([flight.ref for flight in flights], timeout=ASK_SECONDS)
                if ready:
                    (won,) = (flight for flight in flights if flight.ref in ready)
                    flights.remove(won)
                    if won is not first:
                        self._news.append(
                            Straggled(0.0, "worker-0", "another had the answer to a short call before it")
                        )
                    return self._got(won)
                self._ask()
                if time.monotonic() > late:
                    flights += self._raced(flights)
                    late = time.monotonic() + (HANG_SECONDS if len(flights) > 1 else ASK_SECONDS)
        finally:
            for flight in flights if not self._pool.headless else ():
                flight.member.actor.cancel.remote(flight.ticket)
                self._pool.abandon(flight.member, flight.ref)

    def _raced(self, flights: Sequence[Flight]) -> list[Flight]:
        """Another call, where one worker lives but has not answered; workers that are silent are ended."""
        for flight in flights:
            self._end_if_silent(flight.member)
        if len(flights) > 1:
            return []
        others = [member for member in self._job.fitting(self._pool.members) if member is not flights[0].member]
        other = others[self._job.number % len(others)] if others else self._scouted()
        return [self._call(other)] if other is not None and self._job.fits(other) else []

    def _scouted(self) -> Member | None:
        """A worker for this job alone, once it has started."""
        if self._scout is None:
            actor = self._pool.scout()
            self._scout = actor, actor.hello.remote()
        try:
            return greeted(*self._scout, timeout=0.0)
        except GetTimeoutError:
            return None
        except (RayActorError, VersionError):
            self._end_scout()
            return None

    def _end_scout(self) -> None:
        if self._scout is not None and not self._pool.headless:
            ray.kill(self._scout[0])
        self._scout = None

    def _got(self, flight: Flight) -> Any:
        try:
            answer = ray.get(flight.ref)
            if answer == UNKNOWN:
                flight.member.ready.pop(self._known.name, None)
            return answer
        except (RayActorError, WorkerCrashedError) as error:
            self._member = flight.member
            raise WorkerDied("worker-0", f"its process ended{last_words(error)}") from error
        except RayError as error:
            raise rank_error(error, 0, lambda: said_of_memory(self._plan, self._known.work, 1, {})) from error

    def _ask(self) -> None:
        self._pool.reap()
        if self._interrupted():
            raise Interrupted

    def _end_if_silent(self, member: Member) -> None:
        answered, _ = ray.wait([member.actor.alive.remote(self._known.name)], timeout=ANSWER_SECONDS)
        if not answered:
            self._pool.end(member)


def _seconds(plan: Plan) -> float:
    """An estimate of the time that one worker takes for all steps, by nodes of all chunks and the work of the whole."""
    nodes = sum((plan.chunks if step.kind != "single" else 1) * len(step.program.nodes) for step in plan.steps)
    overhead = nodes * DEFAULT.node
    return overhead if overhead > QUICK_SECONDS else overhead + program_seconds(plan.graph, plan.sizes)
