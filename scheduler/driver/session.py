"""One job on the actors of a pool.

Iterations are asked for in calls of about a quarter of a second, two at a time: the workers never wait for the driver.
Each rank keeps the carried values before its last calls, so after a failure the first call that did not end everywhere
is made again; a new worker gets the values from another rank.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import ray
from ray.exceptions import RayActorError, RayError, WorkerCrashedError

from graphir.dataset import Dataset
from graphir.node import Array
from graphir.partition.plan import Plan
from scheduler.driver.calls import ANSWER_SECONDS, Call, Calls, MadeWay, RankFailed, followed, last_words, rank_error
from scheduler.driver.lanes import Lanes
from scheduler.driver.members import Assignment, Member
from scheduler.driver.overseer import Straggler
from scheduler.driver.pool import (
    Feeds,
    TaskError,
    WorkerDied,
    put_together,
    said_of_memory,
    task_error,
    wanted,
)
from scheduler.job.events import Assembled, Event, Straggled
from scheduler.place import place, ranks_for
from workers.actor import Setup
from workers.iteration import Kept
from workers.mesh import PeerLost
from workers.route import Route

if TYPE_CHECKING:
    from scheduler.driver.ray import RayPool

Ref = Any


class RaySession:
    """One job on the actors of a pool."""

    def __init__(
        self,
        pool: "RayPool",
        job: Assignment,
        plan: Plan,
        feeds: Feeds,
        carry: Mapping[str, str],
        fetch: Collection[str],
        interrupted: Callable[[], bool],
    ) -> None:
        self._pool, self._job, self._name, self._plan = pool, job, job.name, plan
        self._news: list[Event] = []
        self._carry, self._kept = carry, wanted(plan, carry, fetch)
        self._shown = [output for output in self._kept if output in fetch or output in carry.values()]
        self._needed = {step.program.digest: step.program for step in plan.steps}
        self._feeds = {name: feeds[name] for name in feeds.keys() - carry.keys()}
        self._puts: dict[tuple[str, int, int], Ref] = {}
        self._initial: Mapping[str, Array] = {}
        self._stale = False
        self._restored = self._done = 0
        self._lanes = Lanes(plan)
        self._calls = Calls(pool, job.name, job.priority, plan, interrupted, self._lanes.take)
        self._dead: list[int] = []
        self._setups: list[tuple[int, Ref]] = []
        self._members: list[Member] = []
        try:
            self._assign()
        except BaseException:
            self._calls.leave()
            raise

    def _assign(self) -> None:
        """Give the ranks of the job to the workers that there are now."""
        self._pool.refresh()
        for member in self._members:
            member.actor.stop.remote(self._name)
        self._pool.wait_for_members(self._calls.ask)
        self._generation, members = self._pool.generation, self._job.fitting(self._pool.members)
        ranks = ranks_for(self._plan, len(members))
        first = self._job.number if ranks == 1 else 0  # small jobs are spread over the workers
        self._members = [members[(first + rank) % len(members)] for rank in range(ranks)]
        kinds = {member.kernels.digest: str(member.kernels) for member in members}
        self._news.append(
            Assembled(0.0, len(members), self._pool.asked, "+".join(sorted(kinds)), "; ".join(kinds.values()))
        )
        self._work = place(self._plan, ranks, self._carry, self._kept)
        self._route = Route(self._work, ranks)
        self._puts, self._setups, self._dead, self._stale = {}, [], [], False
        self._calls.members = self._members
        self._calls.overseer.begin(self._members)
        for rank in range(ranks):
            self._setup(rank)

    def restore(self, carried: Mapping[str, Array], step: int) -> None:
        """Set the carried values before a step."""
        self._initial = carried
        self._restored = self._done = step
        self._restore_all(_put(carried))

    def advance(self, most: int) -> list[dict[str, float]]:
        """Perform at least one and at most `most` iterations; the workers may go on with the others."""
        limit = self._done + most
        if (self._stale or self._changed()) and not self._calls.flying:
            held = self._held()
            self._assign()
            self._restore_all(held)
        call, numbers = self._next(limit)
        self._done = call.step + call.count
        if not self._changed():
            self._calls.launch(self._done, limit, waits=False)
        return numbers

    def _next(self, limit: int) -> tuple[Call, list[dict[str, float]]]:
        """The next call that all ranks have ended; a slow one is made again with another worker."""
        while True:
            self._calls.launch(self._done, limit, waits=True)
            setups, self._setups = self._setups, []
            try:
                return self._calls.first(setups)
            except RankFailed as failed:
                self._failed(failed)
            except Straggler as straggler:
                self._pass_on(straggler, self._calls.cancel())
            except MadeWay:
                self._make_way(self._calls.cancel())
            except PeerLost as stuck:
                self._settled(self._calls.cancel(), ())
                self._stale = True
                raise task_error(stuck, "worker-0") from stuck

    def carried(self) -> dict[str, Array]:
        """The carried values, fetched."""
        if not self._work.carry:
            return {}
        setups, self._setups = self._setups, []
        for rank, ref in setups:  # values may be asked for before that, while a worker is busy with another job
            self._get(rank, ref)
        ranks = self._holders(self._work.carry)
        parts = [
            self._get(rank, self._members[rank].actor.carried_now.remote(self._name, self._done)) for rank in ranks
        ]
        return {name: put_together(self._plan, name, parts) for name in self._work.carry}

    def outputs(self) -> dict[str, Array]:
        """The fetched and carried outputs of the last iteration."""
        values = {self._plan.outputs[name] for name in self._shown}
        ranks = self._holders(values)
        try:
            parts = [self._get(rank, self._members[rank].actor.outputs.remote(self._name)) for rank in ranks]
        except WorkerDied as lost:  # the carried values may be there, but not what else the last iteration made
            raise WorkerDied(lost.worker, lost.reason, state_lost=True) from lost
        return {name: put_together(self._plan, self._plan.outputs[name], parts) for name in self._shown}

    def replace(self, worker: str) -> None:
        """Go on with other workers in the place of this dead one and of those that died with it."""
        others = {rank: self._pool.another(self._members[rank]) for rank in self._dead}
        self._take_over(others, self._held())

    def _take_over(self, others: Mapping[int, Member | None], held: Mapping[str, Ref]) -> None:
        """Set up these workers in the place of dead ones, or all ranks anew if there are not enough."""
        if not all(other and self._job.fits(other) for other in others.values()) or self._changed():
            self._assign()
            self._restore_all(held)
            return
        self._members = [others.get(rank) or member for rank, member in enumerate(self._members)]
        self._calls.members = self._members
        self._calls.overseer.replaced(self._members)
        addresses = tuple(member.address for member in self._members)
        for rank, member in enumerate(self._members):
            if rank in self._dead:
                self._setup(rank)
                self._restore(rank, held)
            else:
                self._setups.append((rank, member.actor.peers.remote(self._name, addresses)))
        self._dead = []

    def news(self) -> list[Event]:
        """What has happened to the workers since the last call."""
        news, self._news = self._news, []
        return [*news, *self._lanes.news()]

    def release(self) -> None:
        """End the job: workers and driver forget its values."""
        self._feeds, self._setups, self._puts, self._initial = {}, [], {}, {}
        self._calls.leave()
        for member in self._members if not self._pool.headless else ():
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

    def _held(self, rescued: Sequence[Mapping[str, Kept]] = ()) -> dict[str, Ref]:
        """The carried values as far as ranks that live have them, or a slow one has given them."""
        if self._done == self._restored:
            return _put(self._initial)
        alive = [rank for rank in range(len(self._members)) if rank not in self._dead]
        parts = [self._get(rank, self._members[rank].actor.carried.remote(self._name, self._done)) for rank in alive]
        parts += rescued
        missing = len(parts) < len(self._members)
        whole = [name for name in self._carry if self._route.carried_whole(name) or not missing]
        have = [name for name in whole if any(name in part for part in parts)]
        return _put({name: put_together(self._plan, name, parts) for name in have})

    def _changed(self) -> bool:
        self._pool.refresh()
        return self._pool.generation != self._generation

    def _holders(self, values: Collection[str]) -> range:
        sharded = any(value in self._work.blocks for value in values)
        return range(len(self._members) if sharded else 1)

    # ---- faults ----

    def _get(self, rank: int, ref: Ref) -> Any:
        try:
            return self._calls.get(rank, ref)
        except RankFailed as failed:
            self._failed(failed)

    def _failed(self, failed: RankFailed) -> NoReturn:
        """Let all ranks end what is under way, find out whose fault it is, and raise that."""
        rank, first = failed.rank, failed.error
        if first is None:
            self._calls.cancel()
            self._dead = sorted({rank, *self._dead})
            raise WorkerDied(f"worker-{rank}", "it lost the job's values", state_lost=True)
        errors = self._settled(self._calls.cancel(), {rank} if isinstance(first, RayActorError) else ())
        if not followed(first):
            errors = errors | {rank: first}
        gone = _gone(errors)
        self._dead = sorted(gone.union(self._dead))
        self._stale = self._stale or not self._dead
        for other, error in errors.items():
            if other not in self._dead and not followed(error):
                raise self._task_error(other, error) from error
        if not self._dead:
            raise self._task_error(rank, first) from first
        dead = min(gone, default=self._dead[0])
        reason = f"its process ended ({len(self._dead)} in all){last_words(errors.get(dead, first))}; {self._bound()}"
        raise WorkerDied(f"worker-{dead}", reason, state_lost=self._lost()) from first

    def _task_error(self, rank: int, error: RayError) -> TaskError:
        return rank_error(error, rank, self._bound)

    def _bound(self) -> str:
        return said_of_memory(self._plan, self._work, len(self._members), self._carry)

    def _settled(self, calls: Sequence[Call], gone: Collection[int]) -> dict[int, RayError]:
        """The error of each rank of calls that end; workers that hang are ended, since they hold up the others."""
        while True:
            try:
                return self._calls.settled(calls, gone)
            except Straggler as straggler:
                self._pool.end(self._members[straggler.rank])
                self._tell(straggler)
                gone = {*gone, straggler.rank}

    def _make_way(self, calls: Sequence[Call]) -> None:
        """Let calls end, that others' come first."""
        try:
            errors = self._calls.settled(calls, ())
        except Straggler as straggler:
            self._pass_on(straggler, calls)
            return
        for rank, error in errors.items():
            self._failed(RankFailed(rank, error))

    def _tell(self, straggler: Straggler) -> None:
        self._news.append(Straggled(0.0, f"worker-{straggler.rank}", straggler.reason))

    def _pass_on(self, straggler: Straggler, calls: Sequence[Call]) -> None:
        """Give the rank of a slow worker to another one, with the values that it had, and make its calls again."""
        rank, slow = straggler.rank, self._members[straggler.rank]
        rescued = self._rescued(rank)
        other = self._pool.swap(slow, straggler.spare)
        gone = _gone(self._settled(calls, {rank}))
        self._dead, reason = sorted(gone.union(self._dead)), f"it was far slower than the others: {straggler.reason}"
        self._tell(straggler)
        if len(gone) > 1 or (not rescued and self._lost()):
            raise WorkerDied(f"worker-{rank}", reason, state_lost=self._lost())
        self._take_over({rank: other}, self._held(rescued))

    def _rescued(self, rank: int) -> list[Mapping[str, Kept]]:
        """The carried values that a worker has whose call does not end, if it gives them."""
        if self._done == self._restored:
            return []
        asked = self._members[rank].actor.carried_now.remote(self._name, self._done)
        try:
            return [ray.get(asked, timeout=ANSWER_SECONDS)]
        except RayError:
            return []

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


def _gone(errors: Mapping[int, RayError]) -> set[int]:
    return {rank for rank, error in errors.items() if isinstance(error, RayActorError | WorkerCrashedError)}


def _put(values: Mapping[str, Array]) -> dict[str, Ref]:
    return {name: ray.put(value) for name, value in values.items()}
