"""The jobs that all participants of the distributed figures perform, with the same kernels and the same random data.

Gradient descent in 16 chunks on two workers, a random graph of additions, a sum of two large gradients. `sums` is what a
worker does with its chunks: the program of the chunk's loss and gradients in our own executor, one thread in BLAS.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

import graphir as gi
from workers import blas
from workers.executor import Executor

CHUNKS, TASKS, LARGE = 16, 10_000, 20_000_000
"""Chunks of the data; nodes of the random graph, and no-op tasks; elements of the large gradient."""
Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """One job: rows of each chunk, iterations a sample, the sum over rows that is descended, its parameters and its data.

    `backend` has the kernels of all participants but PyTorch.
    """

    rows: int
    steps: int
    rate: float
    loss: Callable[[], tuple[gi.Expr, list[gi.Expr]]]
    data: Callable[[np.random.Generator, int], Arrays]
    start: Callable[[], Arrays]
    backend: str = "numpy"


def logistic() -> tuple[gi.Expr, list[gi.Expr]]:
    """Logistic regression with 50 features."""
    x, y, w = gi.input("x", ("n", 50), "float32"), gi.input("y", ("n",), "float32"), gi.input("w", (50,), "float32")
    z = x @ w
    return gi.sum(gi.logaddexp(z, gi.zeros_like(z)) - z * y), [w]


def logistic_data(rng: np.random.Generator, rows: int) -> Arrays:
    """Normal features and coin flips."""
    x = rng.standard_normal((rows, 50), dtype=np.float32)
    return {"x": x, "y": (rng.random(rows) > 0.5).astype(np.float32)}


WIDTHS = (784, 512, 512, 10)


def network() -> tuple[gi.Expr, list[gi.Expr]]:
    """A network with two hidden layers and cross entropy."""
    x, t = gi.input("x", ("n", WIDTHS[0]), "float32"), gi.input("t", ("n",), "int64")
    weights = [gi.input(f"w{k}", shape, "float32") for k, shape in enumerate(itertools.pairwise(WIDTHS))]
    hidden = x
    for w in weights[:-1]:
        hidden = gi.maximum(hidden @ w, gi.zeros_like(hidden @ w))
    logits = hidden @ weights[-1]
    picked = gi.take_along_axis(logits, t[:, None], axis=1)[:, 0]
    return gi.sum(gi.logsumexp(logits, axis=1) - picked), weights


def network_data(rng: np.random.Generator, rows: int) -> Arrays:
    """Random images and labels."""
    return {"x": rng.random((rows, WIDTHS[0]), dtype=np.float32), "t": rng.integers(0, 10, rows)}


def network_start() -> Arrays:
    """Small normal weights."""
    rng = np.random.default_rng(2)
    shapes = itertools.pairwise(WIDTHS)
    return {f"w{k}": (rng.standard_normal(s) * 0.03).astype(np.float32) for k, s in enumerate(shapes)}


BY_NUMPY = {
    "logistic regression, 1,000,000 x 50 float32": Case(
        62_500, 20, 1e-6, logistic, logistic_data, lambda: {"w": np.zeros(50, np.float32)}
    ),
    "network 784-512-512-10, 16 x 1,024 rows float32": Case(1_024, 4, 1e-5, network, network_data, network_start),
}
CASES = BY_NUMPY | {f"{name}, by LLVM": replace(case, backend="llvm") for name, case in BY_NUMPY.items()}


@cache
def executor(name: str) -> Executor:
    """The loss of a chunk and its gradients, once a process."""
    loss, weights = CASES[name].loss()
    gradients = gi.grad(loss, weights)
    graph = gi.simplify(gi.Graph({"loss": loss, **{f"d{k}": g for k, g in enumerate(gradients)}}))
    return Executor(graph, backend=CASES[name].backend)


def shard(name: str, chunk: int) -> Arrays:
    """The data of one chunk."""
    return CASES[name].data(np.random.default_rng(chunk), CASES[name].rows)


def sums(name: str, shards: Sequence[Arrays], parameters: Arrays) -> Arrays:
    """Loss and gradients summed over some chunks."""
    with blas.threads(1):
        run = executor(name).run
        return added([run({**each, **parameters}, {"n": CASES[name].rows}) for each in shards])


def added(parts: Sequence[Arrays]) -> Arrays:
    """The sum of each entry."""
    return {key: sum((part[key] for part in parts[1:]), start=parts[0][key]) for key in parts[0]}


def descended(name: str, parameters: Arrays, total: Arrays) -> Arrays:
    """The parameters after a step."""
    rate = np.float32(CASES[name].rate)
    return {key: value - rate * total[f"d{k}"] for k, (key, value) in enumerate(parameters.items())}


def wires(seed: int) -> tuple[list[Array], list[tuple[int, int]], list[int]]:
    """A random graph of additions: 16 leaves of 8 numbers, the two operands of each node, and the nodes that none reads."""
    rng, leaves = np.random.default_rng(seed), 16
    values = [rng.standard_normal(8) for _ in range(leaves)]
    pairs = [tuple(int(k) for k in rng.integers(max(0, i - 256), i, 2)) for i in range(leaves, leaves + TASKS)]
    read = {operand for pair in pairs for operand in pair}
    return values, [(a, b) for a, b in pairs], [i for i in range(leaves, leaves + TASKS) if i not in read]


def increased(x: Any) -> Any:
    """The tiny job."""
    return x + 1


def sum_of(a: Any, b: Any) -> Any:
    """One node of the random graph."""
    return a + b


def ends(a: Array) -> float:
    """Proof that a worker has the whole array."""
    return float(a[0]) + float(a[-1])


def nothing(_: int) -> None:
    """A task that does nothing."""
