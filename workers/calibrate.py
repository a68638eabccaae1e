"""A short measurement of a worker: matrix products by shape, every op of the registry, memory by distance, overheads.

Nothing here knows a workload: elementwise ops are measured with the values of their own examples, others in small programs in
which they occur. Each item is repeated for some milliseconds and its median is taken; all takes about a second. The order is
the same everywhere, so that workers that measure at once are busy with the same kind of work.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import numpy as np

import graphir as gi
from graphir import dims
from graphir.cost import node_operations
from graphir.errors import GraphError
from graphir.graph import Graph
from graphir.interpret import bound_attributes
from graphir.node import REGISTRY, Array, Node, Op
from graphir.ops import arithmetic
from graphir.ops.rules import elementwise_axes
from graphir.ops.sources import input_
from workers import blas
from workers.executor import Executor
from workers.mesh import Address, Mesh
from workers.runner import Runner
from workers.speeds import Speeds, Table, key, length
from workers.work import ReadWork, StepWork, Work

Clock = Callable[[], float]
ITEM_SECONDS, LONG_SECONDS = 0.002, 0.01
LEAST = 3
"""How often an item is repeated at least."""
SIDES = (*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), 48, 64, 96, 128, 256, 512)
LENGTHS = (4, 16, 64, 1024)
"""Of rows that are summed or sorted."""
FLOATS = ("float32", "float64")
ELEMENTS = 8192
"""Of an array in cache."""
DISTANCES = tuple(1 << k for k in (14, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27))
WIDTH = 61
"""Of a matrix that is read."""
SIZES = tuple(1 << k for k in (12, 14, 16, 18, 20, 22, 24, 25, 26))
BYTES = 1 << 22
"""Of an array that is sent to another worker."""
ROUNDS = 64
NODES = 200


def calibrate(clock: Clock) -> Speeds:
    """The speeds of this process, with one thread in BLAS as in jobs."""
    with blas.threads(1), np.errstate(all="ignore"):
        read, fetched, written = _read(clock), _fetched(clock), _written(clock)
        outer = {dtype: _outer(clock, dtype) for dtype in FLOATS}
        inner = {dtype: _inner(clock, dtype) for dtype in FLOATS}
        node = _node(clock)
        operation = _operations(clock, node)
        other = operation["add/float64"][0][1]
        copied = _copied(clock)
        return Speeds(
            node, _view(clock), _task(clock, node), outer, inner, operation, other, copied, read, fetched, written
        )


def exchange(clock: Clock, mesh: Mesh, ticket: int, peer: Address, first: bool) -> tuple[float, float]:
    """Seconds until a small array has arrived, and bytes a second of a large one, between two workers that both call this."""
    small, large = np.zeros(1), np.zeros(BYTES // 8)
    taken = [
        _round_trips(clock, mesh, ticket, peer, first, array, rounds) for array, rounds in ((small, ROUNDS), (large, 8))
    ]
    return taken[0], BYTES / max(taken[1] - taken[0], 1e-9)


def _round_trips(clock: Clock, mesh: Mesh, ticket: int, peer: Address, first: bool, array: Array, rounds: int) -> float:
    """Seconds of one way."""
    times = []
    for turn in range(rounds):
        begun = clock()
        for leg in range(2):
            tag = (ticket, array.size, turn, leg)
            if first == (leg == 0):
                mesh.send(peer, tag, array)
                mesh.flush()
            else:
                mesh.receive(peer, tag, lambda: False)
        times.append((clock() - begun) / 2)
    mesh.drain(lambda: False)
    return median(times)


def timed(clock: Clock, work: Callable[[], Any], seconds: float = ITEM_SECONDS) -> float:
    """The median of some runs, after one that does not count."""
    work()
    times: list[float] = []
    until = clock() + seconds
    while len(times) < LEAST or clock() < until:
        begun = clock()
        work()
        times.append(clock() - begun)
    return median(times)


# ---- memory ----


def _read(clock: Clock) -> Table:
    """Seconds a byte of arrays that are read again and again: when one is read, its own size has gone by since."""
    source = np.ones(max(DISTANCES) // 8)
    found = []
    for size in DISTANCES:
        part = source[: size // 8]
        found.append((float(size), timed(clock, partial(part.dot, part), LONG_SECONDS) / size))
    return tuple(found)


def _fetched(clock: Clock) -> Table:
    """As `_read`, by products with a vector from either side, of rows that do not end where cache lines do, as most."""
    source = np.ones(max(DISTANCES) // 4, np.float32)
    right = np.ones((WIDTH, 1), np.float32)
    found = []
    for size in DISTANCES:
        matrix = source[: size // 4 // WIDTH * WIDTH].reshape(-1, WIDTH)
        left = source[: len(matrix)].reshape(-1, 1)
        both = [timed(clock, partial(np.matmul, *pair), LONG_SECONDS) for pair in ((matrix, right), (matrix.T, left))]
        found.append((float(size), sum(both) / 2 / matrix.nbytes))
    return tuple(found)


def _written(clock: Clock) -> Table:
    """Seconds a byte of new arrays, from the same allocator and with the same page faults as in programs."""

    def taken(size: int) -> float:
        value = np.broadcast_to(np.zeros(1), (size // 8,))
        return timed(clock, lambda: np.positive(value), LONG_SECONDS)

    call = taken(8)
    return tuple((float(size), max(taken(size) - call, 1e-9) / size) for size in SIZES)


# ---- products ----


def _outer(clock: Clock, dtype: str) -> Table:
    left = np.ones((512, 256), dtype)
    return tuple((float(n), _product(clock, left, np.ones((256, n), dtype))) for n in SIDES)


def _inner(clock: Clock, dtype: str) -> Table:
    return tuple((float(k), _product(clock, np.ones((256, k), dtype), np.ones((k, 256), dtype))) for k in SIDES)


def _product(clock: Clock, left: Array, right: Array) -> float:
    """Seconds of a multiply-add."""
    points = int(left.size) * int(right.shape[1])
    return timed(clock, lambda: np.matmul(left, right)) / points


# ---- ops ----


def _operations(clock: Clock, overhead: float) -> dict[str, Table]:
    """Seconds of an operation of each kind of work, by the length of what is combined side by side."""
    found: dict[str, dict[float, float]] = {}
    for node, arrays in _nodes():
        entries, size, count = (
            found.setdefault(key(node), {}),
            float(max(1, length(node, {}))),
            node_operations(node, {}),
        )
        if size in entries or count == 0:
            continue
        attributes, kernel = bound_attributes(node, {}), node.op.kernel
        taken = timed(clock, partial(kernel, *arrays, **attributes))
        entries[size] = max(taken - overhead, overhead / 100) / count
    return {name: tuple(sorted(entries.items())) for name, entries in found.items() if entries}


def _copied(clock: Clock) -> Table:
    """Seconds an element of a copy across the order in memory."""
    wide: dict[int, Array] = {4: np.ones((256, 256), np.float32), 8: np.ones((256, 256))}
    return tuple((float(size), timed(clock, partial(np.ascontiguousarray, a.T)) / a.size) for size, a in wide.items())


def _nodes() -> Iterator[tuple[Node, tuple[Array, ...]]]:
    for op in REGISTRY.values():
        if op.axes is elementwise_axes and op.joint is None:
            yield from _elementwise(op)
    for dtype, columns in product(FLOATS, LENGTHS):
        yield from _in_program(dtype, 2 * ELEMENTS // columns, columns)


def _elementwise(op: Op) -> Iterator[tuple[Node, tuple[Array, ...]]]:
    """An op on long arrays of the values that its examples have, in their dtypes and in single precision too."""
    rng = np.random.default_rng(7)
    for example in op.examples:
        drawn = [np.resize(s.draw(rng), ELEMENTS) if s.shape else None for s in example.inputs]
        arrays = [array for array in drawn if array is not None]
        if len(arrays) != len(drawn) or "shape" in op.attrs:
            continue
        for single in (False, True):
            if single and all(array.dtype != np.float64 for array in arrays):
                continue
            cast = tuple(a.astype(np.float32) if single and a.dtype == np.float64 else a for a in arrays)
            inputs = [input_(name=f"i{k}", dtype=a.dtype.name, shape=a.shape) for k, a in enumerate(cast)]
            try:
                yield op(*inputs, **example.attrs), cast
            except GraphError:
                continue


def _in_program(dtype: str, rows: int, columns: int) -> Iterator[tuple[Node, tuple[Array, ...]]]:
    """Reductions, gathers, scatters, scans, sorts and copies, and what their derivatives are made of."""
    x, i = gi.input("x", (rows, columns), dtype), gi.input("i", (rows,), "int64")
    image, kernel = gi.input("image", (4, 3, columns // 16 + 12, 16), dtype), gi.input("kernel", (8, 3, 3, 3), dtype)
    picked = gi.take_along_axis(x, i[:, None], axis=1)
    values = [gi.sum(x, axis=0), gi.sum(x, axis=1), gi.max(x, axis=0), gi.max(x, axis=1), gi.prod(x, axis=1)]
    values += [
        gi.logsumexp(x, axis=0),
        gi.logsumexp(x, axis=1),
        gi.cumulative_sum(x, axis=0),
        gi.cumulative_sum(x, axis=1),
    ]
    values += [picked, gi.take(x, i, axis=0), gi.concat([x, x * 2]), gi.conv(image, kernel), x[::2], gi.sort(x, axis=1)]
    loss = sum((gi.sum(gi.sin(value)) for value in values[1:]), gi.sum(values[0]))
    values += [
        gi.argmax(x, axis=1),
        gi.argmax(x, axis=0),
        gi.argsort(x, axis=1),
        gi.astype(x, "float32"),
        gi.random.normal(gi.random.key(1), (rows, columns)),
    ]
    outputs = {f"v{k}": value for k, value in enumerate([*values, *gi.grad(loss, [x, kernel])])}
    graph = gi.simplify(Graph(outputs))
    rng = np.random.default_rng(3)
    feeds: dict[str, Array] = {
        name: rng.random(node.type.bind({})).astype(node.type.dtype) + 0.5 for name, node in graph.inputs.items()
    }
    feeds["i"] = rng.integers(0, min(rows, columns), rows)
    held = gi.evaluate(Graph({str(k): node for k, node in enumerate(graph.nodes)}, inputs=graph.inputs), feeds)
    known = {node: held[str(k)] for k, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.inputs and not node.op.cheap and node.op.joint is None:
            yield node, tuple(known[source] for source in node.inputs)


# ---- overheads ----


def _node(clock: Clock) -> float:
    """Seconds of an operation on next to nothing."""
    value = gi.input("x", (1,))
    for _ in range(NODES):
        value = gi.sin(value)
    return _chain(clock, value) / NODES


def _view(clock: Clock) -> float:
    """Seconds of a view: the mean of those that programs are full of."""
    value = gi.input("x", (1,))
    for _ in range(NODES // 4):
        value = gi.reshape(gi.sum(gi.permute_dims(gi.broadcast_to(value[:, None], (1, 3)), (1, 0)), axis=0), (1,))
    graph = Graph({"out": value})
    sums = sum(node.op.name == "sum" for node in graph.nodes)
    views = sum(node.op.cheap and bool(node.inputs) for node in graph.nodes)
    ones = np.ones((3, 1))
    summed = timed(clock, lambda: REGISTRY["sum"].kernel(ones, axes=(0,)))
    return max(_chain(clock, value) - sums * summed, 0.0) / views


def _chain(clock: Clock, value: gi.Expr) -> float:
    execute, feeds = Executor(Graph({"out": value})), {"x": np.zeros(1)}
    return timed(clock, lambda: execute.run(feeds, {}))


def _task(clock: Clock, node: float) -> float:
    """Seconds of a run of a program in a job, beside its nodes: a sum of small chunks."""
    chunks = 32
    x = input_(name="x", dtype="float64", shape=(dims.local("n"),))
    left, right = (input_(name=name, dtype="float64", shape=()) for name in ("left", "right"))
    programs = [Graph({"p": gi.sum(gi.Expr(x))}), Graph({"s": arithmetic.add(left, right)})]
    steps = (
        StepWork("map", programs[0].digest, (ReadWork("x", "x"),), ("p",), ("n",)),
        StepWork("combine", programs[1].digest, (ReadWork("left", "p"), ReadWork("right", "p")), ("s",), along="n"),
    )
    work = Work(
        {"n": chunks},
        {"n": tuple(range(chunks + 1))},
        steps,
        {"x": {"n": 0}, "p": {"n": None}},
        frozenset({"x"}),
        keep=("s",),
    )
    runner = Runner(work, {program.digest: program for program in programs})
    runner.hold("x", np.ones(chunks), "float64")
    taken = timed(clock, lambda: runner.run(0, 0, 1), LONG_SECONDS) / (2 * chunks - 1)
    return max(taken - node, node)
