"""The pool of Ray actors, which several jobs share.

The driver says which iterations to perform; the workers of a job exchange values among themselves. Calls of all jobs are
queued at all actors in one order, so that no two wait for each other. A worker that is gone or does not answer any more is
replaced by another one; the others have kept the carried values, and the call is made again. Workers that cannot start
for want of CPUs stay asked for, which Ray's autoscaler sees, and join when they can.
"""

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from graphir import wire
from graphir.errors import ServiceUnavailable, VersionError
from graphir.graph import Graph
from graphir.partition.plan import Plan
from scheduler.driver.calls import ASK_SECONDS
from scheduler.driver.head import JoinedRay, OwnRay
from scheduler.driver.members import PROGRAMS, Assignment, Member, greeted, shares
from scheduler.driver.pool import Feeds, Session, never
from scheduler.driver.quick import Quick, QuickSession
from scheduler.driver.session import RaySession
from scheduler.driver.turns import Turns
from workers.actor import Worker
from workers.mesh import host

_LOG = logging.getLogger(__name__)
START_SECONDS = 120.0
GRACE_SECONDS = 15.0
"""How long a job waits for a worker to start before it goes on without."""
ABANDON_SECONDS = 30.0
"""How long a worker may stay in a kernel of a job that has been cancelled, while others wait for it."""
Ref = Any


class RayPool:
    """`workers` actors on the Ray that this process is connected to or that is at an address, or on a local one that is started."""

    def __init__(
        self,
        workers: int,
        *,
        address: str | None = None,
        object_store_memory: int | None = None,
        headless: Callable[[], None] = lambda: None,
    ) -> None:
        """headless: called in a thread when a Ray that was started here has lost its head; then close the pool."""
        if workers < 1:
            raise ServiceUnavailable(f"a pool needs at least one worker, not {workers}; give workers=1 or more")
        self._own: OwnRay | JoinedRay | None = None
        if not ray.is_initialized():
            self._own = JoinedRay(address) if address else OwnRay(workers, object_store_memory, headless)
        self._lock, self._issuing = threading.Lock(), threading.Lock()
        self._sessions, self._tickets = itertools.count(1), itertools.count(1)
        self.turns = Turns()
        self._programs: dict[str, bytes] = {}
        self._quick = Quick()
        self._joining: dict[Ref, Any] = {}
        self._abandoned: dict[Ref, tuple[Member, float]] = {}
        self.members: list[Member] = []
        self.generation = self.asked = 0
        self.refused: str | None = None
        self.resize(workers)
        joined = self._join(START_SECONDS, GRACE_SECONDS)
        if not joined or self.refused is not None:
            there = _cpus()
            self.close()
            if self.refused is not None:
                raise VersionError(self.refused)
            raise ServiceUnavailable(
                f"no worker started within {START_SECONDS:g} s; each needs one CPU, and {there}; free one, or add machines"
            )
        if len(self.members) < workers:
            _LOG.warning("%d of %d workers have started, for %s", len(self.members), workers, _cpus())

    def resize(self, workers: int) -> None:
        """Ask for so many workers. Those that start later join then; jobs that run give up those that leave."""
        with self._lock:
            self.asked = workers
            for _ in range(workers - len(self.members) - len(self._joining)):
                actor = Worker.remote()
                self._joining[actor.hello.remote()] = actor
            while self._joining and len(self.members) + len(self._joining) > workers:
                ray.kill(self._joining.popitem()[1])
            while len(self.members) > workers:
                self.end(self.members.pop())
                self.generation += 1

    def wait_for_members(self, ask: Callable[[], None]) -> None:
        """While there is none, wait for those that are asked for; ServiceUnavailable after a long time."""
        until = time.monotonic() + self.patience
        while not self.members:
            ask()
            if time.monotonic() > until:
                raise ServiceUnavailable("no worker is left, and none starts; free a CPU, or add machines")
            time.sleep(ASK_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Take in workers that have started since."""
        if self._joining:
            self._join(0.0, 0.0)

    @property
    def patience(self) -> float:
        """For how long a job without any worker waits for one."""
        return START_SECONDS

    @property
    def memory(self) -> int | None:
        """The bytes that each worker may take, whichever it is; None while there is none."""
        return min(shares(self.members), default=None)

    def pids(self) -> list[int]:
        """The process of each worker."""
        return [member.pid for member in self.members]

    def open(
        self,
        plan: Plan,
        feeds: Feeds,
        carry: Mapping[str, str],
        fetch: Collection[str],
        interrupted: Callable[[], bool] = never,
        priority: int = 0,
        *,
        reproducible: bool = True,
        kernels: str | None = None,
    ) -> Session:
        """Begin a job: programs and feeds go out; what fails on the way is raised by the first `advance`."""
        number = next(self._sessions)
        job = Assignment(f"{os.getpid()}-{number}", number, priority, reproducible, kernels if reproducible else None)
        known = self._quick.known(plan, feeds, carry, fetch)
        if known is not None:
            return QuickSession(self, job, known, plan, feeds, interrupted)
        return RaySession(self, job, plan, feeds, carry, fetch, interrupted)

    @property
    def headless(self) -> bool:
        """Whether the Ray that was started here has lost its head process: nothing that it runs will last."""
        return self._own is not None and self._own.lost

    def another(self, dead: Member) -> Member | None:
        """The worker in the place of a dead one, which several jobs may find so; None if none can be had soon.

        Then there is one worker less until another can start.
        """
        with self._lock:
            if dead.successor is not None or dead not in self.members:
                return dead.successor
            if dead.asked is None:
                ray.kill(dead.actor)
                actor = Worker.remote()
                dead.asked = actor, actor.hello.remote()
            actor, greeting = dead.asked
        try:
            found = greeted(actor, greeting, GRACE_SECONDS)
        except (GetTimeoutError, RayActorError, VersionError):
            found = None
        return self._seat(dead, found, actor, greeting)

    def _seat(self, dead: Member, found: Member | None, actor: Any, greeting: Ref) -> Member | None:
        with self._lock:
            if dead not in self.members:
                return dead.successor
            if found is not None:
                dead.successor = self.members[self.members.index(dead)] = found
                return found
            self._joining[greeting] = actor
            self.members.remove(dead)
            self.generation += 1
            return None

    def abandon(self, member: Member, call: Ref) -> None:
        """Nobody wants this call any more; a worker that is still at it after a long time is ended, since others need it."""
        with self._lock:
            self._abandoned[call] = member, time.monotonic()

    def reap(self) -> None:
        """End workers that do not get away from a call that nobody wants."""
        if not self._abandoned:
            return
        with self._lock:
            ended, _ = ray.wait(list(self._abandoned), num_returns=len(self._abandoned), timeout=0)
            for call in ended:
                del self._abandoned[call]
            late = time.monotonic() - ABANDON_SECONDS
            for call, (member, since) in list(self._abandoned.items()):
                if since < late:
                    del self._abandoned[call]
                    self.end(member)

    def spare(self) -> tuple[Any, Ref]:
        """Another worker that is asked for beside those there are, and its greeting to come; perhaps on another machine."""
        actor = Worker.options(scheduling_strategy="SPREAD").remote()
        return actor, actor.hello.remote()

    def scout(self) -> Any:
        """A worker beside those that were asked for, which waits for no CPU: what it computes is not a job's."""
        return Worker.options(num_cpus=0, scheduling_strategy="SPREAD").remote()

    def swap(self, slow: Member, spare: Member | None) -> Member | None:
        """End a slow worker; the one in its place: the spare, or one that another job has found, or a new one."""
        self.end(slow)
        with self._lock:
            if spare is not None and slow.successor is None and slow in self.members:
                slow.successor = self.members[self.members.index(slow)] = spare
        if spare is not None and slow.successor is not spare:
            ray.kill(spare.actor)
        return self.another(slow)

    def end(self, member: Member) -> None:
        """Kill a worker that does not answer; one on this machine by its process, since it may be stopped."""
        ray.kill(member.actor)
        if member.address.host == host():
            with suppress(OSError):
                if (
                    b"ray::" in Path(f"/proc/{member.pid}/cmdline").read_bytes()
                ):  # else it ended, and another has its number
                    os.kill(member.pid, signal.SIGKILL)

    def _join(self, patience: float, grace: float) -> bool:
        """Wait `patience` seconds for the first worker and `grace` for the others; whether there is any."""
        with self._lock:
            asked = list(self._joining)
            ready, _ = ray.wait(asked, num_returns=1, timeout=patience)
            if ready:
                ready, _ = ray.wait(asked, num_returns=len(asked), timeout=grace)
            for ref in ready:
                actor = self._joining.pop(ref)
                try:
                    self.members.append(greeted(actor, ref))
                except RayActorError:
                    ray.kill(actor)
                except VersionError as error:
                    ray.kill(actor)
                    self.refused = str(error)
                    _LOG.warning("a worker is left out: %s", error)
                self.generation += 1
            return bool(self.members)

    @contextmanager
    def issuing(self) -> Iterator[int]:
        """While calls are sent to the workers of one job, with a ticket that grows: all workers get them in one order."""
        with self._issuing:
            yield next(self._tickets)

    def programs(self, member: Member, needed: Mapping[str, Graph]) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """The programs that a worker has to be sent, and those that it may forget."""
        with self._lock:
            new, old = member.missing(needed.keys())
            for digest in new:
                if digest not in self._programs:
                    self._programs[digest] = wire.dump(needed[digest])
            sent = {digest: self._programs[digest] for digest in new}
            while len(self._programs) > PROGRAMS:
                del self._programs[next(iter(self._programs))]
            return sent, old

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        for member in self.members:
            self.end(member)
        for actor in self._joining.values():
            ray.kill(actor)
        self.members, self._joining, self._abandoned = [], {}, {}
        if self._own is not None:
            self._own.stop()


def _cpus() -> str:
    """How many CPUs the cluster has, in words."""
    there, free = (ask().get("CPU", 0.0) for ask in (ray.cluster_resources, ray.available_resources))
    return f"the cluster has {there:g} CPU(s), {free:g} of them free"
