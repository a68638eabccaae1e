"""The runner: threads that take jobs from the store and perform them with a pool.

Several runners may share a database, on one machine or on many: each job has a lease (`job.leases`), and what a dead runner had
is taken up by another from its last checkpoint. Jobs of one runner share its workers, call by call, and take turns when there are
more of them (`job.line`); without workers one runs at a time, in this process. The pool is started with the first job. While the
database is away, jobs go on as far as they can, then wait.
"""

import gc
import logging
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from graphir.errors import GraphError, ServiceUnavailable
from scheduler.driver.head import look_for
from scheduler.driver.inline import InlinePool
from scheduler.driver.loop import JobLoop, Prepared
from scheduler.driver.patience import patiently
from scheduler.driver.pool import Pool
from scheduler.driver.process import is_gone, this_process
from scheduler.driver.ray import RayPool
from scheduler.job.bell import Bell
from scheduler.job.events import DeadlinePassed, TaskFailed
from scheduler.job.leases import Runners, Vigil
from scheduler.job.line import Line, Place
from scheduler.job.seen import Record
from scheduler.job.spec import ArrayFeed, JobSpec
from scheduler.job.state import Job
from scheduler.job.store import Lease, LeaseLost, Store
from scheduler.job.tables import DatabaseUnavailable
from scheduler.job.values import Values
from scheduler.limits import AT_ONCE

_LOG = logging.getLogger(__name__)
COURTESY_SECONDS = 0.2
"""So long a job that could begin waits for submissions under way, whose senders wait too."""
POLL_SECONDS = 0.25
"""How often to look for jobs that others have accepted or left."""
LEASE_SECONDS = 10.0
"""After this time without a beat a runner is taken for dead, unless it is known before."""
BEATS = 5
"""How often a runner shows that it lives in that time."""


class JobRunner:
    """Runs the jobs of a store. workers: Ray actors; 0 runs jobs in this process. address: of a Ray that is there."""

    def __init__(
        self,
        store: Store,
        values: Values,
        prepare: Callable[[Record], Prepared],
        bell: Bell,
        *,
        workers: int,
        address: str | None = None,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self._store, self._values, self._prepare, self._bell = store, values, prepare, bell
        self._workers, self._address, self._lease = workers, address, lease
        self.pool: Pool | None = None
        self._trouble: GraphError | None = None
        self._starting, self._renewal = threading.Lock(), threading.Lock()
        self._closed, self._done, self._renewing = threading.Event(), threading.Event(), False
        self._line = Line(AT_ONCE if workers else 1)
        self._runners = Runners(store, secrets.token_hex(16), this_process())
        self._vigil = Vigil(lease, is_gone)
        self._beat()
        self._look()
        self._keeper = threading.Thread(target=self._keep, name="gradfleet-keeper", daemon=True)
        self._keeper.start()
        self._start_threads()

    def check_room(self, more: int) -> None:
        """QueueFull unless one more job, whose arrays have so many bytes, may wait."""
        with self._bell.quiet():
            self._line.check_room(more)

    def add(self, id: str, spec: JobSpec, created: float) -> None:
        """A job was accepted here."""
        with self._bell.ringing():
            self._line.add(_place(id, spec, created))

    def cancelled(self, id: str) -> None:
        """A job was cancelled here."""
        with self._bell.ringing():
            self._line.cancelled(id)

    def started(self) -> Pool:
        """The pool, which is started if it was not."""
        with self._starting:
            if self.pool is None:
                self.pool = self._new_pool()
            return self.pool

    def _new_pool(self) -> Pool:
        ray = self._workers
        try:
            pool = RayPool(ray, address=self._address, headless=self._renew) if ray else InlinePool()
        except GraphError as error:
            self._trouble = error
            raise
        self._trouble = None
        return pool

    @property
    def workers(self) -> tuple[int, int]:
        """How many workers there are, and how many were asked for, those of a pool that was started."""
        pool = self.pool
        return (len(pool.members), pool.asked) if isinstance(pool, RayPool) else (0, 0)

    def check(self) -> None:
        """Raise what is wrong, if the workers were needed and could not be had."""
        if self._trouble is not None:
            raise self._trouble
        if self.pool is None and self._address is not None:
            look_for(self._address)
        there, asked = self.workers
        if asked and not there:
            raise ServiceUnavailable(f"none of {asked} worker(s) is there")

    def close(self) -> None:
        """Stop jobs before their next chunk, the workers, and Ray if it was started here."""
        with self._bell.ringing():
            self._closed.set()
        with self._renewal:
            self._end_pool()
        self._done.set()
        self._keeper.join()
        with suppress(DatabaseUnavailable):  # then others see that it is gone
            self._runners.leave()

    # ---- jobs ----

    def _start_threads(self) -> None:
        numbers = range(self._line.places)
        self._threads = [threading.Thread(target=self._run, name=f"gradfleet-runner-{k}", daemon=True) for k in numbers]
        for thread in self._threads:
            thread.start()

    def _end_pool(self) -> None:
        """End the threads, which set their jobs aside, and the pool."""
        for thread in self._threads:
            thread.join()
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def _renew(self) -> None:
        """Ray has lost its head: go on with another one, and with other threads, from the last checkpoints."""
        with self._renewal:
            if self._closed.is_set():
                return
            with self._bell.ringing():
                self._renewing = True
            self._end_pool()
            gc.collect()  # references to objects of the old Ray must not end in the new one
            self._renewing = False
            self._start_threads()

    def _stopping(self) -> bool:
        return self._closed.is_set() or self._renewing

    def _pool(self, job: str) -> Pool:
        pool = self.started()
        with self._bell.quiet():
            self._line.begins(job, time.monotonic())
        return pool

    def _run(self) -> None:
        while (id := self._next()) is not None:
            loop = JobLoop(
                self._store,
                self._values,
                lambda id=id: self._pool(id),  # type: ignore[misc]
                self._prepare,
                stop=self._stopping,
                gives_way=lambda id=id: self._gives_way(id),  # type: ignore[misc]
                lost=lambda: self._renewing,
                changed=self._bell.ring,
            )
            ended = self._performed(loop, id)
            with self._bell.ringing():
                if ended:
                    self._line.ended(id)
                else:
                    self._line.set_aside(id, time.monotonic(), got_on=loop.got_on)

    def _performed(self, loop: JobLoop, id: str) -> bool:
        """Run a job; whether it needs nothing more from here."""
        try:
            try:
                job = loop.run(id, self._runners.id)
            except (DatabaseUnavailable, LeaseLost):
                raise
            except Exception as error:  # noqa: BLE001  a defect must end its job, not the runner of all jobs
                job = patiently(partial(self._broken, id, error), self._stopping)
            return job.status.terminal
        except (LeaseLost, DatabaseUnavailable):  # without a database only if the runner is being stopped
            return True

    def _broken(self, id: str, error: Exception) -> Job:
        job = self._store.job(id).job
        kind, message = type(error).__name__, f"the runner failed: {error}; please report it"
        trace = "".join(traceback.format_exception(error))
        event = TaskFailed(time.time(), job.attempt, kind, message, trace, deterministic=True)
        return self._store.append(id, [event], lease=Lease(self._runners.id)).job

    def _next(self) -> str | None:
        while not self._stopping():
            self._bell.give_way(COURTESY_SECONDS)
            known = self._bell.rung
            with self._bell.quiet():
                id = self._line.next(time.monotonic())
            if id is not None:
                return id
            self._bell.wait(known, POLL_SECONDS)
        return None

    def _gives_way(self, id: str) -> bool:
        with self._bell.quiet():
            return self._line.gives_way(id, time.monotonic())

    # ---- leases ----

    def _keep(self) -> None:
        """Show that this runner lives, find those that do not, look for jobs, and end those that waited too long."""
        beaten = time.monotonic()
        while not self._done.wait(min(POLL_SECONDS, self._lease / BEATS)):
            due = time.monotonic() >= beaten + self._lease / BEATS
            beaten = time.monotonic() if due else beaten
            for duty in ((self._beat,) if due else ()) + (self._look, self._end_late):
                try:
                    duty()
                except DatabaseUnavailable:
                    self._vigil.forget()
                except GraphError as error:  # something in the database is damaged, which is no reason to lose all jobs
                    _LOG.error("the runner goes on in spite of this: %s", error)

    def _beat(self) -> None:
        self._runners.beat(time.time())
        self._bury()

    def _bury(self) -> None:
        for other in self._vigil.dead(self._runners.others(), time.monotonic()):
            self._runners.bury(other)

    def _look(self) -> None:
        """Take in jobs that were accepted or left elsewhere, and leave those that others have taken or ended."""
        with self._bell.quiet():
            known = self._line.known()
        found = set(self._store.to_run(self._runners.id))
        places = [_place(each.id, each.spec, each.created) for each in self._read(sorted(found - known))]
        with self._bell.quiet():
            for id in known - found:
                self._line.cancelled(id)
            for place in places:
                self._line.add(place)
        if places:
            self._bell.ring()

    def _read(self, ids: list[str]) -> list[Record]:
        """These jobs; one that cannot be read does not keep the others from running."""
        try:
            return self._store.records(ids)
        except DatabaseUnavailable:
            raise
        except GraphError as error:
            if len(ids) == 1:
                _LOG.error("job %s cannot be read: %s", ids[0], error)
                return []
        middle = len(ids) // 2
        return self._read(ids[:middle]) + self._read(ids[middle:])

    def _end_late(self) -> None:
        """End jobs that waited past their deadlines."""
        with self._bell.quiet():
            late = self._line.late(time.monotonic())
        for id in late:
            deadline = self._store.job(id).spec.deadline or 0.0
            self._store.append(id, [DeadlinePassed(time.time(), deadline)])
            self._bell.ring()


def _place(id: str, spec: JobSpec, created: float) -> Place:
    """A job's place in line, by the steady clock: once it stands there, a jump of the time of day changes nothing."""
    arrays: Mapping[str, int] = {feed.blob: feed.nbytes for feed in spec.feeds.values() if isinstance(feed, ArrayFeed)}
    since = time.monotonic() - max(0.0, time.time() - created)
    deadline = None if spec.deadline is None else since + spec.deadline
    return Place(id, spec.priority, since, arrays=arrays, deadline=deadline)
