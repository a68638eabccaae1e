"""Peers that are two processes with a pipe to each: bare ones, and PyTorch's DistributedDataParallel."""

import multiprocessing
import os
import tempfile
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from benchmarks import jobs
from benchmarks.jobs import CHUNKS, LARGE, TASKS, Array, Arrays
from benchmarks.peer import Peer, timed


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
            k, values[first + k] = done.recv()
            busy[done] -= 1
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
