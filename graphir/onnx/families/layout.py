"""Shapes of values: Reshape, Transpose, Expand, Tile and their kin."""

from graphir import array, dims, manipulate
from graphir.dims import Dim
from graphir.errors import ShapeError
from graphir.expr import Expr
from graphir.onnx.call import Call, reads
from graphir.products import element_count
from graphir.types import broadcast_shapes


@reads("Reshape")
def _reshape(call: Call) -> Expr:
    x = call[0]
    wanted: list[Dim] = list(call.attributes["shape"]) if "shape" in call.attributes else call.dims(1)
    if not call.attr("allowzero", 0):
        wanted = [x.shape[k] if d == 0 and k < x.ndim else d for k, d in enumerate(wanted)]
    return manipulate.reshape(x, _without_unknown(wanted, x))


def _without_unknown(wanted: list[Dim], x: Expr) -> list[Dim]:
    """-1 next to a size of 0 is 0 if the value is empty."""
    if -1 in wanted and 0 in wanted and element_count(x.shape) == 0:
        return [0 if d == -1 else d for d in wanted]
    return wanted


@reads("Flatten")
def _flatten(call: Call) -> Expr:
    x = call[0]
    axis = call.attr("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return manipulate.reshape(x, (element_count(x.shape[:axis]), element_count(x.shape[axis:])))


@reads("Transpose")
def _transpose(call: Call) -> Expr:
    return manipulate.transpose(call[0], call.attr("perm"))


@reads("Unsqueeze")
def _unsqueeze(call: Call) -> Expr:
    x = call[0]
    axes = call.axes(1)
    if axes is None:
        raise ShapeError("Unsqueeze needs axes; export the model again")
    rank = x.ndim + len(axes)
    added = {array.normal_axis(axis, rank) for axis in axes}
    if len(added) != len(axes):
        raise ShapeError(f"Unsqueeze names an axis twice: {axes}")
    rest = iter(x.shape)
    return manipulate.reshape(x, tuple(1 if axis in added else next(rest) for axis in range(rank)))


@reads("Squeeze")
def _squeeze(call: Call) -> Expr:
    x = call[0]
    axes = call.axes(1)
    if axes is None:
        axes = [axis for axis, d in enumerate(x.shape) if d == 1]
    return manipulate.squeeze(x, axes) if axes else x


@reads("Expand")
def _expand(call: Call) -> Expr:
    x = call[0]
    return manipulate.broadcast_to(x, broadcast_shapes(x.shape, tuple(call.dims(1))))


@reads("Tile")
def _tile(call: Call) -> Expr:
    x = call[0]
    repeats = call.dims(1)
    if len(repeats) != x.ndim:
        raise ShapeError(f"Tile needs one repeat for each of {x.ndim} axes, not {len(repeats)}")
    spaced = manipulate.reshape(x, tuple(d for size in x.shape for d in (1, size)))
    pairs = tuple(d for repeat, size in zip(repeats, x.shape, strict=True) for d in (repeat, size))
    grown = manipulate.broadcast_to(spaced, pairs)
    return manipulate.reshape(grown, tuple(dims.multiply(r, d) for r, d in zip(repeats, x.shape, strict=True)))


@reads("DepthToSpace")
def _depth_to_space(call: Call) -> Expr:
    x = call[0]
    n, c, h, w = x.shape
    b = int(call.need("blocksize"))
    depth = dims.exact_quotient(c, b * b)
    if depth is None:
        raise ShapeError(f"{c} channels do not divide into blocks of {b} x {b}")
    blocks: tuple[Dim, ...]
    if call.attr("mode", "DCR") == "DCR":
        blocks, order = (n, b, b, depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        blocks, order = (n, depth, b, b, h, w), (0, 1, 4, 2, 5, 3)
    moved = manipulate.permute_dims(manipulate.reshape(x, blocks), order)
    return manipulate.reshape(moved, (n, depth, dims.multiply(h, b), dims.multiply(w, b)))


@reads("SpaceToDepth")
def _space_to_depth(call: Call) -> Expr:
    x = call[0]
    n, c, h, w = x.shape
    b = int(call.need("blocksize"))
    height, width = dims.exact_quotient(h, b), dims.exact_quotient(w, b)
    if height is None or width is None:
        raise ShapeError(f"{h} x {w} does not divide into blocks of {b} x {b}")
    order = (0, 1, 3, 5, 2, 4) if call.attr("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    moved = manipulate.permute_dims(manipulate.reshape(x, (n, c, height, b, width, b)), order)
    return manipulate.reshape(moved, (n, dims.multiply(c, b * b), height, width))
