"""Reference evaluation: the ops' own numpy kernels, node by node. The oracle that back-ends are tested against.

Floating-point exceptions (overflow, invalid) pass silently as in JAX, unless `check_finite` asks for an error.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphir import dims, walk
from graphir.body import Body
from graphir.errors import EvaluationError, GraphError, LimitError, NonFiniteError
from graphir.feeds import bind
from graphir.graph import Graph
from graphir.node import Array, Node, describe
from graphir.types import TensorType

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
    NonFiniteError at the first node, also inside bodies, whose value has a NaN or an infinity; it says of which line
    or of whose adjoint the node is, at which step, and the ranges of its inputs. Raises FeedError, ShapeError,
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
    groups = walk.siblings(graph.nodes)
    values: dict[Node, Array] = {}
    with np.errstate(all="ignore"):
        for position, node in enumerate(graph.nodes):
            if node.op.name == "input":
                values[node] = arrays[node.attr("name")]
                continue
            if node not in values:  # else it came with a sibling
                inputs = [values[i] for i in node.inputs]
                attributes = bound_attributes(node, sizes, offsets, check_finite)
                if node in groups:
                    values.update(zip(groups[node], apply_joint(groups[node], inputs, attributes), strict=True))
                else:
                    values[node] = apply(node, inputs, attributes)
            if check_finite:
                require_finite(node, values)
            for source in node.inputs:
                if last[source] == position and source not in keep:
                    values.pop(source, None)
    return {name: np.asarray(values[node]) for name, node in graph.outputs.items()}


def bound_attributes(
    node: Node, sizes: Mapping[str, int], offsets: Mapping[str, int] = NO_OFFSETS, check_finite: bool = False
) -> dict[str, Any]:
    """The keyword arguments of a node's kernel, with dimensions as numbers; `check_finite` is for values in bodies."""
    bound: dict[str, Any] = {}
    for name, value in node.attrs:
        kind = node.op.attrs[name]
        if kind == "dims":
            value = tuple([d if type(d) is int else dims.evaluate(d, sizes) for d in value])
        elif kind == "dim" and type(value) is not int:
            value = dims.evaluate(value, sizes)
        elif kind == "graph":
            value = BoundBody(value, sizes, offsets, check_finite)
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


def apply_joint(group: tuple[Node, ...], inputs: list[Array], attributes: dict[str, Any]) -> tuple[Array, ...]:
    """The values of all siblings by one call; failures as in `apply`."""
    try:
        return joint_kernel(group)(*inputs, **attributes)
    except Exception as error:  # noqa: BLE001  # as in apply
        typed = kernel_error(group[0], error)
        raise typed from (None if typed is error else error)


def joint_kernel(group: tuple[Node, ...]) -> Callable[..., tuple[Array, ...]]:
    """A kernel that gives the values of all siblings, in their order."""
    joint, outputs = group[0].op.joint, tuple(node.attr("output") for node in group)
    assert joint is not None

    def kernel(*arrays: Array, output: int, **attributes: Any) -> tuple[Array, ...]:
        return tuple(joint(*arrays, outputs=outputs, **attributes))

    kernel.nodes = group  # type: ignore[attr-defined]  # for who asks what a call makes
    return kernel


class BoundBody:
    """A body with its dimensions as numbers: a function from arrays to the values of some of its outputs.

    What is called often is planned once: kernels, attributes and slots, for each choice of outputs.
    """

    def __init__(
        self, body: Body, sizes: Mapping[str, int], offsets: Mapping[str, int], check_finite: bool = False
    ) -> None:
        self.body, self._sizes, self._offsets, self.check_finite = body, sizes, offsets, check_finite
        self.kept: dict[Any, Any] = {}  # what those who run it otherwise make of it
        self._plans: dict[tuple[int, ...], list[Any]] = {}

    def __call__(self, arrays: Sequence[Array], outputs: tuple[int, ...] | None = None) -> list[Array]:
        """The values with these numbers (`Body.value`), or all outputs."""
        wanted = tuple(range(len(self.body.outputs))) if outputs is None else outputs
        if wanted not in self._plans:
            self._plans[wanted] = self.plan(wanted)
        values: dict[Node, Any] = dict(zip(self.body.inputs, arrays, strict=True))
        for group, inputs, kernel, attributes, free in self._plans[wanted]:
            try:
                found = kernel(*[values[i] for i in inputs], **attributes)
            except Exception as error:  # noqa: BLE001  # as in apply
                typed = kernel_error(group[0], error)
                raise typed from (None if typed is error else error)
            if group[0].op.joint is None:
                values[group[0]] = found
            else:
                values.update(zip(group, found, strict=True))
            if self.check_finite:
                for node in group:
                    require_finite(node, values)
            for node in free:
                del values[node]
        return [np.asarray(values[self.body.value(k)]) for k in wanted]

    def shape(self, type_: TensorType) -> tuple[int, ...]:
        """A shape inside the body as numbers."""
        return type_.bind(self._sizes)

    def plan(self, wanted: tuple[int, ...]) -> list[Any]:
        """The calls that make these values: nodes, their inputs, kernel, attributes, and what is not needed afterwards."""
        outputs = [self.body.value(k) for k in wanted]
        nodes = walk.ancestors(outputs)
        groups = walk.siblings(nodes)
        later = {node for group in groups.values() for node in group[1:]}
        steps = [node for node in nodes if node.op.name != "input" and node not in later]
        last = {source: node for node in steps for source in node.inputs}
        free: dict[Node, list[Node]] = {}
        for source, node in last.items():
            if source not in outputs:
                free.setdefault(node, []).append(source)
        return [
            (groups.get(node, (node,)), node.inputs, joint_kernel(groups[node]) if node in groups else node.op.kernel,
             bound_attributes(node, self._sizes, self._offsets, self.check_finite), free.get(node, ()))
            for node in steps
        ]  # fmt: skip


def kernel_error(node: Node, error: Exception) -> Exception:
    """The typed error for what a kernel raised, naming the node; any other stays what it is, with a note of the node."""
    if isinstance(error, GraphError):
        error.at(describe(node))
        return error.within(describe(node)) if node.op.has_body else error
    if isinstance(error, MemoryError):
        return LimitError("not enough memory for the value; use smaller chunks or sizes").at(describe(node))
    if isinstance(error, ValueError | TypeError | IndexError | ArithmeticError):
        return EvaluationError(f"the kernel of {node.op.name} failed: {error}").at(describe(node))
    error.add_note(f"  at {describe(node)}")
    return error


def require_finite(node: Node, values: Mapping[Node, Array]) -> None:
    """NonFiniteError if the node's value has a NaN or an infinity; says whose node it is and what its inputs were.

    Constants and views make nothing that is not finite: an infinity in a constant is meant.
    """
    value = values[node]
    if node.op.cheap or node.type.dtype.kind != "f" or np.isfinite(value).all():
        return
    array = np.atleast_1d(value)
    bad = np.argwhere(~np.isfinite(array))[0].tolist()
    given = [np.asarray(values[source]) for source in node.inputs]
    finite = all(np.isfinite(array).all() for array in given)
    ranges = [
        f"{_name(k, source)} in [{float(np.min(array)):.6g}, {float(np.max(array)):.6g}]"
        for k, (source, array) in enumerate(zip(node.inputs, given, strict=True))
        if array.size
    ]
    known = "finite inputs" if finite else "inputs that are not all finite"
    raise NonFiniteError(
        f"{_who(node)} gives {array[tuple(bad)]} at index {bad}, from {known}: {', '.join(ranges) or 'none'}; "
        "change the inputs, or evaluate with check_finite=False"
    ).at(describe(node))


def _who(node: Node) -> str:
    """The op and where it was written, or what it is the adjoint of."""
    origin = node.origin
    if origin.kind == "user":
        return f"`{node.op.name}` at {origin}"
    place = f" at {origin.where}" if origin.where else ""
    return f"adjoint of `{origin.of}`{place}" if origin.kind == "vjp" else f"`{node.op.name}` by {origin}"


def _name(position: int, source: Node) -> str:
    if source.op.name != "input":
        return f"input {position} ({source.op.name})"
    name = source.attr("name")
    return f"input {position}" if name.isdigit() else f"input {position} ({name!r})"  # a body's own have numbers
