"""Evaluating a fused group block by block: each block's intermediate values stay in cache.

Where every operand lies in memory as the result does, or is one element for many, blocks give the same bits as whole arrays:
elementwise kernels do not look at neighbours. Otherwise the group is evaluated node by node. Threads share the blocks; their
borders depend on the shape only, and no bit on them. A group with a compiled loop runs that, unless it calls a value suspect.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from graphir.interpret import bound_attributes, kernel_error
from graphir.node import Array, Node
from graphir.ops.choose import choose
from workers.crew import share
from workers.fuse import Group

if TYPE_CHECKING:
    from workers.backends.llvm.loops import Loop

BLOCK_BYTES = 1 << 16
"""Bytes of one value of a block: all that a group has at one time should fit into the second-level cache."""
BLOCKS_A_PART = 2
"""Fewer are not worth being shared by themselves."""
LOOP_LEAST = 1 << 12
"""Elements from which on a compiled loop is worth its call."""
Kernel: TypeAlias = Callable[..., Array]


def worth_blocks(size: int, itemsize: int) -> bool:
    """Whether so many elements are worth being evaluated block by block."""
    return size >= 2 * (BLOCK_BYTES // itemsize)


class Blocked:
    """A group as one kernel: from the arrays of its inputs to those of its outputs."""

    def __init__(self, group: Group, kernels: Mapping[Node, Kernel], threads: int, loop: "Loop | None" = None) -> None:
        self.group, self.nodes, self.inputs = group, group.nodes, group.inputs
        self._threads, self._loop = threads, loop
        place = {node: k for k, node in enumerate((*self.inputs, *group.nodes))}
        self._kernels = [(kernels[node], bound_attributes(node, {})) for node in group.nodes]
        self._sources = [tuple([place[i] for i in node.inputs]) for node in group.nodes]
        self._outputs = [place[node] for node in group.outputs]
        self._calls = [
            (_into(kernel, attributes), sources, place[node])
            for node, (kernel, attributes), sources in zip(group.nodes, self._kernels, self._sources, strict=True)
        ]
        self._uses = [(node, [place[source] for source in dead]) for node, dead in group.uses]
        self._buffers, self._dtypes = _allocate(group, kernels)
        self._widest = max(node.type.dtype.itemsize for node in place)
        self._block = BLOCK_BYTES // self._widest
        self._scratch = threading.local()

    def is_small(self, size: int) -> bool:
        """Whether values of so many elements are not worth being cut."""
        return size < LOOP_LEAST if self._loop is not None else not worth_blocks(size, self._widest)

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """The outputs, in order."""
        if self._loop is not None and arrays[0].size:
            started = self._loop.start(arrays)
            _share(started.count, max(1, self._block * started.count // arrays[0].size), self._threads, started.run)
            if not started.suspect:
                return tuple(started.outputs)
        operands = None if self.is_small(arrays[0].size) else _aligned(arrays)
        if operands is None:
            return self._node_by_node(arrays)
        shape = arrays[0].shape
        outputs = [np.empty(shape, node.type.dtype) for node in self.group.outputs]
        views = [array.reshape(operands.shape) for array in outputs]
        rows = max(1, self._block // max(1, operands.row))
        _share(operands.shape[0], rows, self._threads, lambda begin, end: self._run(operands, views, rows, begin, end))
        return tuple(outputs)

    def _run(self, operands: "_Operands", outputs: Sequence[Array], rows: int, begin: int, end: int) -> None:
        """The rows from `begin` to `end`, so many at a time."""
        buffers = self._buffers_for((rows, *operands.shape[1:]))
        values: list[Any] = [None] * (len(self.inputs) + len(self.group.nodes))
        done = len(self.inputs)
        try:
            with np.errstate(all="ignore"):
                for first in range(begin, end, rows):
                    last = min(first + rows, end)
                    for k, array in enumerate(operands.arrays):
                        values[k] = array[first:last] if array.ndim else array
                    for place, array in zip(self._outputs, outputs, strict=True):
                        values[place] = array[first:last]
                    for place, buffer in self._buffers.items():
                        values[place] = buffers[buffer] if last - first == rows else buffers[buffer][: last - first]
                    for call, sources, target in self._calls:
                        done = target
                        call(*[values[k] for k in sources], out=values[target])
        except Exception as error:  # noqa: BLE001  # whatever a kernel raises, kernel_error types it or gives it back
            typed = kernel_error(self.group.nodes[done - len(self.inputs)], error)
            raise typed from (None if typed is error else error)

    def _buffers_for(self, shape: tuple[int, ...]) -> list[Array]:
        """This thread's buffers for values of a block that nobody needs outside."""
        known: tuple[tuple[int, ...], list[Array]] | None = getattr(self._scratch, "known", None)
        if known is None or known[0] != shape:
            known = self._scratch.known = shape, [np.empty(shape, dtype) for dtype in self._dtypes]
        return known[1]

    def _node_by_node(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        values: list[Any] = list(arrays)
        for (node, dead), (kernel, attributes), sources in zip(self._uses, self._kernels, self._sources, strict=True):
            try:
                values.append(kernel(*[values[k] for k in sources], **attributes))
            except Exception as error:  # noqa: BLE001
                typed = kernel_error(node, error)
                raise typed from (None if typed is error else error)
            for place in dead:
                values[place] = None
        return tuple([values[k] for k in self._outputs])


@dataclass(frozen=True)
class _Operands:
    """Arrays of one shape, or with no axis where one element stands for all; `row`: elements of a row."""

    arrays: list[Array]
    shape: tuple[int, ...]

    @property
    def row(self) -> int:
        return prod(self.shape[1:])


def _aligned(arrays: Sequence[Array]) -> _Operands | None:
    """The arrays in a form whose rows may be taken one after the other; None if results would not be in C order."""
    if not any(array.flags.c_contiguous for array in arrays) or not all(map(_in_order, arrays)):
        return None
    shape = arrays[0].shape
    single = [not any(array.strides) for array in arrays]
    if all(one or array.flags.c_contiguous for one, array in zip(single, arrays, strict=True)):
        flat = [
            array[(0,) * array.ndim] if one else array.reshape(-1) for one, array in zip(single, arrays, strict=True)
        ]
        return _Operands([np.asarray(array) for array in flat], (prod(shape),))
    lead = next((axis for axis, size in enumerate(shape) if size > 1), 0)
    kept = [array[(0,) * (array.ndim if one else lead)] for one, array in zip(single, arrays, strict=True)]
    return _Operands([np.asarray(array) for array in kept], shape[lead:])


def _in_order(array: Array) -> bool:
    """Whether steps through memory get smaller from axis to axis, axes along which it is repeated aside."""
    strides = [stride for stride, size in zip(array.strides, array.shape, strict=True) if stride and size > 1]
    return strides == sorted(strides, reverse=True) and min(strides, default=0) >= 0


def _allocate(group: Group, kernels: Mapping[Node, Kernel]) -> tuple[dict[int, int], list[Any]]:
    """For the place of each inner value a buffer's number, used again as soon as its value is dead; the buffers' dtypes."""
    first, outputs = len(group.inputs), set(group.outputs)
    free: dict[Any, list[int]] = {}
    buffers: dict[int, int] = {}
    dtypes: list[Any] = []
    held: dict[Node, int] = {}
    for position, (node, dead) in enumerate(group.uses):
        in_place = isinstance(kernels[node], np.ufunc)
        for source in dead if in_place else ():
            free.setdefault(source.type.dtype, []).append(held[source])
        if node not in outputs:
            spare = free.get(node.type.dtype)
            if not spare:
                dtypes.append(node.type.dtype)
                spare = [len(dtypes) - 1]
            held[node] = buffers[first + position] = spare.pop()
        for source in dead if not in_place else ():
            free.setdefault(source.type.dtype, []).append(held[source])
    return buffers, dtypes


def _into(kernel: Kernel, attributes: Mapping[str, Any]) -> Callable[..., Any]:
    """The kernel with an argument `out`, the array for its result."""
    if isinstance(kernel, np.ufunc) or kernel is choose:
        return kernel

    def copied(*arguments: Array, out: Array) -> None:
        np.copyto(out, kernel(*arguments, **attributes))

    return copied


def _share(count: int, rows: int, threads: int, run: Callable[[int, int], None]) -> None:
    """Let threads run contiguous parts of the rows, each of whole blocks."""
    blocks = -(-count // rows)
    parts = max(1, min(2 * threads, blocks // BLOCKS_A_PART)) if threads > 1 else 1
    ends = [min(count, blocks * k // parts * rows) for k in range(parts + 1)]
    share(parts, threads, lambda number: run(ends[number], ends[number + 1]))
