"""The executor: a graph compiled once into a flat program, run many times.

Dimensions are bound to numbers once for each set of sizes and kept for the most recent ones. Values are freed at their last
use. The results have the same bits as `graphir.evaluate`.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, TypeAlias

import numpy as np

from graphir import collector
from graphir.errors import LimitError
from graphir.feeds import bind
from graphir.graph import Graph
from graphir.interpret import NO_OFFSETS, bound_attributes, kernel_error, require_finite
from graphir.node import Array, Node, describe
from graphir.types import TensorType
from workers import backends, blas
from workers.fuse import Item, schedule
from workers.program import Program, compiled

Instruction: TypeAlias = tuple[Callable[..., Array], tuple[int, ...], int, dict[str, Any], tuple[int, ...]]

BOUND_PROGRAMS = 16
"""For how many sets of sizes a bound program is kept."""


class Executor:
    """A callable on feeds. backend: whose kernels; threads: for BLAS and fused groups, by default one a core.

    memory_limit: bytes that values may take at once, by estimate; LimitError before anything runs if it is more.
    """

    def __init__(
        self, graph: Graph, backend: str = "numpy", threads: int | None = None, *, memory_limit: int | None = None
    ) -> None:
        self.graph, self.threads, self.memory_limit = graph, threads, memory_limit
        self._kernels = backends.load(backend)
        self._slot = {node: k for k, node in enumerate(graph.nodes)}
        self._inputs = [(name, self._slot[node]) for name, node in graph.inputs.items()]
        self._outputs = [(name, self._slot[node]) for name, node in graph.outputs.items()]
        self._programs: dict[bool, Program] = {}
        self._bound: OrderedDict[tuple[Any, ...], list[Instruction]] = OrderedDict()
        self._compiled(fused=True)

    def __call__(
        self, feeds: Mapping[str, Any], *, sizes: Mapping[str, int] | None = None, check_finite: bool = False
    ) -> dict[str, Array]:
        """The outputs by name; arguments and errors as `graphir.evaluate`."""
        bound = bind(self.graph, feeds, sizes)
        if self.memory_limit is not None:
            self._check_memory(bound.sizes, self.memory_limit)
        with self._one_pool():
            return self.run(bound.arrays, bound.sizes, check_finite=check_finite)

    def run(
        self,
        arrays: Mapping[str, Array],
        sizes: Mapping[str, int],
        offsets: Mapping[str, int] = NO_OFFSETS,
        *,
        check_finite: bool = False,
    ) -> dict[str, Array]:
        """Run on checked feeds; `offsets` says where a cut dimension's chunk begins."""
        program = self._compiled(fused=not check_finite)  # to look at each value, each is made
        code = self._code(program, sizes, offsets, check_finite)
        slots: list[Any] = [None] * program.slots
        for name, at in self._inputs:
            slots[at] = arrays[name]
        done = -1
        try:
            with np.errstate(all="ignore"):
                for done, (kernel, sources, target, attributes, free) in enumerate(code):
                    slots[target] = kernel(*[slots[k] for k in sources], **attributes)
                    if check_finite and target < len(self.graph.nodes):
                        self._check_finite(program.lines[done].node, slots, target)
                    for k in free:
                        slots[k] = None
        except Exception as error:  # noqa: BLE001  # whatever a kernel raises, kernel_error types it or gives it back
            typed = kernel_error(program.lines[done].node, error)
            raise typed from (None if typed is error else error)
        return {name: np.asarray(slots[at]) for name, at in self._outputs}

    def peak_bytes(self, sizes: Mapping[str, int]) -> tuple[int, Node]:
        """As the function of this name says of the graph."""
        return peak_bytes(self.graph, sizes)

    def _check_memory(self, sizes: Mapping[str, int], limit: int) -> None:
        needed, node = self.peak_bytes(sizes)
        if needed > limit:
            raise LimitError(
                f"evaluation needs about {needed} bytes at once, over the limit of {limit}; use smaller chunks or sizes"
            ).at(describe(node))

    def _one_pool(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.threads is None else blas.threads(self.threads)

    def _compiled(self, *, fused: bool) -> Program:
        if fused not in self._programs:
            with collector.paused():
                threads = self.threads or len(os.sched_getaffinity(0))
                self._programs[fused] = compiled(self.graph, self._kernels, threads, fused=fused)
        return self._programs[fused]

    def _code(
        self, program: Program, sizes: Mapping[str, int], offsets: Mapping[str, int], check_finite: bool
    ) -> list[Instruction]:
        key = (check_finite, *sorted(sizes.items()), *sorted(offsets.items()))
        known = self._bound.get(key)
        if known is not None:
            self._bound.move_to_end(key)
        else:
            with collector.paused():
                known = self._bound[key] = [
                    (
                        line.kernel, line.sources, line.target,
                        bound_attributes(line.node, sizes, offsets, check_finite) if line.attributes else {}, line.free,
                    )
                    for line in program.lines
                ]  # fmt: skip
            while len(self._bound) > BOUND_PROGRAMS:
                self._bound.popitem(last=False)
        return known

    def _check_finite(self, node: Node, slots: list[Any], target: int) -> None:
        require_finite(node, {node: slots[target], **{source: slots[self._slot[source]] for source in node.inputs}})


def peak_bytes(graph: Graph, sizes: Mapping[str, int]) -> tuple[int, Node]:
    """An upper bound on the bytes of the values that a run makes, and the node at which it is reached.

    Values are freed at their last use; what a fused group reads and gives is there until its end. Views count as nothing, and
    so do inputs, which the caller holds.
    """
    known: dict[TensorType, int] = {}
    live = highest = 0
    at = graph.nodes[0]
    items = schedule(graph)
    freed = _freed(items, graph)
    for position, item in enumerate(items):
        inside = 0
        for node, dead in [(item, ())] if isinstance(item, Node) else item.uses:
            inside += _bytes(node, sizes, known)
            if live + inside >= highest:
                highest, at = live + inside, node
            inside -= sum(_bytes(source, sizes, known) for source in dead)
        live += inside
        for source in freed.get(position, ()):
            live -= _bytes(source, sizes, known)
    return highest, at


def _freed(items: Sequence[Item], graph: Graph) -> dict[int, list[Node]]:
    """For each item the values that nobody reads after it."""
    keep = set(graph.outputs.values())
    last = {source: position for position, item in enumerate(items) for source in item.inputs}
    freed: dict[int, list[Node]] = {}
    for source, position in last.items():
        if source not in keep:
            freed.setdefault(position, []).append(source)
    return freed


def _bytes(node: Node, sizes: Mapping[str, int], known: dict[TensorType, int]) -> int:
    """The bytes of a node's value; `known` keeps those of types that were asked for."""
    if node.op.cheap and node.op.name != "reshape":  # a reshape of a transposed value is a copy
        return 0
    size = known.get(node.type)
    if size is None:
        size = known[node.type] = prod(node.type.bind(sizes)) * node.type.dtype.itemsize
    return size
