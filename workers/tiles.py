"""Running a plan over tiles: what a chunk of rows needs is computed while the rows are in cache.

Threads take contiguous ranges of the tiles of a map step, each with one BLAS thread, and join subtrees of partial sums as they
come. Borders and trees are the plan's, so no bit depends on the number of threads. A value between steps is one array: a tile
writes its slice of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphir import dims
from graphir.interpret import kernel_error
from graphir.node import Array, Node
from graphir.partition.plan import Step
from workers import backends, blas
from workers.bound import Bound, Look
from workers.crew import share
from workers.footprint import has_large_values
from workers.program import Program, compiled
from workers.tiling import Tiling
from workers.tree import Tree, chunk_range, joined
from workers.whole import Streamed

Join: TypeAlias = Callable[[Array, Array], Array]


class Tiled:
    """A graph in tiles, run as a `Bound` is. sizes, offsets: those of the graph's own dimensions."""

    def __init__(
        self,
        tiling: Tiling,
        kernels: backends.Kernels,
        threads: int,
        sizes: Mapping[str, int],
        offsets: Mapping[str, int],
        loop: Callable[..., Any] | None = None,
        stream: Callable[..., Any] | None = None,
    ) -> None:
        plan = tiling.plan
        self.sizes = {**sizes, **plan.widest([tiling.cut])}
        self._outputs = [plan.outputs[name] for name in plan.graph.outputs]
        combines = {step.reads[0].value: step for step in plan.steps if step.kind == "combine"}
        bindings = _Bindings(
            tiling, kernels, (loop, stream), self.sizes, {**offsets, tiling.cut: _offset(tiling.whole, sizes, offsets)}
        )
        self._steps: list[tuple[_Map | _Single, list[str]]] = []
        last = {read.value: number for number, step in enumerate(plan.steps) for read in step.reads}
        kept = {*self._outputs, *plan.graph.inputs}
        for number, step in enumerate(plan.steps):
            dead = [read.value for read in step.reads if last[read.value] == number and read.value not in kept]
            if step.kind == "map":
                self._steps.append((_Map(step, bindings, combines, threads), dead))
            elif step.kind == "single":
                self._steps.append((_Single(step, bindings), dead))

    def run(self, arrays: Mapping[str, Array], look: Look | None = None) -> list[Array]:
        """The outputs; with `look`, which is called as by `Bound.run`, one thread takes all tiles."""
        values = dict(arrays)
        with blas.threads(1):
            for step, dead in self._steps:
                step.run(values, look)
                for name in dead:
                    values.pop(name, None)
        return [values[name] for name in self._outputs]


class _Bindings:
    """Programs bound to the whole, or to a tile; tiles of one length share a binding unless they look at where they are."""

    def __init__(
        self,
        tiling: Tiling,
        kernels: backends.Kernels,
        compilers: tuple[Callable[..., Any] | None, Callable[..., Any] | None],
        sizes: Mapping[str, int],
        offsets: Mapping[str, int],
    ) -> None:
        self.plan, self.cut, self.kernels, (self._loop, self._stream) = tiling.plan, tiling.cut, kernels, compilers
        self.sizes, self.offsets = sizes, offsets
        self.tiles = tiling.tiles
        self.local = dims.local(tiling.cut)

    def program(self, step: Step, sizes: Mapping[str, int]) -> Program:
        """Fused groups belong to one thread: the others have tiles of their own."""
        fused = has_large_values(step.program, sizes)
        return compiled(step.program, self.kernels, 1, fused=fused or self._loop is not None, loop=self._loop)

    def single(self, step: Step) -> Bound:
        return self._bound(step, self.program(step, self.sizes), self.sizes, self.offsets)

    def each(self, step: Step) -> "list[Bound | Streamed]":
        """A binding for each tile."""
        located = any(node.op.located for node in step.program.nodes)
        known: dict[tuple[int, int], Bound | Streamed] = {}
        stream = None
        if self._stream is not None and not located:
            stream = self._stream(step.program, step.writes, self.local, self.sizes, self.offsets)
        program = self.program(step, {**self.sizes, self.local: max(end - begin for begin, end in self.tiles)})
        found = []
        for begin, end in self.tiles:
            key = end - begin, begin if located else 0
            if key not in known:
                sizes = {**self.sizes, self.local: end - begin}
                offsets = {**self.offsets, self.local: self.offsets[self.cut] + begin}
                bound = self._bound(step, program, sizes, offsets)
                known[key] = bound if stream is None else Streamed(step.program, stream, bound)
            found.append(known[key])
        return found

    def _bound(self, step: Step, program: Program, sizes: Mapping[str, int], offsets: Mapping[str, int]) -> Bound:
        slot = {node: k for k, node in enumerate(step.program.nodes)}
        inputs = {name: slot[node] for name, node in step.program.inputs.items()}
        outputs = [slot[step.program.outputs[name]] for name in step.writes]
        return Bound(program, inputs, outputs, sizes, offsets, check_finite=False)


class _Single:
    """A step that runs once, between the tiles."""

    def __init__(self, step: Step, bindings: _Bindings) -> None:
        self._step, self._bound = step, bindings.single(step)

    def run(self, values: dict[str, Array], look: Look | None) -> None:
        """Add what the step makes to the values."""
        made = self._bound.run({read.input: values[read.value] for read in self._step.reads}, look)
        values.update((name, np.asarray(array, order="C")) for name, array in zip(self._step.writes, made, strict=True))


class _Map:
    """A step that runs for each tile, and the joining of its partial results."""

    def __init__(self, step: Step, bindings: _Bindings, combines: Mapping[str, Step], threads: int) -> None:
        self._bounds, self._tiles, self._size = bindings.each(step), bindings.tiles, bindings.plan.sizes[bindings.cut]
        self._threads = max(1, min(threads, len(self._tiles)))
        blocks = {name: value.blocks for name, value in bindings.plan.values.items()}
        self._reads = [
            (read.input, read.value, read.slices[0][1] if read.slices else _axis(blocks.get(read.value, ())))
            for read in step.reads
        ]
        self._shards: list[tuple[int, str, int, tuple[int, ...], Node]] = []
        self._partials: list[tuple[int, str, Join]] = []
        for k, name in enumerate(step.writes):
            axis = _axis(blocks[name])
            if axis is None:
                combine = combines[name]
                self._partials.append((k, combine.writes[0], _join(combine, bindings.kernels)))
            else:
                shape = bindings.plan.values[name].type.bind(bindings.sizes)
                self._shards.append((k, name, axis, shape, step.program.outputs[name]))

    def run(self, values: dict[str, Array], look: Look | None) -> None:
        """Add what the step makes to the values."""
        wholes = [_empty(shape, node) for *_, shape, node in self._shards]
        threads = 1 if look is not None else self._threads
        trees: dict[int, list[Tree[Array]]] = {}

        def run(number: int) -> None:
            numbers = range(*chunk_range(number, threads, len(self._tiles)))
            trees[number] = self._range(values, wholes, numbers, look)

        share(threads, threads, run)
        values.update((name, whole) for (_, name, *_), whole in zip(self._shards, wholes, strict=True))
        for number, (_, name, join) in enumerate(self._partials):
            found = {place: array for tree in trees.values() for place, array in tree[number].parts.items()}
            values[name] = joined(len(self._tiles), found, join)

    def _range(
        self, values: Mapping[str, Array], wholes: Sequence[Array], numbers: range, look: Look | None
    ) -> list[Tree[Array]]:
        """Some tiles, one after the other; subtrees of the partial results."""
        trees = [Tree[Array](len(self._tiles), join) for *_, join in self._partials]
        partials = [k for k, *_ in self._partials]
        with blas.threads(1):
            for number in numbers:
                made = self._bounds[number].run(self._feeds(values, self._tiles[number]), look)
                for (k, _, axis, *_), whole in zip(self._shards, wholes, strict=True):
                    self._slice(whole, axis, self._tiles[number])[...] = made[k]
                for tree, array in zip(trees, _owned(made, partials), strict=True):
                    tree.add((0, number), array)
        return trees

    def _feeds(self, values: Mapping[str, Array], tile: tuple[int, int]) -> dict[str, Array]:
        return {
            name: np.asarray(self._slice(values[value], axis, tile), order="C") for name, value, axis in self._reads
        }

    def _slice(self, array: Array, axis: int | None, tile: tuple[int, int]) -> Array:
        """A tile's slice; an axis that is a multiple of the dimension is cut in proportion."""
        if axis is None:
            return array
        times = array.shape[axis] // self._size
        return array[(slice(None),) * axis + (slice(tile[0] * times, tile[1] * times),)]


def _empty(shape: tuple[int, ...], node: Node) -> Array:
    """An array for a node's value; LimitError that names the node if there is no memory for it."""
    try:
        return np.empty(shape, node.type.dtype)
    except MemoryError as error:
        raise kernel_error(node, error) from error


def _offset(d: dims.Dim, sizes: Mapping[str, int], offsets: Mapping[str, int]) -> int:
    """Where the graph's own axis begins, if the graph is a chunk of a job."""
    return dims.evaluate(d, {**sizes, **offsets}) if dims.names(d) & offsets.keys() else 0


def _axis(blocks: Sequence[Any]) -> int | None:
    return blocks[0].axis if blocks else None


def _owned(made: list[Any], wanted: Sequence[int]) -> list[Array]:
    """Some of the arrays, in C order, into which a sum may be written: no views, and each by itself; the others are let go."""
    found: list[Array] = []
    for k in wanted:
        array = np.asarray(made[k], order="C")
        made[k] = None
        shared = array.base is not None or not array.flags.writeable or any(array is other for other in made)
        found.append(array.copy("C") if shared else array)
    return found


def _join(combine: Step, kernels: backends.Kernels) -> Join:
    """The kernel of the one node of a combine step, in place where it can be."""
    (node,) = combine.program.outputs.values()
    kernel: Any = kernels(node.op)

    def join(left: Array, right: Array) -> Array:
        with np.errstate(all="ignore"):
            if isinstance(kernel, np.ufunc) and left.ndim:
                return kernel(left, right, out=left)  # type: ignore[no-any-return]
            return np.asarray(kernel(left, right))

    return join
