"""How windows and convolutions are written: by Conv where the runtime has it, else by takes and products of matrices."""

from typing import Any

import numpy as np

from graphir import dims, walk
from graphir.node import Node
from graphir.onnx.writer import Writer, write_nodes, writes
from graphir.ops import contraction, indexing, layout
from graphir.ops.arithmetic import divide, multiply
from graphir.ops.convolution import conv, conv_input
from graphir.ops.correlate import Windows
from graphir.ops.reduction import reduce_max
from graphir.ops.select import cast, equal
from graphir.ops.sources import literal
from graphir.ops.windows import unwindows, windows
from graphir.types import FLOAT32, Shape


def _written(w: Writer, node: Node, same: Node, *inputs: str) -> str:
    """The same value made of other ops on the node's inputs."""
    names = dict(zip(node.inputs, inputs, strict=True))
    write_nodes(w, walk.ancestors([same], stop=frozenset(names)), names)
    return names[same]


# ---- windows ----


def _positions(g: Windows, axis: int) -> Node:
    """Where each element of each window lies: (outputs, kernel)."""
    starts = np.arange(g.outputs[axis])[:, None] * g.strides[axis]
    return literal(starts + np.arange(g.kernel[axis]) * g.dilations[axis], "int64")


def _taken(x: Node, g: Windows) -> Node:
    """(leading axes, outputs, kernel)"""
    rank = len(g.kernel)
    lead = x.type.rank - rank
    for axis in range(rank):
        x = indexing.take(x, _positions(g, axis), axis=lead + 2 * axis)
    order = (*range(lead), *range(lead, x.type.rank, 2), *range(lead + 1, x.type.rank, 2))
    return layout.permute(x, axes=order)


def _added(x: Node, g: Windows, sizes: tuple[int, ...]) -> Node:
    """The adjoint of that."""
    rank = len(g.kernel)
    lead = x.type.rank - 2 * rank
    pairs = [axis for k in range(rank) for axis in (lead + k, lead + rank + k)]
    x = layout.permute(x, axes=(*range(lead), *pairs))
    for axis in reversed(range(rank)):
        x = indexing.scatter_add(x, _positions(g, axis), axis=lead + 2 * axis, size=sizes[axis])
    return x


@writes("windows")
def _windows(w: Writer, node: Node, x: str) -> str:
    (source,) = node.inputs
    kernel, outputs, strides, dilations = (node.attr(k) for k in ("kernel", "outputs", "strides", "dilations"))
    g = Windows(kernel, strides, dilations, (0,) * len(kernel), outputs)
    sizes = source.type.shape[source.type.rank - len(kernel) :]
    return _written(w, node, _taken(_reached(source, g, sizes), g), x)


@writes("unwindows")
def _unwindows(w: Writer, node: Node, x: str) -> str:
    (source,) = node.inputs
    sizes = node.attr("sizes")
    lead, rank = source.type.rank - 2 * len(sizes), len(sizes)
    parts = [int(d) for d in source.type.shape[lead:]]
    g = Windows(tuple(parts[rank:]), node.attr("strides"), node.attr("dilations"), (0,) * rank, tuple(parts[:rank]))
    return _written(w, node, _unreached(_added(source, g, g.reach), g, sizes), x)


def _reached(x: Node, g: Windows, sizes: Shape) -> Node:
    """What the windows reach of the last axes, zeros where there is nothing."""
    lead = x.type.rank - len(g.kernel)
    for k, (size, reach, before) in enumerate(zip(sizes, g.reach, g.before, strict=True)):
        axis, end = lead + k, min(int(size), reach - before)
        begin = min(max(-before, 0), max(end, 0))
        x = layout.slice_(x, axis=axis, start=begin, stop=max(end, begin), step=1)
        x = layout.place(x, axis=axis, size=reach, start=min(begin + before, reach) if end > begin else 0, step=1)
    return x


def _unreached(x: Node, g: Windows, sizes: tuple[int, ...]) -> Node:
    """The adjoint of that."""
    lead = x.type.rank - len(g.kernel)
    for k, (size, reach, before) in enumerate(zip(sizes, g.reach, g.before, strict=True)):
        axis, end = lead + k, min(size, reach - before)
        begin = min(max(-before, 0), max(end, 0))
        start = min(begin + before, reach) if end > begin else 0
        x = layout.slice_(x, axis=axis, start=start, stop=start + max(end - begin, 0), step=1)
        x = layout.place(x, axis=axis, size=size, start=begin, step=1)
    return x


@writes("window_max")
def _window_max(w: Writer, node: Node, x: str) -> str:
    (source,) = node.inputs
    return _written(w, node, _largest(source, dict(node.attrs)), x)


def _largest(x: Node, attrs: dict[str, Any]) -> Node:
    wide = windows(x, **attrs)
    return reduce_max(wide, axes=tuple(range(x.type.rank, wide.type.rank)))


@writes("window_max_share")
def _window_max_share(w: Writer, node: Node, ct: str, x: str) -> str:
    given, source = node.inputs
    attrs = dict(node.attrs)
    wide = windows(source, **attrs)
    axes = tuple(range(source.type.rank, wide.type.rank))
    tied = cast(equal(wide, layout.spread(_largest(source, attrs), wide, axes)), dtype=node.type.dtype.name)
    part = divide(given, layout.reduce_sum(tied, axes=axes))
    parts = multiply(layout.spread(part, wide, axes), tied)
    lead = source.type.rank - len(attrs["kernel"])
    sizes = tuple([int(d) for d in source.type.shape[lead:]])
    same = unwindows(parts, sizes=sizes, strides=attrs["strides"], dilations=attrs["dilations"])
    return _written(w, node, same, ct, x)


# ---- convolutions, as products of matrices for each group ----


def _rows(x: Node, g: Windows, groups: int) -> Node:
    """(groups, batch * outputs, channels * kernel) of what is convolved."""
    rank = len(g.kernel)
    batch, channels, *sizes = x.type.shape
    share = dims.exact_quotient(channels, groups) or 0
    taken = _taken(_reached(x, g, tuple(sizes)), g)
    split = layout.reshape(taken, shape=(batch, groups, share, *g.outputs, *g.kernel))
    turned = layout.permute(split, axes=(1, 0, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank)))
    places = layout.element_count((batch, *g.outputs))
    return layout.reshape(turned, shape=(groups, places, dims.multiply(share, g.taps)))


def _columns(y: Node, groups: int) -> Node:
    """(groups, filters, batch * outputs)"""
    batch, filters, *outputs = y.type.shape
    made = dims.exact_quotient(filters, groups) or 0
    split = layout.reshape(y, shape=(batch, groups, made, *outputs))
    turned = layout.permute(split, axes=(1, 2, 0, *range(3, split.type.rank)))
    return layout.reshape(turned, shape=(groups, made, layout.element_count((batch, *outputs))))


def _kernels(w: Node, groups: int) -> Node:
    """(groups, filters, channels * kernel)"""
    made = dims.exact_quotient(w.type.shape[0], groups) or 0
    return layout.reshape(w, shape=(groups, made, layout.element_count(w.type.shape[1:])))


@writes("conv", "conv_input", "conv_kernel")
def _convolution(w: Writer, node: Node, first: str, second: str) -> str:
    strides, dilations, before, groups = (node.attr(k) for k in ("strides", "dilations", "before", "groups"))
    left, right = node.inputs
    if node.op is conv:
        g = Windows(tuple(map(int, right.type.shape[2:])), strides, dilations, before, node.attr("outputs"))
        after = [int(r) - b - int(s) for r, b, s in zip(g.reach, before, left.type.shape[2:], strict=True)]
        if node.type.dtype == FLOAT32 and min(*before, *after) >= 0:
            return w.emit(
                "Conv", first, second, strides=strides, dilations=dilations, pads=[*before, *after], group=groups
            )
        product = contraction.matmul(_kernels(right, groups), contraction.transpose(_rows(left, g, groups)))
        return _written(w, node, _from_columns(product, node.type.shape), first, second)
    outputs = tuple([int(d) for d in (left if node.op is conv_input else right).type.shape[2:]])
    if node.op is conv_input:
        g = Windows(tuple([int(d) for d in right.type.shape[2:]]), strides, dilations, before, outputs)
        rows = contraction.matmul(contraction.transpose(_columns(left, groups)), _kernels(right, groups))
        return _written(w, node, _from_rows(rows, g, node), first, second)
    g = Windows(node.attr("kernel"), strides, dilations, before, outputs)
    product = contraction.matmul(_columns(right, groups), _rows(left, g, groups))
    return _written(w, node, layout.reshape(product, shape=node.type.shape), first, second)


def _from_columns(product: Node, shape: Shape) -> Node:
    """[batch, filters, outputs...] from (groups, filters, batch * outputs)."""
    batch, _, *outputs = shape
    groups, made, _ = product.type.shape
    split = layout.reshape(product, shape=(groups, made, batch, *outputs))
    turned = layout.permute(split, axes=(2, 0, 1, *range(3, split.type.rank)))
    return layout.reshape(turned, shape=shape)


def _from_rows(rows: Node, g: Windows, node: Node) -> Node:
    """[batch, channels, sizes...] from (groups, batch * outputs, channels * kernel)."""
    rank = len(g.kernel)
    batch, channels, *_ = node.type.shape
    groups = rows.type.shape[0]
    share = dims.exact_quotient(channels, groups) or 0
    split = layout.reshape(rows, shape=(groups, batch, *g.outputs, share, *g.kernel))
    turned = layout.permute(split, axes=(1, 0, 2 + rank, *range(2, 2 + rank), *range(3 + rank, 3 + 2 * rank)))
    joined = layout.reshape(turned, shape=(batch, channels, *g.outputs, *g.kernel))
    return _unreached(_added(joined, g, g.reach), g, node.attr("sizes"))
