"""Reverse accumulation on nodes: cotangents flow from outputs to leaves by the ops' vjp rules.

Only nodes are made, no number is touched (symbol-to-symbol differentiation; Goodfellow, Bengio, Courville,
"Deep Learning", 2016, section 6.5.5). Each rule's nodes carry the origin "vjp of" the node they derive.
Contributions to one node are added in the reverse of creation order, so the result is deterministic.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from graphir import collector, walk
from graphir.errors import DisconnectedError
from graphir.node import Node, describe, reset_origin, set_origin
from graphir.ops.arithmetic import add

_NO_ATTRS: dict[str, Any] = {}


def carries(node: Node, position: int) -> bool:
    """Whether a derivative can pass from the node to its input at `position`."""
    vjp = node.op.vjp
    if isinstance(vjp, str) or node.type.dtype.kind != "f":
        return False
    if isinstance(vjp, tuple) and vjp[position] is None:
        return False
    return node.inputs[position].type.dtype.kind == "f"


def active_nodes(nodes: Sequence[Node], wrt: Iterable[Node], constants: frozenset[Node]) -> set[Node]:
    """Nodes on a differentiable path from `wrt`, in the topological order given."""
    active = set(wrt)
    for node in nodes:
        if node in active or node in constants:
            continue
        for position, source in enumerate(node.inputs):
            if source in active and carries(node, position):
                active.add(node)
                break
    return active


def backward(
    outputs: Sequence[Node], cotangents: Sequence[Node], wrt: Sequence[Node], constants: frozenset[Node] = frozenset()
) -> list[Node | None]:
    """The cotangent of each `wrt`, or None where no differentiable path leads to it."""
    with collector.paused():
        return _backward(outputs, cotangents, wrt, constants)


def _backward(
    outputs: Sequence[Node], cotangents: Sequence[Node], wrt: Sequence[Node], constants: frozenset[Node]
) -> list[Node | None]:
    nodes = walk.ancestors(outputs, stop=constants)
    active = active_nodes(nodes, [node for node in wrt if node not in constants], constants)
    pending: dict[Node, Node] = {}
    token = set_origin(None)
    try:
        for output, cotangent in zip(outputs, cotangents, strict=True):
            if output in active:
                set_origin(output)
                _accumulate(pending, output, cotangent)
        found = _sweep(nodes, active, pending, set(wrt))
    finally:
        reset_origin(token)
    return [found.get(node) for node in wrt]


def _sweep(nodes: list[Node], active: set[Node], pending: dict[Node, Node], wanted: set[Node]) -> dict[Node, Node]:
    found: dict[Node, Node] = {}
    groups = walk.siblings(nodes)
    member = {node: first for first, group in groups.items() for node in group}
    together: dict[Node, dict[int, Node]] = {}
    for node in reversed(nodes):
        cotangent = pending.pop(node, None)
        if cotangent is not None and node in wanted:
            found[node] = cotangent
        if node in member:  # the outputs of one application are differentiated when the first of them is reached
            _join(node, cotangent, member, together)
            if node in together:
                _pass_jointly(node, together.pop(node), active, pending)
            continue
        if cotangent is None:
            continue
        if node.inputs:
            _pass(node, cotangent, active, pending)
    return found


def _pass(node: Node, cotangent: Node, active: set[Node], pending: dict[Node, Node]) -> None:
    set_origin(node)
    vjp, inputs = node.op.vjp, node.inputs
    attrs = dict(node.attrs) if node.attrs else _NO_ATTRS
    for position, source in enumerate(inputs):
        if source not in active or isinstance(vjp, str):
            continue
        if isinstance(vjp, tuple):
            rule = vjp[position]
            contribution = None if rule is None else rule(cotangent, node, *inputs, **attrs)
        else:
            contribution = vjp(position, cotangent, node, *inputs, **attrs)
        if contribution is not None:
            _accumulate(pending, source, contribution)


def _join(node: Node, cotangent: Node | None, first: dict[Node, Node], together: dict[Node, dict[int, Node]]) -> None:
    if cotangent is not None:
        together.setdefault(first[node], {})[node.attr("output")] = cotangent


def _pass_jointly(node: Node, cotangents: dict[int, Node], active: set[Node], pending: dict[Node, Node]) -> None:
    set_origin(node)
    attrs = {name: value for name, value in node.attrs if name != "output"}
    vjp = node.op.vjp
    if isinstance(vjp, str | tuple):
        return
    wanted = frozenset(k for k, source in enumerate(node.inputs) if source in active)
    for source, contribution in zip(node.inputs, vjp(cotangents, wanted, *node.inputs, **attrs), strict=True):
        if source in active and contribution is not None:
            _accumulate(pending, source, contribution)


def _accumulate(pending: dict[Node, Node], node: Node, contribution: Node) -> None:
    before = pending.get(node)
    pending[node] = contribution if before is None else add(before, contribution)


def explain_break(outputs: Sequence[Node], wrt: Node, constants: frozenset[Node]) -> DisconnectedError:
    """The error that says why no derivative reaches `wrt`, naming the node where the path breaks."""
    name = wrt.attr("name") if wrt.op.name == "input" else describe(wrt)
    if wrt.type.dtype.kind != "f":
        return DisconnectedError(
            f"{name!r} is {wrt.type}: only floats carry derivatives; declare or cast it as a float"
        )
    if wrt in constants:
        return DisconnectedError(f"{name!r} is held constant; leave it out of wrt or of constants")
    nodes = walk.ancestors(outputs)
    if wrt not in set(nodes):
        return DisconnectedError(
            f"nothing that is differentiated depends on {name!r}; leave it out, or pass disconnected='zero' for zeros"
        ).at(describe(outputs[0]))
    active = active_nodes(nodes, [wrt], constants)
    for node in nodes:
        for position, source in enumerate(node.inputs):
            if source in active and node not in active:
                return DisconnectedError(
                    f"the path from {name!r} is not differentiable: {_reason(node, position, constants)}; "
                    "pass disconnected='zero' if zeros are meant"
                ).at(f"{describe(node)}\n  path: {_path(wrt, source, active)} -> {node.op.name}")
    return DisconnectedError(f"no derivative reaches {name!r}; pass disconnected='zero' if zeros are meant")


def _reason(node: Node, position: int, constants: frozenset[Node]) -> str:
    if node in constants:
        return f"{node.op.name} is among the constants"
    if isinstance(node.op.vjp, str):
        return f"{node.op.name} has no derivative ({node.op.vjp})"
    if node.type.dtype.kind != "f":
        return f"{node.op.name} gives {node.type.dtype.name}, which carries no derivative"
    return f"{node.op.name} has a zero derivative in its input {position}"


def _path(start: Node, end: Node, active: set[Node]) -> str:
    """Op names on one path from `start` to `end` through active nodes."""
    names: list[str] = []
    node = end
    while node is not start:
        names.append(node.op.name)
        node = next(source for k, source in enumerate(node.inputs) if source in active and carries(node, k))
    names.append(start.attr("name") if start.op.name == "input" else start.op.name)
    shown = names[::-1]
    return " -> ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-5:]])
