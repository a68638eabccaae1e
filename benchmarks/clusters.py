"""Peers that schedule tasks on two workers of one thread: dask.distributed, and Ray's tasks and actors."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import jobs
from benchmarks.jobs import CHUNKS, LARGE, TASKS, Array, Arrays
from benchmarks.peer import Peer, timed


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
