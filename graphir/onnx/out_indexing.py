"""How picking by positions, its adjoints and searches are written."""

from graphir import dims
from graphir.dims import Dim
from graphir.node import Node
from graphir.onnx.writer import Writer, writes
from graphir.types import INT64, Shape


@writes("take")
def _take(w: Writer, node: Node, x: str, indices: str) -> str:
    return w.emit("Gather", x, _positions(w, node, indices), axis=node.attr("axis"))


@writes("take_along_axis")
def _take_along(w: Writer, node: Node, x: str, indices: str) -> str:
    return w.emit("GatherElements", x, _positions(w, node, indices), axis=node.attr("axis"))


def _positions(w: Writer, node: Node, indices: str) -> str:
    """ONNX takes int32 and int64 positions only."""
    return indices if node.inputs[1].type.dtype.name in ("int32", "int64") else w.cast(indices, INT64)


@writes("scatter_add")
def _scatter(w: Writer, node: Node, updates: str, indices: str) -> str:
    """ScatterElements over positions spread to the shape of the updates, with the positions' axes made one."""
    shape, places = node.inputs[0].type.shape, node.inputs[1].type.shape
    axis = node.attr("axis")
    left, right = shape[:axis], shape[axis + len(places) :]
    count: Dim = 1
    for d in places:
        count = dims.multiply(count, d)
    flat: Shape = (*left, count, *right)
    column = w.reshape(_positions(w, node, indices), (count, *[1 for _ in right]))
    spread = w.emit("Expand", column, w.vector(flat))
    return _add_at(w, node, w.reshape(updates, flat), spread, axis)


@writes("scatter_add_along_axis")
def _scatter_along(w: Writer, node: Node, updates: str, indices: str) -> str:
    return _add_at(w, node, updates, _positions(w, node, indices), node.attr("axis"))


def _add_at(w: Writer, node: Node, updates: str, indices: str, axis: int) -> str:
    zeros = w.fill(0, node.type.dtype, node.type.shape)
    return w.emit("ScatterElements", zeros, indices, updates, axis=axis, reduction="add")


# ---- several axes at once: the axes picked from go to the front, their positions become one coordinate ----


def _coordinates(w: Writer, node: Node, indices: tuple[str, ...]) -> str:
    """Positions for each axis as the last axis of one value; negative ones count from the end in ONNX, too."""
    rank = node.inputs[1].type.rank
    wide = [w.cast(name, INT64) for name in indices]
    return w.emit("Concat", *[w.emit("Unsqueeze", name, w.ints([rank])) for name in wide], axis=rank)


@writes("take_at")
def _take_at(w: Writer, node: Node, x: str, *indices: str) -> str:
    axes, rank = node.attr("axes"), node.inputs[0].type.rank
    front = [*axes, *[axis for axis in range(rank) if axis not in axes]]
    moved = w.emit("Transpose", x, perm=front)
    return w.emit("GatherND", moved, _coordinates(w, node, indices))


@writes("scatter_add_at")
def _scatter_at(w: Writer, node: Node, updates: str, *indices: str) -> str:
    axes, shape = node.attr("axes"), node.type.shape
    front = [*axes, *[axis for axis in range(len(shape)) if axis not in axes]]
    zeros = w.fill(0, node.type.dtype, tuple(shape[axis] for axis in front))
    added = w.emit("ScatterND", zeros, _coordinates(w, node, indices), updates, reduction="add")
    return w.emit("Transpose", added, perm=[front.index(axis) for axis in range(len(shape))])


@writes("searchsorted")
def _search(w: Writer, node: Node, ordered: str, values: str) -> str:
    """The number of elements that are less, or less or equal."""
    column = w.emit("Unsqueeze", values, w.ints([node.type.rank]))
    before = w.emit("Less" if node.attr("side") == "left" else "LessOrEqual", ordered, column)
    return w.emit("ReduceSum", w.cast(before, INT64), w.ints([node.type.rank]), keepdims=0)
