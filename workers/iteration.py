"""One iteration on one rank: the steps of a job's work, each in the rank's own tasks, and the values that come and go.

Every rank goes through the steps in the same order and sends what it makes before it waits for anything.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from graphir.node import Array
from workers.route import blocks_read
from workers.tree import Tree
from workers.work import EVERYWHERE, Cell, Dims, ReadWork, StepWork

if TYPE_CHECKING:
    from workers.runner import Runner

Blocks: TypeAlias = dict[Cell, Array]
Kept: TypeAlias = Array | Blocks


class Iteration:
    """One iteration on one rank: values by name, whole, in blocks, or as subtrees of sums."""

    def __init__(self, runner: "Runner", ticket: int, turn: int, carried: Mapping[str, Kept]) -> None:
        self.runner, self.work, self.route, self.rank = runner, runner.work, runner.route, runner.rank
        self.tag = (ticket, turn)
        self.values: dict[str, Kept] = dict(carried)
        self.sums: dict[str, dict[Cell, Tree[Array]]] = {}
        self.combines = {step.reads[0].value: step for step in self.work.steps if step.kind == "combine"}

    def perform(self) -> dict[str, Kept]:
        """All steps; the carried values of the next iteration."""
        for number, step in enumerate(self.work.steps):
            if step.kind == "combine":
                self._combine(step)
            else:
                self._run(step)
            self._forget(number)
        self._deliver()
        carry = self.work.carry.items()
        return {name: self._carried(name, value) for name, value in carry if self._is_here(value)}

    def numbers(self) -> dict[str, float]:
        """The numbers to watch, on rank 0."""
        if self.rank:
            return {}
        return {name: float(np.asarray(self._whole(value))) for name, value in self.work.numbers.items()}

    def kept(self) -> dict[str, Kept]:
        """The values to keep as far as they are here."""
        return {value: self._kept_value(value) for value in self.work.keep if self._is_here(value)}

    # ---- steps ----

    def _run(self, step: StepWork) -> None:
        """This rank's tasks of a map or single step."""
        tasks = self.route.tasks(self.rank, step)
        if not tasks:
            return
        for read in step.reads:
            if not self.work.dims(read.value):
                self._whole(read.value)
        self.runner.flush()
        for task in tasks:
            feeds = {read.input: self._read(read, step.over, task) for read in step.reads}
            for value, array in self.runner.execute(step.program, feeds, step.over, task).items():
                self._made(value, task, array)

    def _combine(self, step: StepWork) -> None:
        value, result, along = step.reads[0].value, step.writes[0], step.along
        assert along is not None
        trees = self.sums.pop(value, {})
        if step.at == EVERYWHERE:
            tree = trees.get(()) or self._tree(value, ())
            self._exchange(value, along, tree)
            self._made(result, (), tree.root)
            return
        for cell in sorted({*trees, *self.route.tasks(self.rank, step)}):
            tree = trees.get(cell) or self._tree(value, cell)
            self._pass_up(value, along, cell, tree)
            root = self._root(value, along, cell, step, tree)
            if root is not None:
                self._made(result, cell, root)

    def _exchange(self, value: str, along: str, tree: Tree[Array]) -> None:
        """Every rank gives its subtrees to all others and joins all of them."""
        everyone = range(self.route.ranks)
        for place in sorted(tree.parts):
            self.runner.send(everyone, (*self.tag, value, *place), tree.parts[place])
        for rank in everyone:
            for _, places in self.route.trees(rank, value, along) if rank != self.rank else ():
                for place in places:
                    tree.add(place, self.runner.receive(rank, (*self.tag, value, *place)))

    def _pass_up(self, value: str, along: str, cell: Cell, tree: Tree[Array]) -> None:
        """Subtrees go to the left, to the owner of the one that each is joined with, until one rank has the root."""
        while tree.parts and tree.top not in tree.parts:
            place = max(tree.parts, key=lambda place: place[1] << place[0])
            level, index = place
            if index % 2:
                array = tree.parts.pop(place)
                left = self.route.leaf(value, along, cell, (level, index - 1))
                self.runner.send([left], (*self.tag, value, *cell, *place), array)
            else:
                right = (level, index + 1)
                owner = self.route.leaf(value, along, cell, right)
                tree.add(right, self.runner.receive(owner, (*self.tag, value, *cell, *right)))

    def _root(self, value: str, along: str, cell: Cell, step: StepWork, tree: Tree[Array]) -> Array | None:
        """The sum at the rank that performs the step, to which the owner of the first summand sends it."""
        at = self.route.owner(step.over, cell) if step.over else step.at
        first = self.route.leaf(value, along, cell, (0, 0))
        tag = (*self.tag, value, *cell, "root")
        if self.rank == first and at != first:
            self.runner.send([at], tag, tree.root)
        if self.rank != at:
            return None
        return tree.root if at == first else self.runner.receive(first, tag)

    def _tree(self, value: str, cell: Cell) -> Tree[Array]:
        step = self.combines[value]
        (total,) = self.work.counts((step.along or "",))

        def join(left: Array, right: Array) -> Array:
            (result,) = self.runner.execute(
                step.program, {"left": left, "right": right}, step.over, cell if step.over else ()
            ).values()
            return result

        return Tree(total, join)

    # ---- values ----

    def _made(self, value: str, cell: Cell, array: Array) -> None:
        """A value, or a block of it, is here: keep it and hand it on."""
        if value in self.combines:
            self._summand(value, cell, array)
        elif cell:
            self._blocks(value)[cell] = array
            self.runner.send(self.route.readers(value, cell), (*self.tag, value, *cell), array)
        else:
            self.values[value] = array
            self.runner.send(self.route.receivers(value, self.rank), (*self.tag, value), array)

    def _summand(self, value: str, cell: Cell, array: Array) -> None:
        at = self.work.dims(value).index(self.combines[value].along or "")
        rest = (*cell[:at], *cell[at + 1 :])
        trees = self.sums.setdefault(value, {})
        if rest not in trees:
            trees[rest] = self._tree(value, rest)
        trees[rest].add((0, cell[at]), array)

    def _whole(self, value: str) -> Array:
        """A whole value, from here or from whoever makes it."""
        known = self.values.get(value)
        if known is not None and not isinstance(known, dict):
            return known
        if known is None and value not in self.route.makers:
            return self.runner.feed(value).whole()
        if self.work.dims(value):
            every = product(*map(range, self.work.counts(self.work.dims(value))))
            self.values[value] = whole = joined_blocks(
                {cell: self._block(value, cell) for cell in every}, self.work.blocks[value].values()
            )
            return whole
        array = self.runner.receive(self.route.giver(value, self.rank), (*self.tag, value))
        self._made(value, (), array)
        return array

    def _block(self, value: str, cell: Cell) -> Array:
        """One block of a value, from here, from a feed, or from whoever makes it."""
        known = self.values.get(value)
        if known is not None and not isinstance(known, dict):
            return self.runner.block_of(known, value, cell)
        if value not in self.route.makers and known is None:
            return self._fed(value, cell)
        blocks = self._blocks(value)
        if cell not in blocks:
            owner = self.route.owner(self.work.dims(value), cell)
            blocks[cell] = self.runner.receive(owner, (*self.tag, value, *cell))
        return blocks[cell]

    def _fed(self, value: str, cell: Cell) -> Array:
        """A block of a feed, which keeps what is sliced along one axis."""
        feed = self.runner.feed(value)
        slices = [(dim, axis, k) for (dim, axis), k in zip(self.work.blocks[value].items(), cell, strict=True)]
        dim, axis, chunk = min(slices, key=lambda each: each[1] or 0)
        first = feed.slice(axis or 0, *self.work.span(dim, chunk, feed.rows(axis or 0)))
        return self.runner.cut(first, [each for each in slices if each[0] != dim])

    def _blocks(self, value: str) -> Blocks:
        blocks = self.values.setdefault(value, {})
        assert isinstance(blocks, dict)
        return blocks

    def _read(self, read: ReadWork, over: Dims, task: Cell) -> Array:
        """What a task reads: own blocks along its dimensions, all along others, then slices of what is whole."""
        place, of = dict(zip(over, task, strict=True)), self.work.dims(read.value)
        slices = [(dim, axis, place[dim]) for dim, axis in read.slices]
        if not of and slices and read.value in self.work.inputs and read.value not in self.values:
            (dim, axis, chunk), *others = slices
            feed = self.runner.feed(read.value)
            return self.runner.cut(feed.slice(axis, *self.work.span(dim, chunk, feed.rows(axis))), others)
        if not set(of) & set(over):
            return self.runner.cut(self._whole(read.value), slices)
        cells = list(blocks_read(self.work, over, of, task))
        if len(cells) == 1:
            return self.runner.cut(self._block(read.value, cells[0]), slices)
        axes = [None if dim in place else axis for dim, axis in self.work.blocks[read.value].items()]
        found = joined_blocks({cell: self._block(read.value, cell) for cell in cells}, axes)
        return self.runner.cut(found, slices)

    def _carried(self, name: str, value: str) -> Kept:
        if self.route.carried_whole(name):
            return self._whole(value)
        return {cell: self._block(value, cell) for cell in self.route.wanted(self.rank, name)}

    def _kept_value(self, value: str) -> Kept:
        known = self.values.get(value)
        if known is not None and not isinstance(known, dict):
            return known
        if not self.work.dims(value):
            return self._whole(value)
        return {cell: self._block(value, cell) for cell in self.route.own(self.rank, self.work.dims(value))}

    def _is_here(self, value: str) -> bool:
        """Whether this rank has the value, or is to have it."""
        if value in self.values or value in self.work.inputs or value in self.work.blocks:
            return True
        return self.rank in self.route.wholes.get(value, ())

    def _deliver(self) -> None:
        """Hand on what later iterations or others need and no step here has asked for."""
        for value in self.route.makers:
            wanted = self.rank in self.route.wholes.get(value, ())
            unread = value not in self.route.last or value in self._last_words()
            if wanted and unread and value not in self.values:
                self._whole(value)

    def _last_words(self) -> frozenset[str]:
        return frozenset((*self.work.carry.values(), *self.work.keep))

    def _forget(self, number: int) -> None:
        """Free the values that no later step reads and nobody keeps."""
        needed = self._last_words()
        for read in self.work.steps[number].reads:
            if self.route.last[read.value] == number and read.value not in needed:
                self.values.pop(read.value, None)


def joined_blocks(blocks: Mapping[Cell, Array], axes: Iterable[int | None]) -> Array:
    """The array that blocks make up; `axes`: the axis of each of their dimensions, None where all have the same chunk."""
    axes = list(axes)
    while axes:
        axis = axes.pop()
        rows: dict[Cell, list[Array]] = {}
        for cell in sorted(blocks):
            rows.setdefault(cell[:-1], []).append(blocks[cell])
        blocks = {cell: row[0] if axis is None else np.concatenate(row, axis=axis) for cell, row in rows.items()}
    return np.asarray(blocks[()], order="C")
