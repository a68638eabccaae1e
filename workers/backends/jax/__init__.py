"""A graph as one XLA program, on a processor or, where JAX sees one, a GPU (extra `jax`).

Compiled once for each graph and set of sizes; chunks of one size share a program, since offsets are arguments. Values are equal to
those of the NumPy kernels within rounding (docs/backends.md), random bits to the bit. 64-bit types are there whatever JAX's own
configuration says, and that is left as it is. Checkpoints of scans are not used: every state is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from graphir import dims
from graphir.body import Body
from graphir.errors import EvaluationError, LimitError
from graphir.graph import Graph
from graphir.node import Array, Node, describe
from workers.backends import UnsupportedOpError
from workers.backends.jax.control import Refusals, Tracer, known
from workers.recent import Recent

PROGRAMS = 64
"""How many compiled programs are kept."""
EMBEDDED_BYTES = 1 << 10
"""Larger constants are arguments of the program, not part of it."""

_programs: "Recent[tuple[Any, ...], _Program]" = Recent(PROGRAMS)


def check(graph: Graph) -> None:
    """UnsupportedOpError at the first node, also inside bodies, that this back-end has nothing for."""
    for node in all_nodes(graph):
        if not known(node):
            raise UnsupportedOpError(
                f"the back-end 'jax' has no op {node.op.name!r}; use the back-end 'numpy' for this graph"
            ).at(describe(node))


def program(
    graph: Graph, sizes: Mapping[str, int], offsets: Mapping[str, int], threads: int
) -> Callable[[Mapping[str, Array]], list[Array]]:
    """A function from the arrays of the inputs to those of the outputs. XLA has its own threads."""
    key = (graph.digest, tuple(graph.inputs), tuple(graph.outputs), tuple(sorted(sizes.items())))
    found = _programs.made(key, lambda: _Program(graph, sizes))
    places = found.places(offsets)
    return lambda arrays: found.run(arrays, places)


def all_nodes(graph: Graph) -> list[Node]:
    """The nodes, and those inside bodies at any depth."""
    found: dict[Node, None] = {}
    stack: list[Sequence[Node]] = [graph.nodes]
    while stack:
        for node in stack.pop():
            if node not in found:
                found[node] = None
                stack.extend([value.nodes for _, value in node.attrs if isinstance(value, Body)])
    return list(found)


class _Program:
    """A compiled graph for some sizes."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self._graph, self._sizes, self._refusals = graph, dict(sizes), Refusals()
        nodes = all_nodes(graph)
        self._placed = [node for node in nodes if node.op.offset]
        large = [
            node for node in nodes if node.op.name == "constant" and node.attr("value").array.nbytes > EMBEDDED_BYTES
        ]
        self._large = large
        with jax.enable_x64(True):
            self._constants = [jax.device_put(node.attr("value").array) for node in large]
        self._call = jax.jit(self._traced)

    def places(self, offsets: Mapping[str, int]) -> list[Array]:
        """Where the chunk begins along the axes of each node that asks."""
        known = {**self._sizes, **offsets}
        return [
            np.array(
                [dims.evaluate(d, known) if dims.names(d) & offsets.keys() else 0 for d in node.type.shape], np.int64
            )
            for node in self._placed
        ]

    def run(self, arrays: Mapping[str, Array], places: Sequence[Array]) -> list[Array]:
        given = [arrays[name] for name in self._graph.inputs]
        try:
            with jax.enable_x64(True):
                code, found = self._call(given, self._constants, places)
                refused = int(code)
                values = [np.array(value) for value in found]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise LimitError("not enough memory for the XLA program; use smaller chunks or sizes") from error
            raise EvaluationError(f"the XLA program failed: {error}") from error
        if refused:
            raise self._refusals.error(refused)
        return values

    def _traced(self, arrays: Sequence[Any], constants: Sequence[Any], places: Sequence[Any]) -> Any:
        refusals = Refusals()
        offsets = dict(zip(self._placed, places, strict=True))
        tracer = Tracer(self._sizes, dict(zip(self._large, constants, strict=True)), offsets, refusals)
        values: dict[Node, Any] = dict(zip(self._graph.inputs.values(), arrays, strict=True))
        tracer.run(self._graph.nodes, values)
        self._refusals = refusals  # made whole before it is seen
        return tracer.code, [values[node] for node in self._graph.outputs.values()]
