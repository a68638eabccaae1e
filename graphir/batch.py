"""Batching: the same graph over a new leading axis, node by node, without loops.

A batched value has the new axis in front. Attributes follow by what they mean: `axis` and `axes` count one further,
`shape` gets the new size in front, `permute` and `broadcast` map the new axis to itself. Values that do not depend
on what is batched stay as they are and are broadcast where an op needs both alike. Ops whose inputs are not
aligned axis by axis (products, takes and their adjoints) say how below.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from graphir import dims, walk
from graphir.dims import Dim
from graphir.errors import GraphError, ShapeError
from graphir.graph import Graph
from graphir.node import Node, describe, made_by, make
from graphir.ops import arithmetic, contraction, convolution, gather, indexing, layout, random, select, sources
from graphir.origin import Origin

Batcher = Callable[[Node, tuple[Node, ...], tuple[bool, ...], Dim], Node]


def vmap(graph: Graph, over: Sequence[str], size: int | str) -> Graph:
    """The graph with a new leading axis of `size` on the inputs in `over`; outputs get it in front too."""
    unknown = [name for name in over if name not in graph.inputs]
    if unknown or not over:
        raise ShapeError(f"over names {unknown or 'no input'}; the graph's inputs are {list(graph.inputs)}")
    length = dims.dim(size)
    with made_by(Origin("pass", of="vmap")):
        replaced = {graph.inputs[name]: _grown(graph.inputs[name], length) for name in over}
        image = batched(graph.nodes, replaced, length)
        outputs = {name: spread(image[node], length, node) for name, node in graph.outputs.items()}
    inputs = [replaced.get(node, node) for node in graph.inputs.values()]
    return Graph(outputs, inputs=inputs)


def spread(image: Node, size: Dim, node: Node) -> Node:
    """The image of a node with the new axis in front, repeated along it if the node does not depend on it."""
    if image.type.rank > node.type.rank:
        return image
    shape = (size, *image.type.shape)
    return layout.broadcast(image, shape=shape, axes=tuple(range(1, len(shape))))


def batched(nodes: Iterable[Node], replaced: Mapping[Node, Node], size: Dim) -> dict[Node, Node]:
    """What every node of a topological order becomes when some are replaced by batched values."""
    image: dict[Node, Node] = {}
    for node in nodes:
        if node in replaced:
            image[node] = replaced[node]
            continue
        inputs = tuple([image[source] for source in node.inputs])
        grown = tuple([new.type.rank > old.type.rank for new, old in zip(inputs, node.inputs, strict=True)])
        if not any(grown):
            image[node] = node if inputs == node.inputs else make(node.op, inputs, node.attrs)
        else:
            image[node] = RULES.get(node.op.name, _aligned)(node, inputs, grown, size)
        if any(grown) and image[node].type.shape != (size, *node.type.shape):
            raise GraphError(f"vmap of {node.op.name} gives {image[node].type}; please report it").at(describe(node))
    return image


def _grown(node: Node, size: Dim) -> Node:
    shape = (size, *node.type.shape)
    return sources.input_(name=node.attr("name"), dtype=node.type.dtype.name, shape=shape)


def _all(node: Node, inputs: tuple[Node, ...], size: Dim) -> tuple[Node, ...]:
    return tuple([spread(new, size, old) for new, old in zip(inputs, node.inputs, strict=True)])


def _aligned(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    """Ops whose inputs and output have the new axis in front: elementwise, reductions, slices and the like."""
    attrs = []
    for name, value in node.attrs:
        if name == "axis":
            value = value + 1
        elif name == "axes":
            value = tuple(axis + 1 for axis in value)
            if node.op in (layout.permute, layout.broadcast):
                value = (0, *value)
        elif name == "shape":
            value = (size, *value)
        attrs.append((name, value))
    return make(node.op, _all(node, inputs, size), tuple(attrs))


def _matmul(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    """A product with one unbatched matrix stays one large product: rows (or columns) are put together."""
    left, right = inputs
    if all(grown) or node.type.rank > 2:
        return contraction.matmul(*_all(node, inputs, size))
    if grown[0]:
        rows, inner = left.type.shape[1:]
        flat = layout.reshape(left, shape=(dims.multiply(size, rows), inner))
        return layout.reshape(contraction.matmul(flat, right), shape=(size, rows, right.type.shape[1]))
    inner, columns = right.type.shape[1:]
    flat = layout.reshape(layout.permute(right, axes=(1, 0, 2)), shape=(inner, dims.multiply(size, columns)))
    product = layout.reshape(contraction.matmul(left, flat), shape=(left.type.shape[0], size, columns))
    return layout.permute(product, axes=(1, 0, 2))


def _einsum(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    operands, output = contraction.split_subscripts(node.attr("subscripts"))
    used = set("".join(operands))
    new = next(c for c in "zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in used)
    text = ",".join(new + o if g else o for o, g in zip(operands, grown, strict=True))
    return contraction.einsum(*inputs, subscripts=f"{text}->{new}{output}")


def _take(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    x, indices = inputs
    axis, rank = node.attr("axis"), node.inputs[1].type.rank
    if not grown[1]:
        return indexing.take(x, indices, axis=axis + 1)
    if not grown[0]:
        taken = indexing.take(x, indices, axis=axis)
        rest = [a for a in range(taken.type.rank) if a != axis]
        return layout.permute(taken, axes=(axis, *rest))
    order = (0, axis + 1, *(a for a in range(1, x.type.rank) if a != axis + 1))
    front = layout.permute(x, axes=order)
    flat = layout.reshape(front, shape=(dims.multiply(size, front.type.shape[1]), *front.type.shape[2:]))
    taken = indexing.take(flat, _flat_positions(indices, size, front.type.shape[1]), axis=0)
    back = (0, *range(1 + rank, 1 + rank + axis), *range(1, 1 + rank), *range(1 + rank + axis, taken.type.rank))
    return layout.permute(taken, axes=back)


def _scatter_add(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    updates, indices = inputs
    axis, length, rank = node.attr("axis"), node.attr("size"), node.inputs[1].type.rank
    if not grown[1]:
        return indexing.scatter_add(updates, indices, axis=axis + 1, size=length)
    updates = spread(updates, size, node.inputs[0])
    order = (0, *range(axis + 1, axis + 1 + rank), *range(1, axis + 1), *range(axis + 1 + rank, updates.type.rank))
    front = layout.permute(updates, axes=order)
    total = dims.multiply(size, length)
    added = indexing.scatter_add(front, _flat_positions(indices, size, length), axis=0, size=total)
    apart = layout.reshape(added, shape=(size, length, *added.type.shape[1:]))
    back = (0, *range(2, 2 + axis), 1, *range(2 + axis, apart.type.rank))
    return layout.permute(apart, axes=back)


def _flat_positions(indices: Node, size: Dim, length: Dim) -> Node:
    """Positions into `size` rows of `length` laid end to end; negative ones count from the end of their row."""
    wide = select.cast(indices, dtype="int64")
    shape = wide.type.shape

    def everywhere(value: Node, axes: tuple[int, ...]) -> Node:
        return layout.broadcast(value, shape=shape, axes=axes)

    row = sources.size(dim=length) if isinstance(length, str) else sources.literal(length, "int64")
    below = select.less(wide, everywhere(sources.literal(0, "int64"), ()))
    inside = select.where(below, arithmetic.add(wide, everywhere(row, ())), wide)
    number = everywhere(sources.iota(shape=(size,)), (0,))
    return arithmetic.add(inside, arithmetic.multiply(number, everywhere(row, ())))


def _take_at(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    x, *indices = _all(node, inputs, size)
    axes = (0, *(axis + 1 for axis in node.attr("axes")))
    return gather.take_at(x, _row_numbers(indices[0]), *indices, axes=axes)


def _scatter_add_at(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    updates, *indices = _all(node, inputs, size)
    axes = (0, *(axis + 1 for axis in node.attr("axes")))
    sizes = (size, *node.attr("sizes"))
    return gather.scatter_add_at(updates, _row_numbers(indices[0]), *indices, axes=axes, sizes=sizes)


def _row_numbers(like: Node) -> Node:
    """0, 1, 2, ... along the new axis, in the type of an index array."""
    number = select.cast(sources.iota(shape=like.type.shape[:1]), dtype=like.type.dtype.name)
    return layout.broadcast(number, shape=like.type.shape, axes=(0,))


def _random_bits(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    shapes = {name: (size, *node.attr(name)) for name in ("shape", "whole")}
    return random.random_bits(*inputs, **shapes)


def _searchsorted(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    """One sorted vector is searched as it is; for many, the elements before each value are counted."""
    vectors, values = inputs
    if not grown[0]:
        return make(node.op, inputs, node.attrs)
    values = spread(values, size, node.inputs[1])
    shape = (size, vectors.type.shape[1], *values.type.shape[1:])
    each = layout.broadcast(vectors, shape=shape, axes=(0, 1))
    sought = layout.broadcast(values, shape=shape, axes=(0, *range(2, len(shape))))
    before = select.less if node.attr("side") == "left" else select.less_equal
    return layout.reduce_sum(select.cast(before(each, sought), dtype=node.type.dtype.name), axes=(1,))


def _convolution(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    """With one set of kernels all rows are one batch; otherwise the new axis multiplies the groups."""
    attrs = dict(node.attrs)
    kernels = 1 if node.op is not convolution.conv_kernel else None
    if kernels == 1 and not grown[1]:
        first = inputs[0]
        rows = layout.reshape(first, shape=(dims.multiply(size, first.type.shape[1]), *first.type.shape[2:]))
        return layout.reshape(make(node.op, (rows, inputs[1]), node.attrs), shape=(size, *node.type.shape))
    groups = attrs["groups"]
    parts = [
        _filters_together(new) if k == kernels else _channels_together(new)
        for k, new in enumerate(_all(node, inputs, size))
    ]
    many = node.op(*parts, **{**attrs, "groups": dims.multiply(size, groups)})
    if kernels is None:  # the filters of all, one after the other
        return layout.reshape(many, shape=(size, *node.type.shape))
    batch, channels, *rest = node.type.shape
    apart = layout.reshape(many, shape=(batch, size, channels, *rest))
    return layout.permute(apart, axes=(1, 0, *range(2, apart.type.rank)))


def _channels_together(x: Node) -> Node:
    """[batch, size * channels, ...] from [size, batch, channels, ...]."""
    size, rows, channels, *rest = x.type.shape
    turned = layout.permute(x, axes=(1, 0, *range(2, x.type.rank)))
    return layout.reshape(turned, shape=(rows, dims.multiply(size, channels), *rest))


def _filters_together(w: Node) -> Node:
    size, filters, *rest = w.type.shape
    return layout.reshape(w, shape=(dims.multiply(size, filters), *rest))


RULES: dict[str, Batcher] = {
    "conv": _convolution,
    "conv_input": _convolution,
    "conv_kernel": _convolution,
    "matmul": _matmul,
    "einsum": _einsum,
    "take": _take,
    "scatter_add": _scatter_add,
    "random_bits": _random_bits,
    "searchsorted": _searchsorted,
    "take_at": _take_at,
    "scatter_add_at": _scatter_add_at,
}


def batch_values(roots: Sequence[Node], replaced: Mapping[Node, Node], size: Dim) -> list[Node]:
    """The roots with some nodes below them replaced by batched values, each with the new axis in front."""
    image = batched(walk.ancestors(roots), replaced, size)
    return [spread(image[root], size, root) for root in roots]
