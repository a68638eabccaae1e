"""How leaves and moves of elements are written."""

from graphir import dims
from graphir.dims import Dim
from graphir.node import Node
from graphir.onnx.writer import Writer, writes
from graphir.types import BOOL, INT64, Shape


@writes("constant")
def _constant(w: Writer, node: Node) -> str:
    return w.constant(node.attr("value").array)


@writes("size")
def _size(w: Writer, node: Node) -> str:
    return w.scalar(node.attr("dim"))


@writes("iota")
def _iota(w: Writer, node: Node) -> str:
    return w.emit("Range", w.constant(0, INT64), w.scalar(node.type.shape[0]), w.constant(1, INT64))


@writes("reshape")
def _reshape(w: Writer, node: Node, x: str) -> str:
    return w.reshape(x, node.type.shape)


@writes("permute")
def _permute(w: Writer, node: Node, x: str) -> str:
    return w.emit("Transpose", x, perm=node.attr("axes"))


@writes("broadcast")
def _broadcast(w: Writer, node: Node, x: str) -> str:
    shape, axes = node.type.shape, node.attr("axes")
    added = [axis for axis in range(len(shape)) if axis not in axes]
    if not added:
        return w.emit("Identity", x)
    inner = [axis for axis in added if axes and axis > axes[0]]  # Expand adds leading axes by itself
    if inner:
        x = w.emit("Unsqueeze", x, w.ints([axis - axes[0] for axis in inner]))
    return w.emit("Expand", x, w.vector(shape))


@writes("slice")
def _slice(w: Writer, node: Node, x: str) -> str:
    return cut(w, x, *[node.attr(name) for name in ("axis", "start", "stop", "step")])


def cut(w: Writer, x: str, axis: int, start: Dim, stop: Dim, step: int = 1) -> str:
    """x[start:stop:step] along one axis."""
    return w.emit("Slice", x, w.vector([start]), w.vector([stop]), w.ints([axis]), w.ints([step]))


@writes("flip")
def _flip(w: Writer, node: Node, x: str) -> str:
    return w.emit("Slice", x, w.ints([-1]), w.ints([-(2**63) + 1]), w.ints([node.attr("axis")]), w.ints([-1]))


@writes("concat")
def _concat(w: Writer, node: Node, *inputs: str) -> str:
    return w.emit("Concat", *inputs, axis=node.attr("axis"))


@writes("place")
def _place(w: Writer, node: Node, x: str) -> str:
    """Zeros before and after; for a step also between, by padding a new axis and cutting the last zeros off."""
    source, dtype = node.inputs[0].type.shape, node.type.dtype
    axis, size, start, step = (node.attr(name) for name in ("axis", "size", "start", "step"))
    count = source[axis]
    if count == 0:
        return w.fill(0, dtype, node.type.shape)
    if step > 1:
        spread = _pad(w, node, w.emit("Unsqueeze", x, w.ints([axis + 1])), axis + 1, 0, step - 1, len(source) + 1)
        flat: Shape = (*source[:axis], dims.multiply(count, step), *source[axis + 1 :])
        used = dims.add(dims.multiply(dims.subtract(count, 1), step), 1)
        x, count = cut(w, w.reshape(spread, flat), axis, 0, used), used
    after = dims.subtract(dims.subtract(size, start), count)
    return _pad(w, node, x, axis, start, after, len(source))


def _pad(w: Writer, node: Node, x: str, axis: int, before: Dim, after: Dim, rank: int) -> str:
    """Zeros along one axis; the runtime pads no 16-bit integers, so zeros are joined on there."""
    if before == after == 0:
        return x
    pads: list[Dim] = [0] * (2 * rank)
    pads[axis], pads[axis + rank] = before, after
    dtype = node.type.dtype
    if dtype.name not in ("int16", "uint16"):
        return w.emit("Pad", x, w.vector(pads), "" if dtype == BOOL else w.constant(0, dtype))
    return w.cast(w.emit("Pad", w.cast(x, INT64), w.vector(pads), w.constant(0, INT64)), dtype)
