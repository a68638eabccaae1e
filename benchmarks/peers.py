"""The peers of the distributed figures: bare processes, Dask, Ray tasks, Ray actors, PyTorch DDP; two workers of one thread.

Each gives the seconds of one sample of a job, or None where it has nothing like it. All live at the same time and sleep
while another is measured. One that is not installed is named in the tables as missing.
"""

import multiprocessing
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from benchmarks import jobs
from benchmarks.jobs import CASES, CHUNKS, LARGE, TASKS, Array, Arrays

Total = Callable[[Arrays], Arrays]


class Peer:
    """What all have in common; a peer says how it sums over its shards, and what else it can do."""

    name = ""

    def load(self, case: str) -> None:
        """Have the data of a case on the workers."""

    def total(self, case: str, parameters: Arrays) -> Arrays:
        """Loss and gradients over all chunks."""
        raise NotImplementedError

    def iteration(self, case: str) -> float | None:
        """Seconds an iteration of gradient descent."""
        parameters, steps = CASES[case].start(), CASES[case].steps
        begun = time.perf_counter()
        for _ in range(steps):
            parameters = jobs.descended(case, parameters, self.total(case, parameters))
        return (time.perf_counter() - begun) / steps

    def tiny(self) -> float | None:
        """Seconds of the tiny known job."""

    def tasks(self) -> float | None:
        """Seconds of 10,000 tasks that do nothing."""

    def graph(self, seed: int) -> float | None:
        """Seconds of the random graph, its construction included."""

    def large(self) -> float | None:
        """Seconds until both workers have the sum of their large gradients."""

    def stop(self) -> None:
        """End what was started."""


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


# ---- bare processes ----


def _bare(pipe: Connection, rank: int) -> None:
    shards: dict[str, list[Arrays]] = {}
    gradient = np.full(LARGE, 1 + rank, np.float32)
    while (order := pipe.recv()) is not None:
        match order:
            case "load", case:
                shards[case] = [jobs.shard(case, k) for k in range(rank, CHUNKS, 2)]
                pipe.send(None)
            case "sums", case, parameters:
                pipe.send(jobs.sums(case, shards[case], parameters))
            case "get":
                pipe.send(gradient)
            case "call", function, *arguments:
                pipe.send(function(*arguments))
            case "node", k, a, b:
                pipe.send((k, a + b))


class Bare(Peer):
    """Two processes and a pipe to each: what is left when nothing is scheduled, kept or repaired."""

    name = "bare processes"

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        both = [context.Pipe() for _ in range(2)]
        self.pipes = [near for near, _ in both]
        self.processes = [context.Process(target=_bare, args=(far, k), daemon=True) for k, (_, far) in enumerate(both)]
        for process in self.processes:
            process.start()
        self.pool = context.Pool(2)

    def ask(self, *order: Any) -> list[Any]:
        """Both do the same."""
        for pipe in self.pipes:
            pipe.send(order if len(order) > 1 else order[0])
        return [pipe.recv() for pipe in self.pipes]

    def load(self, case: str) -> None:
        self.ask("load", case)

    def total(self, case: str, parameters: Arrays) -> Arrays:
        return jobs.added(self.ask("sums", case, parameters))

    def tiny(self) -> float:
        return timed(lambda: (self.pipes[0].send(("call", jobs.increased, 1)), self.pipes[0].recv()))

    def tasks(self) -> float:
        return timed(lambda: self.pool.map(jobs.nothing, range(TASKS), chunksize=1))

    def graph(self, seed: int) -> float:
        leaves, pairs, sinks = jobs.wires(seed)
        return timed(lambda: self._graph(list(leaves), pairs, sinks))

    def _graph(self, values: list[Array], pairs: Sequence[tuple[int, int]], sinks: list[int]) -> float:
        first = len(values)
        values += [values[0]] * len(pairs)
        readers: list[list[int]] = [[] for _ in values]
        missing = [sum(p >= first for p in set(pair)) for pair in pairs]
        for k, pair in enumerate(pairs):
            for operand in set(pair):
                readers[operand].append(k)
        ready = deque(k for k, count in enumerate(missing) if not count)
        busy = dict.fromkeys(self.pipes, 0)
        for _ in pairs:
            for pipe in self.pipes:
                while ready and busy[pipe] < 8:
                    k = ready.popleft()
                    pipe.send(("node", k, values[pairs[k][0]], values[pairs[k][1]]))
                    busy[pipe] += 1
            done = wait([pipe for pipe in self.pipes if busy[pipe]])[0]
            k, values[first + k] = done.recv()  # type: ignore[union-attr]
            busy[done] -= 1  # type: ignore[index]
            for reader in readers[first + k]:
                missing[reader] -= 1
                if not missing[reader]:
                    ready.append(reader)
        return float(sum(values[s].sum() for s in sinks))

    def large(self) -> float:
        return timed(lambda: [self.ask("call", jobs.ends, a + b) for a, b in [self.ask("get")]])

    def stop(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        self.pool.terminate()


# ---- Dask ----


class Dask(Peer):
    """dask.distributed, two worker processes on this machine; the graph in its quickest form, `Task` objects."""

    name = "Dask"

    def __init__(self) -> None:
        from distributed import Client, LocalCluster, wait  # an optional peer

        self.cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
        self.client = Client(self.cluster)
        self.client.wait_for_workers(2)
        self.workers = list(self.client.scheduler_info()["workers"])
        self.shards: dict[str, list[Any]] = {}
        self.gradients = [self._at(k, np.full, LARGE, np.float32(k + 1)) for k in range(2)]
        wait(self.gradients)

    def _at(self, k: int, function: Any, *arguments: Any) -> Any:
        options = {"workers": [self.workers[k]], "allow_other_workers": False, "pure": False}
        return self.client.submit(function, *arguments, **options)

    def load(self, case: str) -> None:
        self.shards[case] = [self._at(k % 2, jobs.shard, case, k) for k in range(CHUNKS)]
        self.client.gather([self.client.submit(len, each) for each in self.shards[case]])

    def total(self, case: str, parameters: Arrays) -> Arrays:
        [sent] = self.client.scatter([parameters], broadcast=True, hash=False)
        parts = [self.client.submit(jobs.sums, case, [each], sent, pure=False) for each in self.shards[case]]
        found: Arrays = self.client.submit(jobs.added, parts, pure=False).result()
        return found

    def tiny(self) -> float:
        return timed(lambda: self.client.submit(jobs.increased, 1, pure=False).result())

    def tasks(self) -> float:
        return timed(lambda: self.client.gather(self.client.map(jobs.nothing, range(TASKS), pure=False)))

    def graph(self, seed: int) -> float:
        from dask._task_spec import DataNode, Task, TaskRef

        leaves, pairs, sinks = jobs.wires(seed)

        def run() -> float:
            keys = [f"{seed}-{time.monotonic_ns()}-{i}" for i in range(len(leaves) + len(pairs))]
            tasks: dict[str, Any] = {keys[i]: DataNode(keys[i], leaf) for i, leaf in enumerate(leaves)}
            for i, (a, b) in enumerate(pairs, len(leaves)):
                tasks[keys[i]] = Task(keys[i], jobs.sum_of, TaskRef(keys[a]), TaskRef(keys[b]))
            return float(sum(x.sum() for x in self.client.get(tasks, [keys[s] for s in sinks])))

        return timed(run)

    def large(self) -> float:
        def run() -> None:
            total = self.client.submit(jobs.sum_of, *self.gradients, pure=False)
            self.client.gather([self._at(k, jobs.ends, total) for k in range(2)])

        return timed(run)

    def stop(self) -> None:
        self.client.close()
        self.cluster.close()


# ---- Ray ----


class _Actor:
    def __init__(self, rank: int) -> None:
        self.rank, self.gradient = rank, np.full(LARGE, 1 + rank, np.float32)
        self.shards: dict[str, list[Arrays]] = {}

    def load(self, case: str) -> None:
        self.shards[case] = [jobs.shard(case, k) for k in range(self.rank, CHUNKS, 2)]

    def sums(self, case: str, parameters: Arrays) -> Arrays:
        return jobs.sums(case, self.shards[case], parameters)

    def get(self) -> Array:
        return self.gradient

    def call(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)


class RayActors(Peer):
    """Two plain actors that hold their shards; the driver sums and descends."""

    name = "Ray actors"

    def __init__(self) -> None:
        import ray

        self.ray = ray
        self.actors = [ray.remote(_Actor).options(num_cpus=1).remote(k) for k in range(2)]

    def load(self, case: str) -> None:
        self.ray.get([actor.load.remote(case) for actor in self.actors])

    def total(self, case: str, parameters: Arrays) -> Arrays:
        sent = self.ray.put(parameters)
        return jobs.added(self.ray.get([actor.sums.remote(case, sent) for actor in self.actors]))

    def tiny(self) -> float:
        return timed(lambda: self.ray.get(self.actors[0].call.remote(jobs.increased, 1)))

    def tasks(self) -> float:
        calls = [actor.call for actor in self.actors]
        function = self.ray.put(jobs.nothing)
        return timed(lambda: self.ray.get([calls[k % 2].remote(function, k) for k in range(TASKS)]))

    def graph(self, seed: int) -> float:
        function = self.ray.put(jobs.sum_of)
        return _graph_by(self.ray, seed, lambda k, a, b: self.actors[k % 2].call.remote(function, a, b))

    def large(self) -> float:
        def run() -> None:
            total = self.actors[0].call.remote(jobs.sum_of, *(actor.get.remote() for actor in self.actors))
            self.ray.get([actor.call.remote(jobs.ends, total) for actor in self.actors])

        return timed(run)

    def stop(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)


class RayTasks(Peer):
    """Plain tasks on shards in the object store, two at a time."""

    name = "Ray tasks"

    def __init__(self) -> None:
        import ray

        self.ray = ray
        self.sums, self.sum_of, self.ends, self.increased, self.nothing = (
            ray.remote(function).options(num_cpus=1)
            for function in (jobs.sums, jobs.sum_of, jobs.ends, jobs.increased, jobs.nothing)
        )
        self.shards: dict[str, list[Any]] = {}
        self.gradients = [ray.put(np.full(LARGE, k + 1, np.float32)) for k in range(2)]
        ray.get([self.nothing.remote(k) for k in range(100)])

    def load(self, case: str) -> None:
        self.shards[case] = [self.ray.put(jobs.shard(case, k)) for k in range(CHUNKS)]

    def total(self, case: str, parameters: Arrays) -> Arrays:
        sent = self.ray.put(parameters)
        parts = [self._one(case, each, sent) for each in self.shards[case]]
        return jobs.added(self.ray.get(parts))

    def _one(self, case: str, shard: Any, parameters: Any) -> Any:
        return self.ray.remote(_sums_of_one).options(num_cpus=1).remote(case, shard, parameters)

    def tiny(self) -> float:
        return timed(lambda: self.ray.get(self.increased.remote(1)))

    def tasks(self) -> float:
        return timed(lambda: self.ray.get([self.nothing.remote(k) for k in range(TASKS)]))

    def graph(self, seed: int) -> float:
        return _graph_by(self.ray, seed, lambda k, a, b: self.sum_of.remote(a, b))

    def large(self) -> float:
        def run() -> None:
            total = self.sum_of.remote(*self.gradients)
            self.ray.get([self.ends.remote(total), self.ends.remote(total)])

        return timed(run)


def _sums_of_one(case: str, shard: Arrays, parameters: Arrays) -> Arrays:
    return jobs.sums(case, [shard], parameters)


def _graph_by(ray: Any, seed: int, node: Callable[[int, Any, Any], Any]) -> float:
    leaves, pairs, sinks = jobs.wires(seed)

    def run() -> float:
        values: list[Any] = list(leaves)
        for k, (a, b) in enumerate(pairs):
            values.append(node(k, values[a], values[b]))
        return float(sum(x.sum() for x in ray.get([values[s] for s in sinks])))

    return timed(run)


# ---- PyTorch ----


def _ddp(pipe: Connection, rank: int, meeting: str) -> None:
    import torch
    from torch import distributed as dist

    from benchmarks import torch_rank

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    shards: dict[str, Any] = {}
    gradient = torch.full((LARGE,), float(1 + rank))
    while (order := pipe.recv()) is not None:
        match order:
            case "load", case:
                shards[case] = [torch_rank.tensors(jobs.shard(case, k)) for k in range(rank, CHUNKS, 2)]
                pipe.send(None)
            case "iteration", case:
                pipe.send(torch_rank.iteration(case, shards[case]))
            case "reduce", size:
                gradient[:size].fill_(1 + rank)
                dist.barrier()
                pipe.send(timed(lambda size=size: dist.all_reduce(gradient[:size])))
    dist.destroy_process_group()


class Ddp(Peer):
    """DistributedDataParallel over gloo: eight micro-batches a rank, of which the last one reduces; torch's own kernels."""

    name = "PyTorch DDP"

    def __init__(self) -> None:
        import torch  # noqa: F401  # named as missing if it is

        self.directory = tempfile.TemporaryDirectory()
        meeting = f"file://{os.path.join(self.directory.name, 'meeting')}"
        context = multiprocessing.get_context("spawn")
        both = [context.Pipe() for _ in range(2)]
        self.pipes = [near for near, _ in both]
        for k, (_, far) in enumerate(both):
            context.Process(target=_ddp, args=(far, k, meeting), daemon=True).start()

    def ask(self, *order: Any) -> Any:
        """Both do the same; the answer of rank 0."""
        for pipe in self.pipes:
            pipe.send(order)
        first, _ = [pipe.recv() for pipe in self.pipes]
        return first

    def load(self, case: str) -> None:
        self.ask("load", case)

    def iteration(self, case: str) -> float:
        return float(self.ask("iteration", case))

    def tiny(self) -> float:
        return float(self.ask("reduce", 8))

    def large(self) -> float:
        return float(self.ask("reduce", LARGE))

    def stop(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        self.directory.cleanup()


PEERS: tuple[type[Peer], ...] = (Bare, Dask, RayTasks, RayActors, Ddp)


def present() -> tuple[list[Peer], list[str]]:
    """The peers that are installed, and the names of the others."""
    found, missing = [], []
    for peer in PEERS:
        try:
            found.append(peer())
        except ImportError as error:
            missing.append(f"{peer.name} ({error})")
    return found, missing
