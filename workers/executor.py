"""The executor: a graph compiled once into a flat program, run many times.

A program is a list of (kernel, input slots, output slot, attributes, slots that are free afterwards). Dimensions
are bound to numbers once for each set of sizes and kept for the most recent ones. Values are freed at their last
use. The results have the same bits as `graphir.evaluate`.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import prod
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np

from graphir import collector, walk
from graphir.errors import LimitError
from graphir.feeds import bind
from graphir.graph import Graph
from graphir.interpret import NO_OFFSETS, bound_attributes, joint_kernel, kernel_error, require_finite
from graphir.node import Array, Node, describe
from graphir.types import TensorType
from workers import backends, blas

Instruction: TypeAlias = tuple[Callable[..., Array], tuple[int, ...], int, dict[str, Any], tuple[int, ...]]

BOUND_PROGRAMS = 16
"""For how many sets of sizes a bound program is kept."""


class Executor:
    """A callable on feeds. backend: whose kernels; threads: for BLAS, by default the library's own choice.

    memory_limit: bytes that values may take at once, by estimate; LimitError before anything runs if it is more.
    """

    def __init__(
        self, graph: Graph, backend: str = "numpy", threads: int | None = None, *, memory_limit: int | None = None
    ) -> None:
        self.graph, self.threads, self.memory_limit = graph, threads, memory_limit
        kernels = backends.load(backend)
        with collector.paused():
            self._compile(graph, kernels)

    def _compile(self, graph: Graph, kernels: backends.Kernels) -> None:
        self._slot = slot = {node: k for k, node in enumerate(graph.nodes)}
        self._inputs = [(name, slot[node]) for name, node in graph.inputs.items()]
        self._outputs = [(name, slot[node]) for name, node in graph.outputs.items()]
        free = _freed(graph, slot)
        groups = walk.siblings(graph.nodes)
        picks = {node: (first, k) for first, group in groups.items() for k, node in enumerate(group)}
        shared = {first: len(graph.nodes) + k for k, first in enumerate(groups)}
        self._slots = len(graph.nodes) + len(groups)
        self._nodes: list[Node] = []
        self._code: list[tuple[Callable[..., Any], tuple[int, ...], int, tuple[int, ...], bool]] = []
        for node in graph.nodes:
            sources = tuple([slot[i] for i in node.inputs])
            if node in groups:  # all outputs of one application first, then each is picked
                self._add(node, joint_kernel(groups[node]), sources, shared[node], (), True)
            if node in picks:
                first, k = picks[node]
                last = (shared[first],) if k == len(groups[first]) - 1 else ()
                self._add(node, itemgetter(k), (shared[first],), slot[node], free.get(node, ()) + last, False)
            elif node.op.name != "input":
                self._add(node, kernels(node.op), sources, slot[node], free.get(node, ()), bool(node.attrs))
        self._bound: OrderedDict[tuple[Any, ...], list[Instruction]] = OrderedDict()

    def _add(
        self,
        node: Node,
        kernel: Callable[..., Any],
        sources: tuple[int, ...],
        target: int,
        free: tuple[int, ...],
        attributes: bool,
    ) -> None:
        self._nodes.append(node)
        self._code.append((kernel, sources, target, free, attributes))

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
        program = self._program(sizes, offsets, check_finite)
        slots: list[Any] = [None] * self._slots
        for name, at in self._inputs:
            slots[at] = arrays[name]
        done = -1
        try:
            with np.errstate(all="ignore"):
                for done, (kernel, sources, target, attributes, free) in enumerate(program):
                    slots[target] = kernel(*[slots[k] for k in sources], **attributes)
                    if check_finite and target < len(self.graph.nodes):
                        self._check_finite(self._nodes[done], slots, target)
                    for k in free:
                        slots[k] = None
        except Exception as error:  # noqa: BLE001  # whatever a kernel raises, kernel_error types it or gives it back
            typed = kernel_error(self._nodes[done], error)
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

    def _program(self, sizes: Mapping[str, int], offsets: Mapping[str, int], check_finite: bool) -> list[Instruction]:
        key = (check_finite, *sorted(sizes.items()), *sorted(offsets.items()))
        known = self._bound.get(key)
        if known is not None:
            self._bound.move_to_end(key)
        else:
            with collector.paused():
                known = self._bound[key] = [
                    (
                        kernel, sources, target,
                        bound_attributes(node, sizes, offsets, check_finite) if attributes else {}, free,
                    )
                    for node, (kernel, sources, target, free, attributes) in zip(self._nodes, self._code, strict=True)
                ]  # fmt: skip
            while len(self._bound) > BOUND_PROGRAMS:
                self._bound.popitem(last=False)
        return known

    def _check_finite(self, node: Node, slots: list[Any], target: int) -> None:
        require_finite(node, {node: slots[target], **{source: slots[self._slot[source]] for source in node.inputs}})


def peak_bytes(graph: Graph, sizes: Mapping[str, int]) -> tuple[int, Node]:
    """An upper bound on the bytes of the values that a run makes, and the node at which it is reached.

    Values are freed at their last use. Views count as nothing, and so do inputs, which the caller holds.
    """
    known: dict[TensorType, int] = {}
    live = highest = 0
    at = graph.nodes[0]
    freed: dict[int, list[Node]] = {}
    keep = set(graph.outputs.values())
    for source, position in walk.last_uses(graph.nodes).items():
        if source not in keep:
            freed.setdefault(position, []).append(source)
    for position, node in enumerate(graph.nodes):
        live += _bytes(node, sizes, known)
        if live >= highest:
            highest, at = live, node
        for source in freed.get(position, ()):
            live -= _bytes(source, sizes, known)
    return highest, at


def _freed(graph: Graph, slot: Mapping[Node, int]) -> dict[Node, tuple[int, ...]]:
    """For each node the slots that nobody reads after it."""
    keep = set(graph.outputs.values())
    free: dict[Node, list[int]] = {}
    for source, position in walk.last_uses(graph.nodes).items():
        if source not in keep:
            free.setdefault(graph.nodes[position], []).append(slot[source])
    return {node: tuple(slots) for node, slots in free.items()}


def _bytes(node: Node, sizes: Mapping[str, int], known: dict[TensorType, int]) -> int:
    """The bytes of a node's value; `known` keeps those of types that were asked for."""
    if node.op.cheap and node.op.name != "reshape":  # a reshape of a transposed value is a copy
        return 0
    size = known.get(node.type)
    if size is None:
        size = known[node.type] = prod(node.type.bind(sizes)) * node.type.dtype.itemsize
    return size
