"""The Ray actor: bytes in, values out; nothing clever.

A worker serves several jobs, each with a runner of its own, one call after the other. Calls of several iterations come to
all workers of a job in the same order, and each goes on by itself, exchanging values with the others over the mesh.
It gets each program's bytes once and keeps it by digest. The groups control and values answer while a call is under
way: they say what the worker is at, and hand out values of other calls.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from graphir import wire
from graphir.graph import Graph
from graphir.node import Array
from workers import blas
from workers.activity import Sign
from workers.calibrate import calibrate, exchange
from workers.executor import Executor
from workers.fingerprint import Fingerprint, fingerprint
from workers.iteration import Kept
from workers.machine import memory
from workers.mesh import Address, Mesh
from workers.rehearse import rehearse
from workers.runner import Runner, Stopped, Task
from workers.speeds import Speeds, Table, program_key
from workers.work import Work

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Setup:
    """A job as one of its ranks gets it. programs: bytes by digest, of those that are new to this worker.

    forget: digests that the driver does not count on any more. feeds: name, dtype, first row and number of rows.
    """

    job: str
    work: Work
    rank: int
    peers: tuple[Address, ...]
    programs: Mapping[str, bytes]
    forget: tuple[str, ...]
    feeds: tuple[tuple[str, str, int, int | None], ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """The process that a worker is, where others reach it, what it computes with, and the bytes that its machine has."""

    pid: int
    address: Address
    kernels: Fingerprint
    memory: int


class Shell:
    """What the actor does, one call after the other."""

    def __init__(self) -> None:
        self._programs: dict[str, Graph] = {}
        self._runners: dict[str, Runner] = {}
        self._ready: OrderedDict[str, tuple[Runner, Setup]] = OrderedDict()
        self._cancelled: set[int] = set()
        self._current: Runner | None = None
        self._mesh = Mesh(ray.util.get_node_ip_address())

    def hello(self) -> Hello:
        """Who this worker is."""
        return Hello(os.getpid(), self._mesh.address, fingerprint(), memory())

    def setup(self, setup: Setup, *values: Any) -> None:
        """Begin a job, or begin it again: `values` are its feeds."""
        runner = self._runner(setup)
        for (name, dtype, begin, total), value in zip(setup.feeds, values, strict=True):
            runner.hold(name, value, dtype, begin, total)
        self._runners[setup.job] = runner

    def once(self, job: tuple[str, Setup | None, int, int, Sequence[Any]]) -> Any:
        """A whole job of one step: its numbers and values. What is set up under a name is kept for the next, `most` in all.

        In one argument, since each takes a tenth of a millisecond. UNKNOWN if the name is, None if the call was cancelled.
        """
        name, setup, most, ticket, values = job
        if setup is not None:
            self._ready[name] = self._runner(setup), setup
        if name not in self._ready:
            return UNKNOWN
        self._ready.move_to_end(name)
        while len(self._ready) > most:
            self._ready.popitem(last=False)
        runner, known = self._ready[name]
        try:
            for (feed, dtype, begin, total), value in zip(known.feeds, values, strict=True):
                runner.hold(feed, value, dtype, begin, total)
            numbers = self._run(runner, ticket, 0, 1)
            return None if numbers is None else (numbers[0], runner.outputs())
        finally:
            runner.clear()

    def calibrate(self) -> tuple[Speeds, int]:
        """How fast this worker is now, and how many cores its machine lets it use."""
        return calibrate(time.perf_counter), len(os.sched_getaffinity(0))

    def rehearse(self, programs: Sequence[tuple[bytes, dict[str, int], int]]) -> dict[str, Table]:
        """Seconds of runs of programs at some sizes, of which an iteration has so many, by `program_key`."""
        found = {}
        for data, sizes, tasks in programs:
            program = wire.load(data)
            table = rehearse(time.perf_counter, program, sizes, tasks)
            if table is not None:
                found[program_key(program, sizes)] = table
        return found

    def exchange(self, ticket: int, peer: Address, first: bool) -> tuple[float, float]:
        """Measure messages with another worker that does the same."""
        self._mesh.begin(ticket)
        return exchange(time.perf_counter, self._mesh, ticket, peer, first)

    def peers(self, job: str, peers: tuple[Address, ...]) -> None:
        """Another worker has taken a rank of the job."""
        self._job(job).peers = peers

    def restore(self, job: str, step: int, names: Sequence[str], *values: Array) -> None:
        """Set the carried values before a step."""
        self._job(job).restore(step, dict(zip(names, values, strict=True)))

    def run(self, job: str, ticket: int, step: int, count: int) -> tuple[list[dict[str, float]], Sign] | None:
        """Perform iterations; `ticket` numbers the calls of all jobs. The numbers to watch, and what this worker did so far.

        None if the call was cancelled.
        """
        runner = self._job(job)
        numbers = self._run(runner, ticket, step, count)
        return None if numbers is None else (numbers, runner.activity.sign(self._mesh.moved))

    def _run(self, runner: Runner, ticket: int, step: int, count: int) -> list[dict[str, float]] | None:
        self._mesh.begin(ticket)
        self._cancelled = {known for known in self._cancelled if known >= ticket}
        runner.stopped = lambda: ticket in self._cancelled
        self._current = runner
        try:
            with runner.activity.call():
                return runner.run(ticket, step, count)
        except Stopped:
            return None
        finally:
            self._current = None

    def carried(self, job: str, step: int) -> dict[str, Kept]:
        """The carried values before a step as far as they are here."""
        return self._job(job).carried(step)

    @ray.method(concurrency_group="values")  # type: ignore[untyped-decorator]  # Ray annotates this in part
    def outputs(self, job: str) -> dict[str, Kept]:
        """The values to keep of the last iteration as far as they are here; other jobs' calls are not waited for."""
        return self._job(job).outputs()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def cancel(self, ticket: int) -> None:
        """Let a call end before its next chunk; this one does not wait for it."""
        self._cancelled.add(ticket)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def alive(self, job: str) -> Sign | None:
        """What it is at for a job, whatever is under way; None if it does nothing for this one."""
        runner = self._current
        if runner is None or runner is not self._runners.get(job):
            return None
        return runner.activity.sign(self._mesh.moved)

    @ray.method(concurrency_group="values")  # type: ignore[untyped-decorator]
    def task(self, job: str) -> Task | None:
        """What it is computing for a job, if anything."""
        runner = self._runners.get(job)
        return None if runner is None else runner.task

    def repeat(self, digest: str, program: bytes, task: Task | None) -> float | None:
        """Seconds that a task of another worker takes here; None if that worker is not at this program any more."""
        if task is None or task.program != digest:
            return None
        executor = Executor(wire.load(program), task.backend, threads=1, frugal=True)
        with blas.threads(1):
            begun = time.perf_counter()
            executor.run(task.feeds, task.sizes, task.offsets, check_finite=task.check_finite)
            return time.perf_counter() - begun

    @ray.method(concurrency_group="values")  # type: ignore[untyped-decorator]
    def carried_now(self, job: str, step: int) -> dict[str, Kept]:
        """As `carried`, but not after the calls before it: one may be under way that does not end, or another job's."""
        return self._job(job).carried(step)

    def stop(self, job: str) -> None:
        """End the job: forget its feeds and values."""
        self._runners.pop(job, None)

    def _runner(self, setup: Setup) -> Runner:
        for digest, data in setup.programs.items():
            self._programs[digest] = wire.load(data)
        needed = {step.program: self._programs[step.program] for step in setup.work.steps}
        for digest in setup.forget:
            self._programs.pop(digest, None)
        runner = Runner(setup.work, needed, setup.rank, setup.peers, self._mesh)
        runner.activity.clock = time.monotonic
        return runner

    def _job(self, job: str) -> Runner:
        if job not in self._runners:
            raise RuntimeError(f"this worker was not set up for job {job}")
        return self._runners[job]


GROUPS = {"control": 1, "values": 1}
"""Threads beside the one that makes calls."""
Worker = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0, concurrency_groups=GROUPS)(Shell)


def _cancel(worker: Any, ticket: int) -> None:
    ray.get(worker.cancel.remote(ticket))


cancel_from_outside = ray.remote(num_cpus=0, max_retries=0)(_cancel)
"""Cancel a call from a process of its own: calls of one caller wait for the inputs of those that it made before."""
