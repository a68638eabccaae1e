"""Reference evaluation: the ops' own numpy kernels, node by node. The oracle that back-ends are tested against.

Floating-point exceptions (overflow, invalid) pass silently as in JAX, unless `check_finite` asks for an error.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphir import dims, walk
from graphir.errors import EvaluationError, GraphError, LimitError, NonFiniteError
from graphir.feeds import bind
from graphir.graph import Graph
from graphir.node import Array, Node, describe

NO_OFFSETS: Mapping[str, int] = {}


def evaluate(
    graph: Graph,
    feeds: Mapping[str, Any],
    *,
    sizes: Mapping[str, int] | None = None,
    check_finite: bool = False,
) -> dict[str, Array]:
    """The outputs of a graph, by name, for the given inputs.

    feeds: a value for each input; sizes: numbers for named sizes that no input has; check_finite: raise
    NonFiniteError at the first node whose value has a NaN or an infinity. Raises FeedError, ShapeError,
    DTypeError, EvaluationError.
    """
    bound = bind(graph, feeds, sizes)
    return run(graph, bound.arrays, bound.sizes, check_finite=check_finite)


def run(
    graph: Graph,
    arrays: Mapping[str, Array],
    sizes: Mapping[str, int],
    offsets: Mapping[str, int] = NO_OFFSETS,
    *,
    check_finite: bool = False,
) -> dict[str, Array]:
    """Evaluate on bound feeds; `offsets` says where a cut dimension's chunk begins."""
    last = walk.last_uses(graph.nodes)
    keep = set(graph.outputs.values())
    values: dict[Node, Array] = {}
    with np.errstate(all="ignore"):
        for position, node in enumerate(graph.nodes):
            if node.op.name == "input":
                values[node] = arrays[node.attr("name")]
                continue
            values[node] = apply(node, [values[i] for i in node.inputs], bound_attributes(node, sizes, offsets))
            if check_finite:
                require_finite(node, values)
            for source in node.inputs:
                if last[source] == position and source not in keep:
                    values.pop(source, None)
    return {name: np.asarray(values[node]) for name, node in graph.outputs.items()}


def bound_attributes(node: Node, sizes: Mapping[str, int], offsets: Mapping[str, int] = NO_OFFSETS) -> dict[str, Any]:
    """The keyword arguments of a node's kernel, with dimensions as numbers."""
    bound: dict[str, Any] = {}
    for name, value in node.attrs:
        kind = node.op.attrs[name]
        if kind == "dims":
            value = tuple([d if type(d) is int else dims.evaluate(d, sizes) for d in value])
        elif kind == "dim" and type(value) is not int:
            value = dims.evaluate(value, sizes)
        bound[name] = value
    if node.op.offset:
        bound["offset"] = tuple([_offset(d, sizes, offsets) for d in node.type.shape])
    return bound


def _offset(d: dims.Dim, sizes: Mapping[str, int], offsets: Mapping[str, int]) -> int:
    if not dims.names(d) & offsets.keys():
        return 0
    return dims.evaluate(d, {**sizes, **offsets})


def apply(node: Node, inputs: list[Array], attributes: dict[str, Any]) -> Array:
    """Run one kernel; its failures become typed errors that name the node."""
    try:
        result: Array = node.op.kernel(*inputs, **attributes)
        return result
    except Exception as error:  # noqa: BLE001  # whatever a kernel raises, kernel_error types it or gives it back
        typed = kernel_error(node, error)
        raise typed from (None if typed is error else error)


def kernel_error(node: Node, error: Exception) -> Exception:
    """The typed error for what a kernel raised, naming the node; a defect of ours stays what it is."""
    if isinstance(error, GraphError):
        return error.at(describe(node))
    if isinstance(error, MemoryError):
        return LimitError("not enough memory for the value; use smaller chunks or sizes").at(describe(node))
    if isinstance(error, ValueError | TypeError | IndexError | ArithmeticError):
        return EvaluationError(f"the kernel of {node.op.name} failed: {error}").at(describe(node))
    return error


def require_finite(node: Node, values: Mapping[Node, Array]) -> None:
    """NonFiniteError if the node's value has a NaN or an infinity; says which inputs were finite."""
    value = values[node]
    if node.type.dtype.kind != "f" or np.isfinite(value).all():
        return
    bad = np.argwhere(~np.isfinite(np.atleast_1d(value)))[0].tolist()
    ranges = [
        f"input {k} in [{np.min(values[i]):.6g}, {np.max(values[i]):.6g}]"
        for k, i in enumerate(node.inputs)
        if np.size(values[i])
    ]
    raise NonFiniteError(
        f"{np.atleast_1d(value)[tuple(bad)]} at index {bad}; {', '.join(ranges) or 'a leaf'}; "
        "change the inputs, or evaluate with check_finite=False"
    ).at(describe(node))
