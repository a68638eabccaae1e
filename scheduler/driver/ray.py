"""The pool of Ray actors, which several jobs share.

The driver says which iterations to perform; the workers of a job exchange values among themselves. Calls of all jobs are
queued at all actors in one order, so that no two wait for each other. A worker that is gone or does not answer any more is
replaced by another one; the others have kept the carried values, and the call is made again. Workers that cannot start
for want of CPUs stay asked for, which Ray's autoscaler sees, and join when they can.
"""

import itertools
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from graphir import wire
from graphir.errors import ServiceUnavailable
from graphir.graph import Graph
from scheduler.driver.pool import Feeds, never
from scheduler.driver.session import RaySession
from scheduler.driver.turns import Turns
from scheduler.plan import Plan
from workers.actor import Worker
from workers.mesh import Address, host

START_SECONDS = 120.0
GRACE_SECONDS = 15.0
"""How long a job waits for a worker to start before it goes on without."""
Ref = Any
PROGRAMS = 256
"""How many programs a worker keeps."""


@dataclass(eq=False)
class Member:
    """One worker of a pool, and the programs that it knows."""

    actor: Any
    pid: int
    address: Address
    known: OrderedDict[str, None] = field(default_factory=OrderedDict)
    successor: "Member | None" = None

    def missing(self, digests: Collection[str]) -> tuple[list[str], tuple[str, ...]]:
        """Which programs it has to be sent, and which it may forget."""
        new = [digest for digest in digests if digest not in self.known]
        for digest in digests:
            self.known[digest] = None
            self.known.move_to_end(digest)
        old = tuple(self.known)[: max(0, len(self.known) - max(PROGRAMS, len(digests)))]
        for digest in old:
            del self.known[digest]
        return new, old


class RayPool:
    """`workers` actors on the Ray that this process is connected to, or on a local one that is started."""

    def __init__(self, workers: int, *, object_store_memory: int | None = None) -> None:
        if workers < 1:
            raise ServiceUnavailable(f"a pool needs at least one worker, not {workers}; give workers=1 or more")
        self._started = not ray.is_initialized()
        if self._started:
            _start_ray(workers, object_store_memory)
        self._lock, self._issuing = threading.Lock(), threading.Lock()
        self._sessions, self._tickets = itertools.count(1), itertools.count(1)
        self.turns = Turns()
        self._programs: dict[str, bytes] = {}
        self._joining: dict[Ref, Any] = {}
        self.members: list[Member] = []
        self.generation = 0
        self.resize(workers)
        if not self._join(START_SECONDS, GRACE_SECONDS):
            self.close()
            raise ServiceUnavailable(f"no worker started within {START_SECONDS:g} s; free a CPU, or add machines")

    def resize(self, workers: int) -> None:
        """Ask for so many workers. Those that start later join then; jobs that run give up those that leave."""
        with self._lock:
            for _ in range(workers - len(self.members) - len(self._joining)):
                actor = Worker.remote()
                self._joining[actor.hello.remote()] = actor
            while len(self.members) > workers:
                ray.kill(self.members.pop().actor)
                self.generation += 1

    def refresh(self) -> None:
        """Take in workers that have started since."""
        if self._joining:
            self._join(0.0, 0.0)

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
    ) -> RaySession:
        """Begin a job: programs and feeds go out; what fails on the way is raised by the first `advance`."""
        number = next(self._sessions)
        return RaySession(self, f"{os.getpid()}-{number}", number, plan, feeds, carry, fetch, interrupted, priority)

    def another(self, dead: Member) -> Member | None:
        """The worker in the place of a dead one, which several jobs may find so; None if none can be had soon.

        Then there is one worker less until another can start.
        """
        with self._lock:
            if dead.successor is None and dead in self.members:
                ray.kill(dead.actor)
                actor = Worker.remote()
                asked = actor.hello.remote()
                place = self.members.index(dead)
                try:
                    dead.successor = self.members[place] = Member(actor, *ray.get(asked, timeout=GRACE_SECONDS))
                except (GetTimeoutError, RayActorError):
                    self._joining[asked] = actor
                    del self.members[place]
                    self.generation += 1
            return dead.successor

    def end(self, member: Member) -> None:
        """Kill a worker that does not answer; one on this machine by its process, since it may be stopped."""
        ray.kill(member.actor)
        if member.address.host == host():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(member.pid, signal.SIGKILL)

    def _join(self, patience: float, grace: float) -> bool:
        """Wait `patience` seconds for the first worker and `grace` for the others; whether there is any."""
        with self._lock:
            asked = list(self._joining)
            ray.wait(asked, num_returns=1, timeout=patience)
            ready, _ = ray.wait(asked, num_returns=len(asked), timeout=grace)
            for ref in ready:
                actor = self._joining.pop(ref)
                try:
                    self.members.append(Member(actor, *ray.get(ref)))
                except RayActorError:
                    ray.kill(actor)
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
        for actor in (*(member.actor for member in self.members), *self._joining.values()):
            ray.kill(actor)
        self.members, self._joining = [], {}
        if self._started:
            ray.shutdown()


def _start_ray(workers: int, object_store_memory: int | None) -> None:
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # those of calls that an interrupted job left behind
    try:
        ray.init(
            num_cpus=workers,
            object_store_memory=object_store_memory,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
    except (RuntimeError, ValueError, ConnectionError, OSError, RayError) as error:
        raise ServiceUnavailable(f"a local Ray cannot be started: {error}; is another one broken?") from error
