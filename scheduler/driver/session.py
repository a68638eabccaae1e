"""One job on the actors of a pool.

Iterations are asked for in calls of about a quarter of a second, two at a time: the workers never wait for the driver.
Each rank keeps the carried values before its last calls, so after a failure the first call that did not end everywhere
is made again; a new worker gets the values from another rank.
"""

import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError, WorkerCrashedError

from graphir.dataset import Dataset
from graphir.errors import GraphError, ServiceUnavailable
from graphir.node import Array
from scheduler.driver.pool import Feeds, Interrupted, WorkerDied, put_together, task_error, wanted
from scheduler.driver.turns import Turn
from scheduler.place import place, ranks_for
from scheduler.plan import Plan
from workers.actor import Setup
from workers.mesh import PeerLost
from workers.route import Route
from workers.runner import Stopped

if TYPE_CHECKING:
    from scheduler.driver.ray import Member, RayPool

CALL_SECONDS = 0.25
"""How long one call should take."""
QUICKER = 8.0
"""How much shorter an iteration is taken to be after one call; what was seen of it may have been its end only."""
AHEAD = 2
"""Calls under way or queued at one time."""
ASK_SECONDS = 0.5
"""How often a waiting job asks whether it is still wanted."""
HANG_SECONDS, HANG_TIMES, ANSWER_SECONDS = 8.0, 5.0, 4.0
"""A call that takes longer than this, and than so many times what it took before, has its workers asked if they live."""
SETTLE_SECONDS = 10.0
"""How long workers may take to end a call that was cancelled."""
Ref = Any


@dataclass(frozen=True, slots=True)
class _Call:
    ticket: int
    step: int
    count: int
    refs: tuple[Ref, ...]
    turn: Turn


class RaySession:
    """One job on the actors of a pool."""

    def __init__(
        self,
        pool: "RayPool",
        name: str,
        number: int,
        plan: Plan,
        feeds: Feeds,
        carry: Mapping[str, str],
        fetch: Collection[str],
        interrupted: Callable[[], bool],
        priority: int,
    ) -> None:
        self._pool, self._name, self._number, self._plan = pool, name, number, plan
        self._interrupted, self._carry, self._kept = interrupted, carry, wanted(plan, carry, fetch)
        self._shown = [output for output in self._kept if output in fetch or output in carry.values()]
        self._needed = {step.program.digest: step.program for step in plan.steps}
        self._feeds = {name: feeds[name] for name in feeds.keys() - carry.keys()}
        self._puts: dict[tuple[str, int, int], Ref] = {}
        self._initial: dict[str, Ref] = {}
        self._restored = self._done = 0
        self._pace = CALL_SECONDS
        self._flying: deque[_Call] = deque()
        self._dead: list[int] = []
        self._setups: list[tuple[int, Ref]] = []
        self._members: list[Member] = []
        self._assign()
        self._share = pool.turns.join(priority)

    def _assign(self) -> None:
        """Give the ranks of the job to the workers that there are now."""
        self._pool.refresh()
        for member in self._members:
            member.actor.stop.remote(self._name)
        self._generation, members = self._pool.generation, list(self._pool.members)
        if not members:
            raise ServiceUnavailable("no worker is left; start some, or add machines")
        ranks = ranks_for(self._plan, len(members))
        first = self._number if ranks == 1 else 0  # small jobs are spread over the workers
        self._members = [members[(first + rank) % len(members)] for rank in range(ranks)]
        self._work = place(self._plan, ranks, self._carry, self._kept)
        self._route = Route(self._work, ranks)
        self._puts, self._dead = {}, []
        for rank in range(ranks):
            self._setup(rank)

    def restore(self, carried: Mapping[str, Array], step: int) -> None:
        """Set the carried values before a step."""
        self._initial = {name: ray.put(value) for name, value in carried.items()}
        self._restored = self._done = step
        self._restore_all(self._initial)

    def advance(self, most: int) -> list[dict[str, float]]:
        """Perform at least one and at most `most` iterations; the workers may go on with the others."""
        limit = self._done + most
        if self._changed() and not self._flying:
            held = self._held()
            self._assign()
            self._restore_all(held)
        self._launch(limit, waits=True)
        numbers = self._await(self._flying[0])
        call = self._flying.popleft()
        self._done = call.step + call.count
        if not self._changed():
            self._launch(limit, waits=False)
        return numbers

    def carried(self) -> dict[str, Array]:
        """The carried values, fetched."""
        if not self._work.carry:
            return {}
        ranks = self._holders(self._work.carry)
        parts = [self._get(rank, self._members[rank].actor.carried.remote(self._name, self._done)) for rank in ranks]
        return {name: put_together(self._plan, name, parts) for name in self._work.carry}

    def outputs(self) -> dict[str, Array]:
        """The fetched and carried outputs of the last iteration."""
        values = {self._plan.outputs[name] for name in self._shown}
        ranks = self._holders(values)
        parts = [self._get(rank, self._members[rank].actor.outputs.remote(self._name)) for rank in ranks]
        return {name: put_together(self._plan, self._plan.outputs[name], parts) for name in self._shown}

    def replace(self, worker: str) -> None:
        """Go on with other workers in the place of this dead one and of those that died with it."""
        others = {rank: self._pool.another(self._members[rank]) for rank in self._dead}
        held = self._held()
        if not all(others.values()) or self._changed():
            self._assign()
            self._restore_all(held)
            return
        self._members = [others.get(rank) or member for rank, member in enumerate(self._members)]
        addresses = tuple(member.address for member in self._members)
        for rank, member in enumerate(self._members):
            if rank in self._dead:
                self._setup(rank)
                self._restore(rank, held)
            else:
                self._setups.append((rank, member.actor.peers.remote(self._name, addresses)))
        self._dead = []

    def release(self) -> None:
        """End the job: workers and driver forget its values."""
        self._cancel()
        self._pool.turns.leave(self._share)
        self._feeds, self._setups, self._puts, self._initial = {}, [], {}, {}
        for member in self._members:
            member.actor.stop.remote(self._name)

    # ---- setting up ----

    def _setup(self, rank: int) -> None:
        member = self._members[rank]
        addresses = tuple(m.address for m in self._members)
        dtypes = {name: self._plan.graph.inputs[name].type.dtype.name for name in self._feeds}
        held = {name: self._feed(rank, name) for name in self._feeds}
        feeds = tuple((name, dtypes[name], begin, total) for name, (begin, total, _) in held.items())
        with self._pool.issuing():  # else another job could count on programs that are not on their way yet
            programs, forget = self._pool.programs(member, self._needed)
            setup = Setup(self._name, self._work, rank, addresses, programs, forget, feeds)
            ref = member.actor.setup.remote(setup, *(value for _, _, value in held.values()))
        self._setups.append((rank, ref))

    def _feed(self, rank: int, name: str) -> tuple[int, int | None, Any]:
        """The first row, the number of rows and the value that a rank is given: its own rows where it needs no others."""
        feed = self._feeds[name]
        if isinstance(feed, Dataset) or not feed.shape:
            return 0, None, feed
        begin, end = self._route.rows(rank, name, feed.shape[0])
        key = name, begin, end
        if key not in self._puts:
            self._puts[key] = ray.put(feed[begin:end])
        return begin, feed.shape[0], self._puts[key]

    def _restore(self, rank: int, carried: Mapping[str, Ref]) -> None:
        names, values = list(carried), list(carried.values())
        actor = self._members[rank].actor
        self._setups.append((rank, actor.restore.remote(self._name, self._done, names, *values)))

    def _restore_all(self, carried: Mapping[str, Ref]) -> None:
        for rank in range(len(self._members)):
            self._restore(rank, carried)

    def _held(self) -> dict[str, Ref]:
        """The carried values as far as ranks that live have them."""
        if self._done == self._restored:
            return self._initial
        alive = [rank for rank in range(len(self._members)) if rank not in self._dead]
        parts = [self._get(rank, self._members[rank].actor.carried.remote(self._name, self._done)) for rank in alive]
        whole = [name for name in self._carry if self._route.carried_whole(name) or not self._dead]
        have = [name for name in whole if any(name in part for part in parts)]
        return {name: ray.put(put_together(self._plan, name, parts)) for name in have}

    def _changed(self) -> bool:
        self._pool.refresh()
        return self._pool.generation != self._generation

    def _holders(self, values: Collection[str]) -> range:
        sharded = any(value in self._work.blocks for value in values)
        return range(len(self._members) if sharded else 1)

    # ---- calls ----

    def _launch(self, limit: int, *, waits: bool) -> None:
        """Send calls. The first one is waited for if `waits`; those ahead are not, since what is under way is awaited first."""
        issued = self._flying[-1].step + self._flying[-1].count if self._flying else self._done
        while len(self._flying) < AHEAD and issued < limit:
            count = max(1, min(limit - issued, int(CALL_SECONDS / self._pace)))
            turn = self._turn(count * self._pace, waits=waits and not self._flying)
            if turn is None:
                return
            with self._pool.issuing() as ticket:
                refs = tuple(m.actor.run.remote(self._name, ticket, issued, count) for m in self._members)
            self._flying.append(_Call(ticket, issued, count, refs, turn))
            issued += count

    def _turn(self, seconds: float, *, waits: bool) -> Turn | None:
        """Leave to send a call."""
        patience = ASK_SECONDS if waits else 0.0
        while (turn := self._pool.turns.take(self._share, self._members, seconds, patience)) is None and waits:
            self._ask()
        return turn

    def _await(self, call: _Call) -> list[dict[str, float]]:
        setups, self._setups = self._setups, []
        for rank, ref in setups:
            self._get(rank, ref)
        results = self._results(call)
        seconds = self._pool.turns.done(call.turn) / call.count
        self._pace = max(seconds, self._pace / QUICKER, 1e-6)
        return results[0]

    def _results(self, call: _Call) -> dict[int, list[dict[str, float]]]:
        """What each rank says of a call; the first error ends it for all, since ranks wait for one another."""
        results: dict[int, list[dict[str, float]]] = {}
        pending = {ref: rank for rank, ref in enumerate(call.refs)}
        patience = HANG_SECONDS + HANG_TIMES * self._pace * call.count
        asked = time.monotonic() + patience
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=ASK_SECONDS)
            for ref in ready:
                rank = pending.pop(ref)
                results[rank] = self._get(rank, ref)
                if results[rank] is None:  # nobody cancelled it: the values before the step are not there
                    self._cancel()
                    self._dead = [rank]
                    raise WorkerDied(f"worker-{rank}", "it lost the job's values", state_lost=True)
            if pending:
                self._ask()
            if pending and time.monotonic() > asked:
                self._kill_the_silent(list(pending.values()))
                asked = time.monotonic() + patience
        return results

    def _kill_the_silent(self, ranks: list[int]) -> None:
        """End workers that do not even say that they are alive; their calls then fail, and others take their ranks."""
        answers = {self._members[rank].actor.alive.remote(): rank for rank in ranks}
        _, silent = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        for ref in silent:
            self._pool.end(self._members[answers[ref]])

    def _get(self, rank: int, ref: Ref) -> Any:
        while True:
            try:
                return ray.get(ref, timeout=ASK_SECONDS)
            except GetTimeoutError:
                self._ask()
            except RayError as error:
                self._failed(rank, error)

    def _ask(self) -> None:
        if self._interrupted():
            self._cancel()
            raise Interrupted

    def _cancel(self) -> None:
        for call in self._flying:
            for member in self._members:
                member.actor.cancel.remote(call.ticket)
            self._pool.turns.done(call.turn)
        self._pool.turns.withdraw(self._share)
        self._flying.clear()

    def _failed(self, rank: int, first: RayError) -> NoReturn:
        """Let all ranks end what is under way, find out whose fault it is, and raise that."""
        calls = list(self._flying)
        self._cancel()
        errors = self._settled(calls)
        if not isinstance(_cause(first), PeerLost | Stopped):
            errors = errors | {rank: first}
        self._dead = sorted(
            rank for rank, error in errors.items() if isinstance(error, RayActorError | WorkerCrashedError)
        )
        for rank, error in errors.items():
            cause = _cause(error)
            if rank not in self._dead and not isinstance(cause, PeerLost | Stopped):
                raise task_error(cause, f"worker-{rank}", "".join(traceback.format_exception(error))) from error
        if not self._dead:
            raise task_error(_cause(first), f"worker-{rank}", "".join(traceback.format_exception(first))) from first
        worker = f"worker-{self._dead[0]}"
        raise WorkerDied(worker, f"its process ended ({len(self._dead)} in all)", state_lost=self._lost()) from first

    def _settled(self, calls: list[_Call]) -> dict[int, RayError]:
        """The error of each rank; one that does not end within the time allowed is killed."""
        errors: dict[int, RayError] = {}
        until = time.monotonic() + SETTLE_SECONDS
        for call in calls:
            for rank, ref in enumerate(call.refs):
                try:
                    ray.get(ref, timeout=max(0.0, until - time.monotonic()))
                except GetTimeoutError:
                    self._pool.end(self._members[rank])
                    errors[rank] = RayActorError()
                except RayError as error:
                    if rank not in errors or isinstance(_cause(errors[rank]), PeerLost | Stopped):
                        errors[rank] = error
        return errors

    def _lost(self) -> bool:
        """Whether carried values are gone with the dead."""
        if self._done == self._restored:
            return False
        alive = set(range(len(self._members))) - set(self._dead)
        return not all(self._held_by(name, value) & alive for name, value in self._work.carry.items())

    def _held_by(self, name: str, value: str) -> set[int]:
        if not self._route.carried_whole(name):
            return set()
        everywhere = set(range(len(self._members)))
        if value in self._work.inputs:
            return everywhere
        return {0} | set(self._route.wholes.get(value, ()) or self._route.gathers.get(value, ()))


def _cause(error: BaseException) -> BaseException:
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, BaseException) else error
    return GraphError(str(error)) if isinstance(error, RayError) else error
