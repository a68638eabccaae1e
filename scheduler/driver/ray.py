"""The pool of Ray actors, which several jobs share.

The driver says which iterations to perform; the workers of a job exchange values among themselves. Calls of all jobs are
queued at all actors in one order, so that no two wait for each other. A worker that is gone or does not answer any more is
replaced by another one; the others have kept the carried values, and the call is made again.
"""

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from graphir import wire
from graphir.errors import ServiceUnavailable
from graphir.graph import Graph
from scheduler.driver.pool import Feeds, never
from scheduler.driver.session import RaySession
from scheduler.plan import Plan
from workers.actor import Worker
from workers.mesh import Address

START_SECONDS = 120.0
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
        self._programs: dict[str, bytes] = {}
        self.members: list[Member] = []
        actors = [Worker.remote() for _ in range(workers)]
        try:
            self.members = [_member(actor) for actor in actors]
        except (GetTimeoutError, RayActorError) as error:
            for actor in actors:
                ray.kill(actor)
            self.close()
            raise ServiceUnavailable(
                f"{workers} workers did not start within {START_SECONDS:g} s; ask for fewer or free CPUs ({error})"
            ) from error

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
    ) -> RaySession:
        """Begin a job: programs and feeds go out; what fails on the way is raised by the first `advance`."""
        number = next(self._sessions)
        return RaySession(self, f"{os.getpid()}-{number}", number, plan, feeds, carry, fetch, interrupted)

    def another(self, dead: Member) -> Member:
        """The worker in the place of a dead one, which several jobs may find so."""
        with self._lock:
            if dead.successor is None:
                ray.kill(dead.actor)
                dead.successor = _member(Worker.remote())
                self.members[self.members.index(dead)] = dead.successor
            return dead.successor

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
            ray.kill(member.actor)
        self.members = []
        if self._started:
            ray.shutdown()


def _member(actor: Any) -> Member:
    pid, address = ray.get(actor.hello.remote(), timeout=START_SECONDS)
    return Member(actor, pid, address)


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
