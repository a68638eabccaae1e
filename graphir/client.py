"""The client: `connect()`, `Client`, `Job`.

The embedded service is found through the entry-point group `graphir.services`, so that the language never
imports the scheduler. A service takes graphs and arrays and gives JSON data and arrays; `Service` is all that
the client asks of it.
"""

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from tqdm import tqdm

from graphir.errors import GraphError, JobCancelled, JobFailed, LimitError, QueueFull, ServiceUnavailable
from graphir.graph import Graph
from graphir.story import in_notebook
from graphir.sweep import Sweep, groups, sweep
from graphir.timeline import chrome_trace

Array = np.ndarray[Any, Any]
GROUP = "graphir.services"
ENDED = ("succeeded", "failed", "cancelled")
GOING_ON = ("started", "resumed", "worked", "step_done", "checkpointed")
"""Events after which a job goes on."""
WAIT_SECONDS = 5.0


class Service(Protocol):
    """What runs jobs."""

    def submit(self, graph: Graph, feeds: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """Accept a job; its id."""

    def plan(
        self,
        graph: Graph,
        feeds: Mapping[str, Any],
        *,
        chunk: Mapping[str, int] | None = None,
        cut: list[str] | None = None,
        carry: Mapping[str, str] | None = None,
        batch: int | Mapping[str, int] | None = None,
        shuffle: int | bool = True,
        parts: int = 1,
        workers: int | None = None,
    ) -> Any:
        """The plan of a job that is not run."""

    def calibrate(self, plan: Any = None) -> Any:
        """Measure the workers for forecasts, or rehearse a plan."""

    def job_plan(self, id: str) -> Any:
        """The plan of a job."""

    def jobs(self) -> list[str]:
        """The ids of jobs, the latest first."""

    def feeds(self, id: str) -> dict[str, dict[str, Any]]:
        """What the inputs of a job were given."""

    def status(self, id: str) -> dict[str, Any]:
        """status, step, steps and error."""

    def events(self, id: str, after: int = 0, wait: float = 0.0) -> list[dict[str, Any]]:
        """Events after a number."""

    def cancel(self, id: str) -> None:
        """Stop a job."""

    def result(self, id: str) -> dict[str, Array]:
        """The outputs of a job that succeeded."""

    def close(self) -> None:
        """Stop what was started."""


class Job:
    """A submitted job."""

    def __init__(self, service: Service, id: str) -> None:
        self._service, self.id = service, id

    @property
    def status(self) -> str:
        """queued, running, succeeded, failed or cancelled."""
        return str(self._service.status(self.id)["status"])

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """Wait for the outputs; JobFailed, JobCancelled, or TimeoutError after `timeout` seconds."""
        for _ in self._follow(timeout):
            pass
        state = self._service.status(self.id)
        if state["status"] != "succeeded":
            raise _error(self.id, state)
        return self._service.result(self.id)

    def events(self) -> Iterator[dict[str, Any]]:
        """What has happened and what happens until the job ends, as JSON data."""
        for batch in self._follow(None):
            yield from batch

    def progress(self) -> None:
        """Show a live bar on standard error until the job ends."""
        state = self._service.status(self.id)
        with tqdm(total=state["steps"], desc=f"job {self.id[-6:]}", unit="step") as bar:
            for event in self.events():
                if event["type"] in ("step_done", "found"):
                    numbers = {name: f"{float(value):.4g}" for name, value in event.get("scalars", ())}
                    bar.set_postfix(numbers, refresh=False)
                    bar.update(event.get("step", state["steps"] - 1) + 1 - bar.n)

    def cancel(self) -> None:
        """Stop the job after the step under way."""
        self._service.cancel(self.id)

    def feeds(self) -> dict[str, dict[str, Any]]:
        """What each input was given, as JSON data: an array by digest, or a dataset and its files with their etags."""
        return self._service.feeds(self.id)

    def plan(self) -> Any:
        """How the job is cut and run."""
        return self._service.job_plan(self.id)

    def timeline(self, path: str | os.PathLike[str]) -> None:
        """Write the job's steps so far as a Chrome trace (chrome://tracing, Perfetto)."""
        Path(path).write_text(json.dumps(chrome_trace(self._so_far())))

    def _so_far(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while page := self._service.events(self.id, events[-1]["seq"] if events else 0):
            events += page
        return events

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.status}>"

    def _repr_html_(self) -> str:
        return in_notebook(self.id, self._service.status(self.id), self._so_far())

    def _follow(self, timeout: float | None) -> Iterator[list[dict[str, Any]]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        after, may_have_ended = 0, False
        while True:
            ended = may_have_ended and self._service.status(self.id)["status"] in ENDED
            left = WAIT_SECONDS if deadline is None else deadline - time.monotonic()
            batch = self._service.events(self.id, after, 0.0 if ended else max(0.0, min(left, WAIT_SECONDS)))
            if batch:
                after, may_have_ended = batch[-1]["seq"], batch[-1]["type"] not in GOING_ON
                yield batch
                if batch[-1]["type"] == "finished":  # nothing can follow
                    return
                if timeout is not None and left <= 0 and self.status not in ENDED:  # more may come all the while
                    raise self._late(timeout)
            elif ended:
                return
            elif left > 0:
                may_have_ended = True
            elif timeout is not None:
                raise self._late(timeout)

    def _late(self, timeout: float) -> TimeoutError:
        return TimeoutError(f"job {self.id} is {self.status} after {timeout:g} s; wait longer or cancel it")


class Client:
    """A connection to a service; a context manager that closes what `connect` started."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop what `connect` started."""
        self.service.close()

    def submit(
        self, graph: Graph, feeds: Mapping[str, Any], *, fetch: Sequence[str] | None = None,
        cut: Sequence[str] | None = None, chunk: Mapping[str, int] | None = None, carry: Mapping[str, str] | None = None,
        steps: int = 1, epochs: int | None = None, batch: int | Mapping[str, int] | None = None, shuffle: int | bool = True,
        parts: int = 1, checkpoint_every: int | None = None, backend: str = "numpy", reproducible: bool = True,
        check_finite: bool = False, deadline: float | None = None, retries: int = 3, priority: int = 0,
        fresh: bool = False, name: str | None = None, key: str | None = None,
    ) -> Job:  # fmt: skip
        """Send a job; what is wrong with graph, feeds or options is raised here, and QueueFull while too many jobs wait.

        batch: rows of a named dimension that each step takes, such as {"n": 256} (a number if only one dimension is named);
        `n` is then the size of the batch for the graph. Every input with that dimension is batched, so a carried one may
        not have it. shuffle: the seed of the order of rows, which is another one in each epoch and a function of seed and
        epoch alone (True: seed 0; False: in order). Rows that do not fill a batch are left out of their epoch. epochs: how often
        to go over the rows, instead of steps. Any worker may need any row, so each holds the batched inputs whole; with parts=16, a batch
        has as many rows from each of 16 contiguous parts of the data, shuffled within each, and workers hold theirs.

        priority: -10 to 10; jobs of a higher one begin first, and have four times as much of the workers a step. A job of a
        lower one moves up a step for every minute that it waits. fresh: run even where the result of equal work is kept.
        """
        options = {
            "fetch": None if fetch is None else list(fetch),
            "cut": None if cut is None else list(cut),
            "chunk": None if chunk is None else dict(chunk),
            "carry": None if carry is None else dict(carry),
            "steps": steps, "epochs": epochs, "batch": dict(batch) if isinstance(batch, Mapping) else batch,
            "shuffle": shuffle, "parts": parts, "checkpoint_every": checkpoint_every, "backend": backend,
            "reproducible": reproducible, "check_finite": check_finite, "deadline": None if deadline is None else float(deadline),
            "retries": retries, "priority": priority, "fresh": fresh, "name": name, "key": key,
        }  # fmt: skip
        return Job(self.service, self.service.submit(graph, feeds, options))

    def map(
        self, graph: Graph, feeds: Iterable[Mapping[str, Any]], *, batched: bool = True, **options: Any
    ) -> "Results":
        """One graph, many values; their results in order. options: as of `submit`.

        Points with feeds of the same shapes go together as one job over a new dimension, which may be cut like any other, as many
        as memory allows, where every op can be batched; what is alike at all points is sent once. Values are those of single jobs up to the rounding of
        products. While too many jobs wait, it waits for its own. With batched=False, `cut` or `chunk` there is a job for each point. `notes` of the result tells what was done.
        """
        points, carried = [dict(each) for each in feeds], options.get("carry") or {}
        together = batched and options.get("cut") is None and options.get("chunk") is None
        work = _Map(self, graph, points, options)
        for numbers in groups(graph, points, carried) if together else ([n] for n in range(len(points))):
            work.send(numbers)
        return work.results()

    def plan(
        self,
        graph: Graph,
        feeds: Mapping[str, Any],
        *,
        workers: int | None = None,
        chunk: Mapping[str, int] | None = None,
        cut: Sequence[str] | None = None,
        carry: Mapping[str, str] | None = None,
        batch: int | Mapping[str, int] | None = None,
        shuffle: int | bool = True,
        parts: int = 1,
    ) -> Any:
        """How a job would be cut, and what is expected of an iteration on so many workers: time, bytes sent, memory.

        The plan itself is the same for any number of workers.
        """
        listed = None if cut is None else list(cut)
        return self.service.plan(
            graph,
            feeds,
            chunk=chunk,
            cut=listed,
            carry=carry,
            batch=batch,
            shuffle=shuffle,
            parts=parts,
            workers=workers,
        )

    def calibrate(self, plan: Any = None) -> Any:
        """Measure the workers, in a few seconds in which nothing else should run: forecasts of plans are then by their speeds.

        With a plan, the workers also run each of its programs on made-up values, and forecasts for it, on any number of
        workers, are by these times: nearer, and it takes as long as some iterations. All is kept in the user's cache. No result
        depends on it, and no plan but for what is expected of it.
        """
        return self.service.calibrate(plan)

    def jobs(self) -> list[Job]:
        """The latest jobs, the latest first."""
        return [Job(self.service, id) for id in self.service.jobs()]

    def job(self, id: str) -> Job:
        """Find a job again."""
        self.service.status(id)
        return Job(self.service, id)


class Results(list[dict[str, Array]]):
    """What `map` gives: the outputs of each point in order, the jobs that made them, and how points were put together."""

    def __init__(self, outputs: Iterable[dict[str, Array]], jobs: Sequence[Job], notes: Sequence[str]) -> None:
        super().__init__(outputs)
        self.jobs, self.notes = list(jobs), list(notes)


class _Map:
    """The jobs of one `map`."""

    def __init__(
        self, client: Client, graph: Graph, points: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> None:
        self._client, self._graph, self._points, self._options = client, graph, points, options
        self._parts: list[tuple[list[int], Sweep | None, Job]] = []
        self._notes: list[str] = []
        self._awaited = 0

    def send(self, numbers: list[int]) -> None:
        """Send some points, as one job if that is possible."""
        if len(numbers) == 1:
            self._parts.append((numbers, None, self._submit(self._graph, self._points[numbers[0]], numbers)))
            return
        try:
            made = sweep(self._graph, [self._points[n] for n in numbers], self._options.get("carry") or {})
            job = self._submit(made.graph, made.feeds, numbers)
        except QueueFull:
            raise
        except LimitError as error:
            self._note(f"{len(numbers)} points are halved", error)
            half = len(numbers) // 2
            self.send(numbers[:half])
            self.send(numbers[half:])
        except GraphError as error:
            self._note(f"{len(numbers)} points are a job each", error)
            for number in numbers:
                self.send([number])
        else:
            self._parts.append((numbers, made, job))
            self._notes.append(f"{len(numbers)} points are one job, {job.id}")

    def results(self) -> Results:
        """Wait for all."""
        found: list[dict[str, Array]] = [{} for _ in self._points]
        for numbers, made, job in self._parts:
            out = job.result()
            for place, number in enumerate(numbers):
                found[number] = out if made is None else made.point(out, place)
        return Results(found, [job for _, _, job in self._parts], self._notes)

    def _submit(self, graph: Graph, feeds: Mapping[str, Any], numbers: list[int]) -> Job:
        options = dict(self._options)
        if options.get("key") is not None:
            options["key"] = f"{options['key']}/{numbers[0]}+{len(numbers)}"
        while True:
            try:
                return self._client.submit(graph, feeds, **options)
            except QueueFull:
                if self._awaited == len(self._parts):
                    raise
                deque(self._parts[self._awaited][2].events(), maxlen=0)  # until it ends
                self._awaited += 1

    def _note(self, what: str, error: GraphError) -> None:
        self._notes.append(f"{what}: {str(error).splitlines()[0]}")


def connect(
    url: str | None = None,
    *,
    workers: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    token: str | None = None,
    memory: int | None = None,
) -> Client:
    """A client of the service at a URL, or of an embedded one. token: what `gradfleet token create` gave for the URL.

    Of the embedded one: workers: Ray workers, by default one a core; directory: keeps jobs; memory: bytes that a worker
    has for a step, by default this machine's divided by its workers; what needs more is refused.
    """
    if url is not None:
        from graphir.remote import RemoteService  # what speaks HTTP is loaded only where it is used

        return Client(RemoteService(url, token))
    found = [point for point in entry_points(group=GROUP) if point.name == "embedded"]
    if not found:
        raise ServiceUnavailable("no embedded service is installed; pip install 'gradfleet[cluster]'")
    try:
        make = found[0].load()
    except ImportError as error:
        raise ServiceUnavailable(f"{error}; pip install 'gradfleet[cluster]'") from error
    service: Service = make(directory=directory, workers=workers, memory=memory)
    return Client(service)


def _error(id: str, state: Mapping[str, Any]) -> JobFailed | JobCancelled:
    error = state["error"] or {}
    if state["status"] == "cancelled":
        return JobCancelled(f"job {id}: {error.get('message', 'cancelled')}")
    trace = f"\n\n{error['worker'] or 'driver'} says:\n{error['traceback']}" if error.get("traceback") else ""
    return JobFailed(f"job {id} failed: {error.get('message')}{trace}")
