"""Rehearsing a program: what a run of it takes on a worker, with made-up values in as many chunks as an iteration has.

So many chunks come by before the first comes again that each is as far away in memory as in a job. Numbers are normally
distributed; integers, which may be indices, are zero. A program that fails on such values has no rehearsal.
"""

import mmap
from collections.abc import Mapping
from functools import partial

import numpy as np

from graphir import dims
from graphir.graph import Graph
from graphir.node import Array
from graphir.partition.cost import value_bytes
from graphir.types import TensorType
from workers import blas
from workers.bound import OFTEN
from workers.calibrate import Clock, timed
from workers.executor import Executor
from workers.speeds import Table

MOST_BYTES = 1 << 30
"""Of chunks that are held at once."""
MOST_CHUNKS = 64
LEVEL_SECONDS = 0.1
"""How long each number of chunks is gone through."""


def rehearse(clock: Clock, program: Graph, sizes: Mapping[str, int], tasks: int) -> Table | None:
    """Seconds of a run by the number of runs in an iteration, up to `tasks`; None if it fails on made-up values."""
    rng = np.random.default_rng(11)
    own = {name: node.type for name, node in program.inputs.items() if dims.any_local(node.type.shape)}
    shared = {name: _made_up(rng, n.type, sizes) for name, n in program.inputs.items() if name not in own}
    held = sum(value_bytes(type_, sizes) for type_ in own.values())
    count = min(tasks, MOST_CHUNKS, max(1, MOST_BYTES // max(held, 1)))
    offsets = {name: 0 for name in sizes if dims.is_local(name)}
    levels = sorted({count, -(-count // 2), -(-count // 4)})
    execute = Executor(program, threads=1)

    def run(chunks: list[dict[str, Array]]) -> None:
        for chunk in chunks:
            execute.run(chunk, sizes, offsets)

    try:
        chunks = [shared | {name: _made_up(rng, type_, sizes) for name, type_ in own.items()} for _ in range(count)]
        with blas.threads(1):
            run([chunks[0]] * OFTEN)
            return tuple((float(n), timed(clock, partial(run, chunks[:n]), LEVEL_SECONDS) / n) for n in levels)
    except Exception:  # noqa: BLE001  # whatever kernels raise on values that mean nothing
        return None


def _made_up(rng: np.random.Generator, type_: TensorType, sizes: Mapping[str, int]) -> Array:
    """In shared memory, as feeds are: its pages are small, and reading takes longer than in memory of a process's own."""
    shape, dtype = type_.bind(sizes), type_.dtype
    array: Array = np.zeros(shape, dtype)
    if array.nbytes:
        array = np.frombuffer(mmap.mmap(-1, array.nbytes), dtype).reshape(shape)
    if dtype.kind == "f":
        array[...] = rng.standard_normal(shape, np.float32 if dtype.itemsize <= 4 else np.float64)
    return array
