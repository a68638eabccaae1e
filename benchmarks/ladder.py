"""Cost of building graphs: the ladder z' = sin(z) * w + z_before, three operations a rung.

Every participant builds the value and then its gradient with respect to all w. Rounds are interleaved, so that a
slow moment of the machine hits all alike; reported are medians of microseconds an operation node. CasADi and
PyTensor take part where they are installed; JAX (a test dependency) up to 3,000 nodes, where tracing takes seconds.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

import graphir as gi
from workers.executor import Executor

ROUNDS = 5
Phases: TypeAlias = Iterator[str]
Participant: TypeAlias = Callable[[int], Phases]


def ours(rungs: int) -> Phases:
    """Build, differentiate, serialise, load, and evaluate once."""
    weights = [gi.input(f"w{k}") for k in range(rungs)]
    yield "start"
    before, z = gi.constant(0.5), gi.constant(0.7)
    for w in weights:
        before, z = z, gi.sin(z) * w + before
    yield "forward"
    gradients = gi.grad(z, weights)
    yield "gradient"
    graph = gi.Graph({"z": z, **{f"g{k}": g for k, g in enumerate(gradients)}})
    yield "graph"
    values = {f"w{k}": v for k, v in enumerate(_values(rungs))}
    Executor(graph)(values)
    yield "first numbers"
    data = gi.dump(graph)
    yield "save"
    gi.load(data)
    yield "load"


def jax(rungs: int) -> Phases:
    """make_jaxpr of the value and of value_and_grad."""
    import jax as library

    library.config.update("jax_enable_x64", True)

    def value(weights: list[float]) -> object:
        before, z = 0.5, 0.7
        for w in weights:
            before, z = z, library.numpy.sin(z) * w + before
        return z

    weights = [library.numpy.float64(v) for v in _values(rungs)]
    yield "start"
    library.make_jaxpr(value)(weights)
    yield "forward"
    library.make_jaxpr(library.value_and_grad(value))(weights)
    yield "gradient"


def casadi(rungs: int) -> Phases:
    """SX, CasADi's scalar graphs."""
    import casadi as library

    weights = [library.SX.sym(f"w{k}") for k in range(rungs)]
    yield "start"
    before, z = library.SX(0.5), library.SX(0.7)
    for w in weights:
        before, z = z, library.sin(z) * w + before
    yield "forward"
    library.gradient(z, library.vertcat(*weights))
    yield "gradient"


def pytensor(rungs: int) -> Phases:
    """Scalar variables and pytensor.grad, which recurses and so needs a higher limit."""
    sys.setrecursionlimit(100_000)
    import pytensor as library
    import pytensor.tensor as tensor

    weights = [tensor.dscalar(f"w{k}") for k in range(rungs)]
    yield "start"
    before, z = tensor.constant(0.5), tensor.constant(0.7)
    for w in weights:
        before, z = z, tensor.sin(z) * w + before
    yield "forward"
    library.grad(z, weights)
    yield "gradient"


PARTICIPANTS: dict[str, tuple[Participant, int]] = {
    "gradfleet": (ours, 100_000),
    "casadi": (casadi, 100_000),
    "pytensor": (pytensor, 3_000),
    "jax": (jax, 3_000),
}
"""Name, what it does, and the most nodes that it builds in bearable time."""


def _values(rungs: int) -> np.ndarray:
    return 0.01 * np.random.default_rng(12).standard_normal(rungs)


def phases(participant: Participant, nodes: int) -> dict[str, float]:
    """Microseconds an operation node for each phase of one run."""
    gc.collect()
    took: dict[str, float] = {}
    last = time.perf_counter()
    for phase in participant(nodes // 3):
        now = time.perf_counter()
        took[phase] = (now - last) / nodes * 1e6
        last = time.perf_counter()
    del took["start"]
    return took


def random_graph(nodes: int) -> Phases:
    """A wide random graph instead of the ladder: every node takes two random earlier ones."""
    rng = np.random.default_rng(3)
    picks = rng.integers(0, 1 << 30, (nodes, 2))
    leaves = [gi.input(f"r{k}") for k in range(100)]
    yield "start"
    values = list(leaves)
    for left, right in picks.tolist():
        a, b = values[-1 - left % min(len(values), 1000)], values[-1 - right % 2]
        values.append(a + b if left & 1 else a * b)
    total = values[-1]
    for value in values[-100:-1]:
        total = total + value
    yield "forward"
    gradients = gi.grad(total, leaves, disconnected="zero")
    yield "gradient"
    graph = gi.Graph({"total": total, **{f"g{k}": g for k, g in enumerate(gradients)}})
    yield "graph"
    data = gi.dump(graph)
    yield "save"
    gi.load(data)
    yield "load"


Row: TypeAlias = tuple[int, str, dict[str, float]]


def measure() -> list[Row]:
    """Medians of interleaved rounds: nodes, participant, microseconds an operation node by phase."""
    rows: list[Row] = []
    for nodes in (999, 9_999, 99_999):
        able = {name: run for name, (run, most) in PARTICIPANTS.items() if nodes <= most}
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in able}
        for _ in range(ROUNDS if nodes < 50_000 else 3):
            for name in list(samples):
                try:
                    samples[name].append(phases(able[name], nodes))
                except ImportError:
                    del samples[name]
        for name, runs in samples.items():
            rows.append((nodes, name, {p: statistics.median(r[p] for r in runs) for p in runs[0]}))
    rows.append((1_000_000, "gradfleet, random", phases(random_graph, 1_000_000)))
    return rows


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    columns = ("forward", "gradient", "graph", "first numbers", "save", "load")
    lines = ["| nodes | | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for nodes, name, took in rows:
        cells = " | ".join(f"{took[c]:.2f}" if c in took else "-" for c in columns)
        lines.append(f"| {nodes:,} | {name} | {cells} |")
    return "\n".join(lines)
