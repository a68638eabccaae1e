"""The embedded service behind `connect()`: a SQLite store, blobs, and threads that run jobs.

Several jobs share the workers, call by call, and take turns in doing so when there are more of them (`job.line`); in this
process one runs at a time. The pool is started with the first job. With a directory, jobs outlive the service: one that did not end is taken up by the next service on the same
directory. `close` stops jobs before their next chunk, and stops only what this service started.
"""

import os
import shutil
import tempfile
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphir import tensors, wire
from graphir.dataset import Dataset
from graphir.errors import FeedError, GraphError, ShapeError
from graphir.feeds import bind_sizes, check_names, convert
from graphir.graph import Graph
from graphir.node import Array
from scheduler.driver.inline import InlinePool
from scheduler.driver.loop import JobLoop, Prepared
from scheduler.driver.pool import Feeds, Pool
from scheduler.driver.ray import RayPool
from scheduler.job.batching import minibatch, resolved
from scheduler.job.blobs import Blobs
from scheduler.job.events import CancelRequested, TaskFailed, event_to_json
from scheduler.job.line import Line
from scheduler.job.recent import Recent
from scheduler.job.seen import Record
from scheduler.job.spec import ArrayFeed, DatasetFeed, SpecError, parse_spec
from scheduler.job.state import Job
from scheduler.job.store import Store
from scheduler.job.values import Values
from scheduler.outlook import with_outlook
from scheduler.pipeline import compile
from scheduler.plan import Plan
from workers.data import open_source, take
from workers.minibatch import Minibatch

POLL_SECONDS = 0.5
AT_ONCE = 4
"""Jobs that share the workers at one time; the others wait in line, and come in when one of these ends or has had its slice."""

PLANS = 64
"""How many plans and graphs are kept for jobs that come again."""


class EmbeddedService:
    """Jobs in this process. workers: Ray actors, by default one a core; 0 runs jobs in this process."""

    def __init__(self, *, directory: str | os.PathLike[str] | None = None, workers: int | None = None) -> None:
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="gradfleet-") if directory is None else directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self.memory_limit = _machine_memory()
        self.pool: Pool | None = None
        durable = not self._temporary
        self._store = Store(f"sqlite:///{self.directory / 'jobs.sqlite'}", durable=durable)
        self._values = Values(self._store, Blobs(self.directory / "blobs", durable=durable))
        self._changed = threading.Condition()
        self._starting, self._planning = threading.Lock(), threading.Lock()
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()
        self._graphs: Recent[str, Graph] = Recent(PLANS)
        self._dumped: Recent[str, str] = Recent(PLANS)
        self._closing = False
        self._line = Line(AT_ONCE if self.workers else 1)
        self._look()
        self._threads = [
            threading.Thread(target=self._run, name=f"gradfleet-runner-{k}", daemon=True)
            for k in range(self._line.places)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, graph: Graph, feeds: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """Check a job as far as possible without running it, keep it, and return its id."""
        ready = _ready(graph, feeds)
        sizes = bind_sizes(graph, _shapes(ready))
        options = resolved(graph, sizes, options)
        self._check(graph, ready, sizes, options)
        beside: dict[str, bytes] = {}
        data = {name: self._feed(value, beside) for name, value in ready.items()}
        digest = self._kept_graph(graph, beside)
        spec = parse_spec({"graph": digest, "feeds": data, **options})
        id = self._store.submit(spec, time.time(), values=beside)
        self._dumped.put(graph.digest, digest)
        with self._notifying():
            self._line.add(id, spec.priority, time.time())
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
        workers: int | None = None,
    ) -> Plan:
        """The plan of a job that is not run, and what is expected of it on so many workers (by default its own)."""
        ready, carry = _ready(graph, feeds), dict(carry or {})
        sizes = bind_sizes(graph, _shapes(ready))
        given = resolved(graph, sizes, {"batch": batch, "shuffle": shuffle, "carry": carry})
        made = self._compiled(graph, sizes, chunk, cut, _batch(graph, sizes, given))
        return with_outlook(made, workers or self.workers or 1, carry)

    def job_plan(self, id: str) -> Plan:
        """The plan of a job."""
        return self._prepare(self._store.job(id)).plan

    def jobs(self) -> list[str]:
        """The ids of the latest jobs, the latest first."""
        return [record.id for record in self._store.jobs()]

    def feeds(self, id: str) -> dict[str, dict[str, Any]]:
        """What the inputs of the job were given, as JSON data."""
        return {name: feed.model_dump(mode="json") for name, feed in self._store.job(id).spec.feeds.items()}

    def status(self, id: str) -> dict[str, Any]:
        """Where the job is, and its error if it has one."""
        job = self._record(id).job
        error = None if job.error is None else {name: getattr(job.error, name) for name in _ERROR}
        return {"status": job.status.value, "step": job.step, "steps": job.steps, "error": error}

    def events(self, id: str, after: int = 0, wait: float = 0.0) -> list[dict[str, Any]]:
        """The events after a number, as JSON data with their "seq"; waits for one at most so many seconds."""
        deadline, seen = time.monotonic() + wait, self._store.seen
        ask = wait <= 0 or seen.record(id) is None  # of a job that runs here, what happens is seen at once
        with self._changed:
            while not (found := seen.events(id, after) or (self._store.events(id, after) if ask else [])):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                ask = not self._changed.wait(min(left, POLL_SECONDS))
        return [{"seq": logged.seq, **event_to_json(logged.event)} for logged in found]

    def cancel(self, id: str) -> None:
        """Ask the job to stop; a job that has ended stays as it is."""
        with self._notifying():
            self._store.append(id, [CancelRequested(time.time())])
            self._line.cancelled(id)

    def result(self, id: str) -> dict[str, Array]:
        """The outputs of a job that succeeded."""
        digest = self._record(id).job.result
        if digest is None:
            raise GraphError(f"job {id} has no result yet; wait for it")
        found = tensors.read(self._values.view(digest), source=f"the result of job {id}")
        return {name: np.array(value) for name, value in found.items()}

    def close(self) -> None:
        """Stop the runner after its step, the workers, and Ray if it was started here."""
        with self._notifying():
            self._closing = True
        for thread in self._threads:
            thread.join()
        if self.pool is not None:
            self.pool.close()
            self.pool = None
        self._store.close()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _record(self, id: str) -> Record:
        """The job; one that was seen to have ended is not asked for again."""
        seen = self._store.seen.record(id)
        return seen if seen is not None and seen.job.status.terminal else self._store.job(id)

    def _check(self, graph: Graph, feeds: Feeds, sizes: Mapping[str, int], options: Mapping[str, Any]) -> None:
        for name in options.get("fetch") or ():
            if name not in graph.outputs:
                raise SpecError(f"fetch names {name!r}; the graph's outputs are {list(graph.outputs)}")
        for name, output in options.get("carry", {}).items():
            _check_carry(graph, feeds, name, output)
        _unsupported(options)
        batch, check = _batch(graph, sizes, options), bool(options.get("check_finite"))
        self._compiled(
            graph,
            sizes,
            options.get("chunk"),
            options.get("cut"),
            batch,
            check_finite=check,
            memory_limit=self.memory_limit,
        )

    def _compiled(
        self,
        graph: Graph,
        sizes: Mapping[str, int],
        chunk: Mapping[str, int] | None,
        cut: list[str] | None,
        batch: Minibatch | None,
        **policy: Any,
    ) -> Plan:
        """The plan, made anew only if none of the latest ones was made for the same; its rows are those of the batch."""
        if batch is not None:
            sizes = {**sizes, batch.dim: batch.size}
        facts = (
            dict(sizes),
            dict(chunk or {}),
            cut,
            chunk is None,
            policy.get("check_finite", False),
            policy.get("memory_limit"),
        )
        key = graph.digest, repr(facts)
        with self._planning:
            made = self._plans.get(key)
        if made is None:
            made = compile(graph, sizes, cut=cut, chunk=chunk, **policy)
        with self._planning:
            self._plans[key] = made
            self._plans.move_to_end(key)
            while len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        return replace(made, batch=batch)

    def _feed(self, value: Array | Dataset, beside: dict[str, bytes]) -> dict[str, Any]:
        if isinstance(value, Dataset):
            return {"kind": "dataset", **value.to_json()}
        stored = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        blob = self._values.put(stored.reshape(-1).view(np.uint8).data if stored.size else b"", beside)
        return {"kind": "array", "blob": blob, "dtype": value.dtype.name, "shape": list(value.shape)}

    def _kept_graph(self, graph: Graph, beside: dict[str, bytes]) -> str:
        """The digest of the graph's bytes; they are kept unless the graph came not long ago."""
        known = self._dumped.get(graph.digest)
        if known is None:
            known = self._values.put(wire.dump(graph), beside)
            self._graphs.put(known, graph)
        return known

    def _graph(self, digest: str) -> Graph:
        graph = self._graphs.get(digest)
        if graph is None:
            graph = wire.load(self._values.view(digest).tobytes())
            self._graphs.put(digest, graph)
        return graph

    def _prepare(self, record: Record) -> Prepared:
        spec = record.spec
        graph = self._graph(spec.graph)
        feeds = {name: self._value(feed) for name, feed in spec.feeds.items()}
        cut = None if spec.cut is None else list(spec.cut)
        sizes = bind_sizes(graph, _shapes(feeds))
        batch = minibatch(graph, sizes, spec.batch, spec.shuffle, spec.carry)
        check, limit = spec.check_finite, self.memory_limit
        plan = self._compiled(graph, sizes, spec.chunk, cut, batch, check_finite=check, memory_limit=limit)
        return Prepared(plan, feeds)

    def _value(self, feed: ArrayFeed | DatasetFeed) -> Array | Dataset:
        if isinstance(feed, DatasetFeed):
            return feed.dataset()
        dtype = np.dtype(feed.dtype).newbyteorder("<")
        return np.frombuffer(self._values.view(feed.blob), dtype).reshape(feed.shape)

    def _pool(self) -> Pool:
        with self._starting:
            if self.pool is None:
                self.pool = RayPool(self.workers) if self.workers else InlinePool()
            return self.pool

    def _run(self) -> None:
        while (id := self._next()) is not None:
            loop = JobLoop(
                self._store,
                self._values,
                self._pool,
                self._prepare,
                stop=lambda: self._closing,
                gives_way=lambda id=id: self._gives_way(id),  # type: ignore[misc]
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
            while not self._closing:
                id = self._line.next(time.time())
                if id is not None:
                    return id
                if not self._changed.wait(POLL_SECONDS):  # now and then a look all the same
                    self._look()
        return None

    def _gives_way(self, id: str) -> bool:
        with self._changed:
            return self._line.gives_way(id, time.time())

    def _look(self) -> None:
        """Take in jobs that were left here, or come from elsewhere."""
        for record in self._store.unfinished():
            self._line.add(record.id, record.spec.priority, record.created)

    def _broken(self, id: str, error: Exception) -> Job:
        job = self._store.job(id).job
        kind, message = type(error).__name__, f"the runner failed: {error}; please report it"
        event = TaskFailed(time.time(), job.attempt, kind, message, _trace(error), deterministic=True)
        return self._store.append(id, [event]).job

    def _notify(self) -> None:
        with self._notifying():
            pass

    @contextmanager
    def _notifying(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()


_ERROR = ("kind", "message", "traceback", "node", "worker")


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _ready(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, Array | Dataset]:
    """The feeds with arrays of the inputs' dtypes; datasets are checked by their headers."""
    check_names(graph, feeds)
    ready: dict[str, Array | Dataset] = {}
    for name, node in graph.inputs.items():
        value = feeds[name]
        if isinstance(value, Dataset):
            value = take(value)
            convert(name, np.empty(0, open_source(value).dtype), node.type)
        ready[name] = value if isinstance(value, Dataset) else convert(name, value, node.type)
    bind_sizes(graph, _shapes(ready))
    return ready


def _shapes(feeds: Feeds) -> dict[str, tuple[int, ...]]:
    return {n: open_source(v).shape if isinstance(v, Dataset) else v.shape for n, v in feeds.items()}


def _batch(graph: Graph, sizes: Mapping[str, int], options: Mapping[str, Any]) -> Minibatch | None:
    return minibatch(graph, sizes, options.get("batch"), options.get("shuffle", 0), options.get("carry", {}))


def _machine_memory() -> int:
    """The bytes of main memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_carry(graph: Graph, feeds: Feeds, name: str, output: str) -> None:
    if name not in graph.inputs:
        raise SpecError(f"carry names input {name!r}; the graph's inputs are {list(graph.inputs)}")
    if output not in graph.outputs:
        raise SpecError(f"carry names output {output!r}; the graph's outputs are {list(graph.outputs)}")
    source, target = graph.outputs[output].type, graph.inputs[name].type
    if source != target:
        raise ShapeError(f"carry feeds output {output!r} of type {source} to input {name!r} of type {target}")
    if isinstance(feeds[name], Dataset):
        raise FeedError(f"input {name!r} is carried and so needs an array to begin with, not a dataset")


def _unsupported(options: Mapping[str, Any]) -> None:
    if options.get("backend", "numpy") != "numpy":
        raise SpecError(f"backend {options['backend']!r} is not in this version; use 'numpy'")
