"""The embedded service behind `connect()`: a SQLite store, blobs, and threads that run jobs.

Several jobs share the workers, call by call, and take turns in doing so when there are more of them (`job.line`); in this
process one runs at a time. The pool is started with the first job. With a directory, jobs outlive the service: one that did not end is taken up by the next service on the same
directory. `close` stops jobs before their next chunk, and stops only what this service started.
"""

import gc
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from graphir import tensors, wire
from graphir.dataset import Dataset
from graphir.errors import GraphError, ServiceUnavailable
from graphir.graph import Graph
from graphir.node import Array
from graphir.partition.minibatch import Minibatch
from graphir.partition.plan import Plan
from scheduler.accept import bytes_of, check_options, ready, sizes_of
from scheduler.driver.calibration import calibrate, keep, kept, rehearse
from scheduler.driver.inline import InlinePool
from scheduler.driver.loop import JobLoop, Prepared
from scheduler.driver.pool import Pool
from scheduler.driver.ray import RayPool
from scheduler.job.batching import minibatch, resolved
from scheduler.job.blobs import Blobs
from scheduler.job.events import CancelRequested, DeadlinePassed, TaskFailed, event_to_json
from scheduler.job.line import Line, Place
from scheduler.job.recent import Recent
from scheduler.job.seen import Record
from scheduler.job.spec import ArrayFeed, DatasetFeed, JobSpec, parse_spec
from scheduler.job.state import Job
from scheduler.job.store import Store
from scheduler.job.values import Values
from scheduler.limits import AT_ONCE, MAX_EVENTS, MAX_GRAPH_NODES, MAX_GRAPHS
from scheduler.outlook import with_outlook
from scheduler.plans import Plans
from workers.fingerprint import fingerprint
from workers.speeds import Measured

POLL_SECONDS = 0.5
DATABASE = "jobs.sqlite"


class EmbeddedService:
    """Jobs in this process. workers: Ray actors, by default one a core; 0 runs jobs in this process.

    memory: bytes that a worker has for a step, by default this machine's divided by its workers.
    """

    def __init__(
        self,
        *,
        directory: str | os.PathLike[str] | None = None,
        workers: int | None = None,
        memory: int | None = None,
    ) -> None:
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="gradfleet-") if directory is None else directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self.memory_limit = memory or _machine_memory() // max(1, self.workers)
        self.pool: Pool | None = None
        durable = not self._temporary
        self.store = Store(f"sqlite:///{self.directory / DATABASE}", durable=durable)
        self.values = Values(self.store, Blobs(self.directory / "blobs", durable=durable))
        self._changed, self._changes = threading.Condition(), 0
        self._starting = threading.Lock()
        self._plans = Plans()
        self._graphs: Recent[str, Graph] = Recent(MAX_GRAPHS, MAX_GRAPH_NODES, len)
        self._dumped: Recent[str, str] = Recent(MAX_GRAPHS)
        self._closing, self._renewing, self._renewal = False, False, threading.Lock()
        self._line = Line(AT_ONCE if self.workers else 1)
        self._look()
        self._start_runners()

    def submit(self, graph: Graph, feeds: Mapping[str, Any], options: Mapping[str, Any], *, owner: str = "") -> str:
        """Check a job as far as possible without running it, keep it, and return its id."""
        values = ready(graph, feeds)
        sizes = sizes_of(graph, values)
        options = resolved(graph, sizes, options)
        check_options(graph, values, options)
        with self._changed:
            self._line.check_room(bytes_of(values))
        self._plans.of(graph, sizes, options, _batch(graph, sizes, options), self.memory_limit)
        beside: dict[str, bytes] = {}
        data = {name: self._feed(value, beside) for name, value in values.items()}
        digest = self._kept_graph(graph, beside)
        spec = parse_spec({"graph": digest, "feeds": data, **options})
        id = self.store.submit(spec, time.time(), owner=owner, values=beside)
        self._dumped.put(graph.digest, digest)
        with self._notifying():
            self._line.add(_place(id, spec, time.time()))
        return id

    def plan(
        self,
        graph: Graph,
        feeds: Mapping[str, Any],
        *,
        chunk: Mapping[str, int] | None = None,
        cut: list[str] | None = None,
        carry: Mapping[str, str] | None = None,
        batch: int | Mapping[str, int] | None = None,
        shuffle: int | bool | str = True,
        parts: int = 1,
        workers: int | None = None,
    ) -> Plan:
        """The plan of a job that is not run, and what is expected of it on so many workers (by default its own)."""
        carry = dict(carry or {})
        options = {"chunk": chunk, "cut": cut, "batch": batch, "shuffle": shuffle, "parts": parts, "carry": carry}
        return self.plan_for(graph, sizes_of(graph, ready(graph, feeds)), options, workers)

    def plan_for(
        self, graph: Graph, sizes: Mapping[str, int], options: Mapping[str, Any], workers: int | None = None
    ) -> Plan:
        """The same, where sizes are known."""
        options = resolved(graph, sizes, options)
        made = self._plans.of(graph, sizes, options, _batch(graph, sizes, options))
        return self._with_outlook(made, workers or self.workers or 1, options.get("carry") or {})

    def await_change(self, known: int, seconds: float) -> int:
        """Wait, at most so long, until more has happened to jobs here than is known; how much has."""
        with self._changed:
            self._changed.wait_for(lambda: self._changes != known, seconds)
            return self._changes

    def calibrate(self, plan: Plan | None = None) -> Measured:
        """Measure the workers, for forecasts; what was measured is kept for all services of this user on such workers.

        With a plan, its programs are rehearsed, and what was measured before of such workers stays.
        """
        if not self.workers:
            raise ServiceUnavailable("only Ray workers are measured; connect with workers=1 or more")
        pool = self._started()
        assert isinstance(pool, RayPool)
        before = kept(pool.members[0].kernels.digest) if plan is not None else None
        speeds = before or calibrate(pool)
        if plan is not None:
            speeds = rehearse(pool, plan, speeds)
        keep(speeds)
        return speeds

    def job_plan(self, id: str) -> Plan:
        """The plan of a job."""
        record = self.store.job(id)
        return self._with_outlook(self._prepare(record).plan, self.workers or 1, record.spec.carry)

    def jobs(self) -> list[str]:
        """The ids of the latest jobs, the latest first."""
        return [record.id for record in self.store.jobs()]

    def feeds(self, id: str) -> dict[str, dict[str, Any]]:
        """What the inputs of the job were given, as JSON data."""
        return {name: feed.model_dump(mode="json") for name, feed in self.store.job(id).spec.feeds.items()}

    def status(self, id: str) -> dict[str, Any]:
        """Where the job is, and its error if it has one."""
        job = self.record(id).job
        error = None if job.error is None else {name: getattr(job.error, name) for name in _ERROR}
        team = {"workers": job.workers, "asked": job.asked, "fingerprint": job.fingerprint}
        return {"status": job.status.value, "step": job.step, "steps": job.steps, **team, "error": error}

    def events(self, id: str, after: int = 0, wait: float = 0.0) -> list[dict[str, Any]]:
        """Some events after a number, as JSON data with their "seq"; waits for one at most so many seconds."""
        deadline, seen = time.monotonic() + wait, self.store.seen

        def more() -> bool:
            """Whether the store may have events that are not known here; what happens to a job that runs here is seen at once."""
            record = seen.record(id)
            return record is None or record.seq > after

        ask = wait <= 0 or more()
        with self._changed:
            while not (found := seen.events(id, after) or (self.store.events(id, after, MAX_EVENTS) if ask else [])):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                ask = not self._changed.wait(min(left, POLL_SECONDS)) or more()
        return [{"seq": logged.seq, **event_to_json(logged.event)} for logged in found]

    def cancel(self, id: str) -> None:
        """Ask the job to stop; a job that has ended stays as it is."""
        with self._notifying():
            self.store.append(id, [CancelRequested(time.time())])
            self._line.cancelled(id)

    def result(self, id: str) -> dict[str, Array]:
        """The outputs of a job that succeeded."""
        digest = self.record(id).job.result
        if digest is None:
            raise GraphError(f"job {id} has no result yet; wait for it")
        found = tensors.read(self.values.view(digest), source=f"the result of job {id}")
        return {name: np.array(value) for name, value in found.items()}

    def close(self) -> None:
        """Stop the runner after its step, the workers, and Ray if it was started here."""
        with self._notifying():
            self._closing = True
        with self._renewal:
            self._end_pool()
        self.store.close()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _start_runners(self) -> None:
        numbers = range(self._line.places)
        self._threads = [threading.Thread(target=self._run, name=f"gradfleet-runner-{k}", daemon=True) for k in numbers]
        for thread in self._threads:
            thread.start()

    def _end_pool(self) -> None:
        """End the runners, which set their jobs aside, and the pool."""
        for thread in self._threads:
            thread.join()
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def _renew(self) -> None:
        """Ray has lost its head: go on with another one, and with other threads, from the last checkpoints."""
        with self._renewal:
            if self._closing:
                return
            with self._notifying():
                self._renewing = True
            self._end_pool()
            gc.collect()  # references to objects of the old Ray must not end in the new one
            self._renewing = False
            self._start_runners()

    def _stopping(self) -> bool:
        return self._closing or self._renewing

    def _with_outlook(self, plan: Plan, workers: int, carry: Mapping[str, str]) -> Plan:
        """By measured speeds, if such workers were measured; more workers than there are here are on other machines."""
        speeds = kept(fingerprint().digest)
        if speeds is None:
            return with_outlook(plan, workers, carry)
        hosts = 1 if workers <= max(1, self.workers) else -(-workers // speeds.cores)
        return with_outlook(plan, workers, carry, speeds, hosts)

    def record(self, id: str) -> Record:
        """The job; one that was seen to have ended is not asked for again."""
        seen = self.store.seen.record(id)
        return seen if seen is not None and seen.job.status.terminal else self.store.job(id)

    def _feed(self, value: Array | Dataset, beside: dict[str, bytes]) -> dict[str, Any]:
        if isinstance(value, Dataset):
            return {"kind": "dataset", **value.to_json()}
        blob = self.values.put(tensors.as_bytes(value), beside)
        return {"kind": "array", "blob": blob, "dtype": value.dtype.name, "shape": list(value.shape)}

    def _kept_graph(self, graph: Graph, beside: dict[str, bytes]) -> str:
        """The digest of the graph's bytes; they are kept unless the graph came not long ago."""
        known = self._dumped.get(graph.digest)
        if known is None:
            known = self.values.put(wire.dump(graph), beside)
            self._graphs.put(known, graph)
        return known

    def _graph(self, digest: str) -> Graph:
        graph = self._graphs.get(digest)
        if graph is None:
            graph = wire.load(self.values.view(digest).tobytes())
            self._graphs.put(digest, graph)
        return graph

    def _prepare(self, record: Record) -> Prepared:
        spec = record.spec
        graph = self._graph(spec.graph)
        feeds = {name: self._value(feed) for name, feed in spec.feeds.items()}
        sizes = sizes_of(graph, feeds)
        options = {
            name: getattr(spec, name)
            for name in ("cut", "chunk", "check_finite", "batch", "shuffle", "parts", "backend")
        }
        batch = minibatch(graph, sizes, options, spec.carry)
        return Prepared(self._plans.of(graph, sizes, options, batch, self.memory_limit), feeds)

    def _value(self, feed: ArrayFeed | DatasetFeed) -> Array | Dataset:
        if isinstance(feed, DatasetFeed):
            return feed.dataset()
        dtype = np.dtype(feed.dtype).newbyteorder("<")
        return np.frombuffer(self.values.view(feed.blob), dtype).reshape(feed.shape)

    def _started(self) -> Pool:
        with self._starting:
            if self.pool is None:
                self.pool = RayPool(self.workers, headless=self._renew) if self.workers else InlinePool()
            return self.pool

    def _pool(self, job: str) -> Pool:
        pool = self._started()
        with self._changed:
            self._line.begins(job, time.time())
        return pool

    def _run(self) -> None:
        while (id := self._next()) is not None:
            loop = JobLoop(
                self.store,
                self.values,
                lambda id=id: self._pool(id),  # type: ignore[misc]
                self._prepare,
                stop=self._stopping,
                gives_way=lambda id=id: self._gives_way(id),  # type: ignore[misc]
                lost=lambda: self._renewing,
                changed=self._notify,
            )
            try:
                job = loop.run(id, f"embedded-{os.getpid()}")
            except Exception as error:  # noqa: BLE001  a defect must end its job, not the runner of all jobs
                job = self._broken(id, error)
            with self._notifying():
                if job.status.terminal:
                    self._line.ended(id)
                else:
                    self._line.set_aside(id, time.time(), got_on=loop.got_on)

    def _next(self) -> str | None:
        with self._changed:
            while not self._stopping():
                self._end_late()
                id = self._line.next(time.time())
                if id is not None:
                    return id
                if not self._changed.wait(POLL_SECONDS):  # now and then a look all the same
                    self._look()
        return None

    def _gives_way(self, id: str) -> bool:
        with self._changed:
            self._end_late()
            return self._line.gives_way(id, time.time())

    def _end_late(self) -> None:
        """End jobs that waited past their deadlines."""
        now = time.time()
        for id in self._line.late(now):
            deadline = self.store.job(id).spec.deadline or 0.0
            with self._notifying():
                self.store.append(id, [DeadlinePassed(now, deadline)])

    def _look(self) -> None:
        """Take in jobs that were left here, or come from elsewhere."""
        for record in self.store.unfinished():
            self._line.add(_place(record.id, record.spec, record.created))

    def _broken(self, id: str, error: Exception) -> Job:
        job = self.store.job(id).job
        kind, message = type(error).__name__, f"the runner failed: {error}; please report it"
        event = TaskFailed(time.time(), job.attempt, kind, message, _trace(error), deterministic=True)
        return self.store.append(id, [event]).job

    def _notify(self) -> None:
        with self._notifying():
            pass

    @contextmanager
    def _notifying(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changes += 1
            self._changed.notify_all()


_ERROR = ("kind", "message", "traceback", "node", "worker")


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _place(id: str, spec: JobSpec, created: float) -> Place:
    """A job's place in line."""
    arrays = {feed.blob: feed.nbytes for feed in spec.feeds.values() if isinstance(feed, ArrayFeed)}
    deadline = None if spec.deadline is None else created + spec.deadline
    return Place(id, spec.priority, created, arrays=arrays, deadline=deadline)


def _batch(graph: Graph, sizes: Mapping[str, int], options: Mapping[str, Any]) -> Minibatch | None:
    return minibatch(graph, sizes, options, options.get("carry", {}))


def _machine_memory() -> int:
    """The bytes of main memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
