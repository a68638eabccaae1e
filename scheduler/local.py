"""The service behind `connect()` and `gradfleet serve`: a store, blobs, and unless others do it a runner (`running`).

The store is SQLite in the directory, or the database of a URL that several services may share. With a directory, jobs outlive the
service: one that did not end is taken up by the next service on the same directory. Without a runner a service accepts jobs and
tells of them, and never touches Ray. `close` stops jobs before their next chunk, and stops only what this service started.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphir import tensors, wire
from graphir.dataset import Dataset
from graphir.errors import GraphError, QueueFull, ServiceUnavailable
from graphir.graph import Graph
from graphir.node import Array
from graphir.partition.minibatch import Minibatch
from graphir.partition.plan import Plan
from scheduler.accept import bytes_of, check_options, ready, sizes_of, with_backend
from scheduler.driver.calibration import calibrate, keep, kept, rehearse
from scheduler.driver.loop import Prepared
from scheduler.driver.pool import Pool
from scheduler.driver.ray import RayPool
from scheduler.job.batching import minibatch, resolved
from scheduler.job.bell import Bell
from scheduler.job.events import CancelRequested, Found
from scheduler.job.naming import ValueGone
from scheduler.job.objects import open_blobs
from scheduler.job.seen import Record
from scheduler.job.spec import ArrayFeed, DatasetFeed, parse_spec
from scheduler.job.store import Store
from scheduler.job.values import Values
from scheduler.job.work import work_of
from scheduler.limits import MAX_EVENTS, MAX_GRAPH_NODES, MAX_GRAPHS, MAX_WAITING_JOBS
from scheduler.memory import Room
from scheduler.outlook import with_outlook
from scheduler.plans import Plans
from scheduler.running import LEASE_SECONDS, JobRunner
from workers import machine
from workers.fingerprint import fingerprint
from workers.recent import Recent
from workers.speeds import Measured

POLL_SECONDS, DATABASE = 0.5, "jobs.sqlite"


class EmbeddedService:
    """Jobs in this process. workers: Ray actors, by default one a core; 0 runs jobs in this process.

    memory: bytes that a worker may take, by default those of its machine or container divided by its workers. database: a URL
    instead of SQLite in the directory; storage: one for blobs. address: of a Ray that is there, else a local one is started.
    runs: whether jobs are run here.

    Where jobs are kept, one whose work was done before for the same user has that result at once.
    """

    def __init__(
        self,
        *,
        directory: str | os.PathLike[str] | None = None,
        workers: int | None = None,
        memory: int | None = None,
        database: str | None = None,
        address: str | None = None,
        runs: bool = True,
        lease: float = LEASE_SECONDS,
        storage: str | None = None,
    ) -> None:
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="gradfleet-") if directory is None else directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self.memory_limit, self._memory = memory, machine.memory() // max(1, self.workers)
        durable = not self._temporary
        self.store = Store(database or local_database(self.directory), durable=durable)
        self.values = Values(self.store, open_blobs(storage, self.directory, durable=durable))
        self._bell, self._plans = Bell(), Plans()
        self._graphs: Recent[str, Graph] = Recent(MAX_GRAPHS, MAX_GRAPH_NODES, len)
        self._dumped: Recent[str, str] = Recent(MAX_GRAPHS)
        self.runner: JobRunner | None = None
        try:
            if runs:
                self.runner = JobRunner(
                    self.store,
                    self.values,
                    self._prepare,
                    self._bell,
                    workers=self.workers,
                    address=address,
                    lease=lease,
                )
        except BaseException:
            self.close()
            raise

    @property
    def pool(self) -> Pool | None:
        """What performs jobs here, once one has come."""
        return None if self.runner is None else self.runner.pool

    def submit(self, graph: Graph, feeds: Mapping[str, Any], options: Mapping[str, Any], *, owner: str = "") -> str:
        """Check a job as far as possible without running it, keep it, and return its id."""
        with self._bell.calling():
            return self._submit(graph, feeds, options, owner)

    def _submit(self, graph: Graph, feeds: Mapping[str, Any], options: Mapping[str, Any], owner: str) -> str:
        values = ready(graph, feeds)
        sizes = sizes_of(graph, values)
        options = with_backend(resolved(graph, sizes, options))
        check_options(graph, values, options)
        self._check_room(bytes_of(values))
        self._plans.of(graph, sizes, options, _batch(graph, sizes, options), self._room(options.get("carry")))
        try:
            return self._accept(graph, values, options, owner)
        except ValueGone as gone:  # a graph that was dumped before was removed since, or a value just now
            self.values.forget(gone)
            self._dumped.clear()
            return self._accept(graph, values, options, owner)

    def _accept(
        self, graph: Graph, values: Mapping[str, Array | Dataset], options: Mapping[str, Any], owner: str
    ) -> str:
        """Keep the job and all that it names."""
        beside: dict[str, bytes] = {}
        data = {name: self._feed(value, beside) for name, value in values.items()}
        digest = self._kept_graph(graph, beside)
        spec = parse_spec({"graph": digest, "feeds": data, **options})
        now = time.time()
        work = None if self._temporary else work_of(spec)
        found = None if work is None or spec.fresh else self._found(owner, work, now)
        id = self.store.submit(spec, now, owner=owner, values=beside, work=work, found=found)
        self._dumped.put(graph.digest, digest)
        if self.runner is not None and found is None:
            self.runner.add(id, spec, now)
        return id

    def _found(self, owner: str, work: str, now: float) -> Found | None:
        """The result of the same work, if this user has had it done and it is there."""
        done = self.store.done(owner, work)
        if done is None or done.job.result is None or not self.values.has(done.job.result):
            return None
        return Found(now, done.id, done.job.result, done.job.fingerprint)

    def _check_room(self, more: int) -> None:
        if self.runner is not None:
            self.runner.check_room(more)
        elif (waiting := self.store.waiting()) >= MAX_WAITING_JOBS:
            raise QueueFull(f"{waiting} jobs are waiting, the limit; submit again when some have ended")

    def check_workers(self) -> None:
        """Raise what is wrong with the workers of jobs that run here, if anything is."""
        if self.runner is not None:
            self.runner.check()

    @property
    def workers_there(self) -> tuple[int, int]:
        """How many workers there are here, and how many were asked for."""
        return (0, 0) if self.runner is None else self.runner.workers

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
        return self._bell.wait(known, seconds)

    def calibrate(self, plan: Plan | None = None) -> Measured:
        """Measure the workers, for forecasts; what was measured is kept for all services of this user on such workers.

        With a plan, its programs are rehearsed, and what was measured before of such workers stays.
        """
        if not self.workers or self.runner is None:
            raise ServiceUnavailable("only Ray workers are measured; connect with workers=1 or more")
        pool = self.runner.started()
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
        while True:
            known = self._bell.rung
            found = seen.events(id, after) or (self.store.events(id, after, MAX_EVENTS) if ask else [])
            left = deadline - time.monotonic()
            if found or left <= 0:
                return [logged.to_json() for logged in found]
            ask = self._bell.wait(known, min(left, POLL_SECONDS)) == known or more()

    def cancel(self, id: str) -> None:
        """Ask the job to stop; a job that has ended stays as it is."""
        self.store.append(id, [CancelRequested(time.time())])
        if self.runner is not None:
            self.runner.cancelled(id)
        self._bell.ring()

    def result(self, id: str) -> dict[str, Array]:
        """The outputs of a job that succeeded."""
        digest = self.record(id).job.result
        if digest is None:
            raise GraphError(f"job {id} has no result yet; wait for it")
        found = tensors.read(self.values.view(digest), source=f"the result of job {id}")
        return {name: np.array(value) for name, value in found.items()}

    def close(self) -> None:
        """Stop the runner after its step, the workers, and Ray if it was started here."""
        if self.runner is not None:
            self.runner.close()
        self.store.close()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

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
        return Prepared(self._plans.of(graph, sizes, options, batch, self._room(spec.carry)), feeds)

    def _room(self, carry: Mapping[str, str] | None) -> Room:
        """What workers have; before they start, those of this machine are assumed."""
        there = None if self.pool is None else self.pool.memory
        return Room(self.memory_limit or there or self._memory, max(1, self.workers), carry or {})

    def _value(self, feed: ArrayFeed | DatasetFeed) -> Array | Dataset:
        if isinstance(feed, DatasetFeed):
            return feed.dataset()
        dtype = np.dtype(feed.dtype).newbyteorder("<")
        return np.frombuffer(self.values.view(feed.blob), dtype).reshape(feed.shape)


_ERROR = ("kind", "message", "traceback", "node", "worker")


def local_database(directory: Path) -> str:
    """The URL of the database in a service's directory."""
    return f"sqlite:///{directory.absolute() / DATABASE}"


def _batch(graph: Graph, sizes: Mapping[str, int], options: Mapping[str, Any]) -> Minibatch | None:
    return minibatch(graph, sizes, options, options.get("carry", {}))
