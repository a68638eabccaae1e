"""The pool of Ray actors, which several jobs share: calls of all are queued at the actors in the order of issue.

Each worker has a contiguous range of a job's chunks. The driver holds references only: values stay in the
cluster, except the numbers to watch and what `outputs` and `carried` fetch. The driver owns every reference,
so a worker's death loses nothing that a repeated step needs. The first call that failed, in the order of
issue, is the one that is reported.
"""

import itertools
import os
import threading
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from graphir import wire
from graphir.dataset import Dataset
from graphir.errors import GraphError, ServiceUnavailable
from graphir.graph import Graph
from graphir.node import Array
from scheduler.driver.phases import Phase, phases, work
from scheduler.driver.pool import Feeds, Interrupted, WorkerDied, never, task_error, wanted
from scheduler.plan import Plan
from workers.actor import Worker, cancel_from_outside
from workers.tree import chunk_range

START_SECONDS = 120.0
ASK_SECONDS = 0.5
"""How often a waiting job asks whether it is still wanted."""
Ref = Any
Call = tuple[int, Ref]


class RayPool:
    """`workers` actors on the Ray that this process is connected to, or on a local one that is started."""

    def __init__(self, workers: int, *, object_store_memory: int | None = None) -> None:
        if workers < 1:
            raise ServiceUnavailable(f"a pool needs at least one worker, not {workers}; give workers=1 or more")
        self._started = not ray.is_initialized()
        if self._started:
            _start_ray(workers, object_store_memory)
        self._lock = threading.Lock()
        self._sessions = itertools.count(1)
        self._programs: dict[str, bytes] = {}
        self._known: list[set[str]] = [set() for _ in range(workers)]
        self.actors: list[Any] = [Worker.remote() for _ in range(workers)]
        try:
            self.pids()
        except (GetTimeoutError, RayActorError) as error:
            self.close()
            raise ServiceUnavailable(
                f"{workers} workers did not start within {START_SECONDS:g} s; ask for fewer or free CPUs ({error})"
            ) from error

    def pids(self) -> list[int]:
        """The process of each worker."""
        found: list[int] = ray.get([actor.pid.remote() for actor in self.actors], timeout=START_SECONDS)
        return found

    def open(
        self,
        plan: Plan,
        feeds: Feeds,
        carry: Mapping[str, str],
        fetch: Collection[str],
        interrupted: Callable[[], bool] = never,
    ) -> "RaySession":
        """Begin a job: programs and feeds go out; what fails on the way is raised by the first step."""
        name = f"{os.getpid()}-{next(self._sessions)}"
        return RaySession(self, name, plan, feeds, carry, fetch, interrupted)

    def worker(self, number: int, dead: Any = None) -> Any:
        """The actor with a number; another one where it is the `dead` one, which several jobs may find so."""
        with self._lock:
            if self.actors[number] is dead:
                ray.kill(dead)
                self.actors[number] = Worker.remote()
                self._known[number] = set()
            return self.actors[number]

    def teach(self, number: int, programs: Mapping[str, Graph]) -> Ref:
        """Send a worker the programs that it does not know."""
        with self._lock:
            new = programs.keys() - self._known[number]
            for digest in new:
                if digest not in self._programs:
                    self._programs[digest] = wire.dump(programs[digest])
            self._known[number] |= new
            return self.actors[number].learn.remote({digest: self._programs[digest] for digest in new})

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []
        if self._started:
            ray.shutdown()


class RaySession:
    """One job on the actors of a pool."""

    def __init__(
        self,
        pool: RayPool,
        name: str,
        plan: Plan,
        feeds: Feeds,
        carry: Mapping[str, str],
        fetch: Collection[str],
        interrupted: Callable[[], bool],
    ) -> None:
        self._pool, self._name, self._interrupted = pool, name, interrupted
        self._plan, self._carry, self._work = plan, carry, work(plan)
        self._keep, self._numbers = wanted(plan, carry, fetch)
        self._shown = [output for output in self._keep if output in fetch or output in carry.values()]
        self._phases = phases(plan, self._keep, carry)
        self._needed = {step.program.digest: step.program for step in plan.steps}
        held = {input_: feeds[input_] for input_ in feeds.keys() - carry.keys()}
        self._feeds = {n: v if isinstance(v, Dataset) else ray.put(v) for n, v in held.items()}
        self._carried: dict[str, Ref] = {}
        self._outputs: dict[str, Ref] = {}
        self._setups: list[Call] = []
        self._actors = [pool.worker(number) for number in range(len(pool.actors))]
        for number in range(len(self._actors)):
            self._setup(number)

    def restore(self, carried: Mapping[str, Array]) -> None:
        """Set the carried values."""
        self._carried = {name: ray.put(value) for name, value in carried.items()}

    def step(self) -> dict[str, float]:
        """Perform one iteration."""
        calls, self._setups = self._setups, []
        values = dict(self._carried)
        parts: list[Ref] = []
        for phase in self._phases:
            if phase.kind == "map":
                parts += self._map(phase, values, calls)
            else:
                self._finish(phase, values, parts, calls)
        outputs = {name: values[self._plan.outputs[name]] for name in self._keep}
        watched = [outputs[name] for name in self._numbers]
        numbers = self._actors[0].scalars.remote(self._numbers, *watched)
        for call in calls:
            self._get(call)
        scalars: dict[str, float] = self._get((0, numbers))
        self._outputs = outputs
        self._carried = {name: outputs[output] for name, output in self._carry.items()}
        return scalars

    def carried(self) -> dict[str, Array]:
        """The carried values, fetched."""
        return {name: self._get((0, ref)) for name, ref in self._carried.items()}

    def outputs(self) -> dict[str, Array]:
        """The fetched and carried outputs of the last iteration."""
        return {name: self._get((0, self._outputs[name])) for name in self._shown}

    def replace(self, worker: str) -> None:
        """Go on with another worker in the place of a dead one."""
        number = int(worker.removeprefix("worker-"))
        self._actors[number] = self._pool.worker(number, dead=self._actors[number])
        self._setup(number)

    def release(self) -> None:
        """End the job: workers and driver forget its values."""
        self._carried, self._outputs, self._feeds, self._setups = {}, {}, {}, []
        for actor in self._actors:
            actor.stop.remote(self._name)

    def _range(self, number: int) -> tuple[int, int]:
        return chunk_range(number, len(self._actors), self._plan.chunks)

    def _setup(self, number: int) -> None:
        actor = self._actors[number]
        self._setups.append((number, self._pool.teach(number, self._needed)))
        self._setups.append((number, actor.setup.remote(self._name, self._work, *self._range(number))))
        for name, feed in self._feeds.items():
            dtype = self._plan.graph.inputs[name].type.dtype.name
            self._setups.append((number, actor.hold.remote(self._name, name, feed, dtype)))

    def _map(self, phase: Phase, values: dict[str, Ref], calls: list[Call]) -> list[Ref]:
        parts = []
        wholes = [values[name] for name in phase.needs]
        for number, actor in enumerate(self._actors):
            method = actor.map.options(num_returns=2)
            part, status = method.remote(self._name, phase.first, phase.last, phase.needs, *wholes)
            parts.append(part)
            calls.append((number, status))
        return parts

    def _finish(self, phase: Phase, values: dict[str, Ref], parts: list[Ref], calls: list[Call]) -> None:
        collected = []
        for number, actor in enumerate(self._actors if phase.gathers else ()):
            chunks, status = actor.collect.options(num_returns=2).remote(self._name, phase.gathers)
            collected.append(chunks)
            calls.append((number, status))
        method = self._actors[0].finish.options(num_returns=len(phase.gives) + 1)
        wholes = [values[name] for name in phase.needs]
        arguments = self._name, phase.first, phase.last, phase.needs, phase.gives, len(collected)
        refs = method.remote(*arguments, *wholes, *parts, *collected)
        refs = refs if isinstance(refs, list) else [refs]
        values |= dict(zip(phase.gives, refs[:-1], strict=True))
        calls.append((0, refs[-1]))

    def _get(self, call: Call) -> Any:
        number, ref = call
        while True:
            try:
                return ray.get(ref, timeout=ASK_SECONDS)
            except GetTimeoutError:
                if self._interrupted():
                    for actor in self._actors:
                        cancel_from_outside.remote(actor, self._name)
                    raise Interrupted from None
            except RayError as error:
                _raise(error, f"worker-{number}")


def _raise(error: RayError, worker: str) -> NoReturn:
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, RayError):
            _raise(cause, worker)
        raise task_error(cause, worker, "".join(traceback.format_exception(error))) from error
    if isinstance(error, RayActorError | WorkerCrashedError):
        raise WorkerDied(worker, f"its process ended ({type(error).__name__})") from error
    if isinstance(error, ObjectLostError):
        raise WorkerDied(worker, "values it needed are lost", state_lost=True) from error
    raise task_error(GraphError(str(error)), worker) from error


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
