"""Sizes of jvp graphs: reverse mode twice, which `gi.jvp` does, against rules for forward mode.

Forward mode needs no table of rules to be compared: an op that is linear in its inputs is applied to their tangents;
the Jacobian of an elementwise op is diagonal, so its vjp is its jvp; any other node is transposed alone, by reverse
mode twice. Counted are the simplified value with its tangent: nodes and floating-point operations.
"""

from collections.abc import Sequence

import numpy as np

import graphir as gi
from graphir import walk
from graphir.cost import operations
from graphir.jacobian import jvp, stand_in
from graphir.node import REGISTRY, Node, Op
from graphir.ops import arithmetic
from graphir.ops.rules import elementwise_axes
from graphir.ops.sources import input_
from graphir.reverse import active_nodes, backward, carries

Row = tuple[str, int, int, int, int]
Model = tuple[list[gi.Expr], list[gi.Expr]]
"""Values, and what they are differentiated by."""

# ---- forward mode ----


def forward(outputs: Sequence[Node], wrt: Sequence[Node], tangents: Sequence[Node]) -> list[Node | None]:
    """The tangents of the outputs, node by node from the inputs on."""
    nodes = walk.ancestors(outputs)
    active = active_nodes(nodes, wrt, frozenset())
    known = dict(zip(wrt, tangents, strict=True))
    for node in nodes:
        if node in active and node not in known:
            found = _tangent(node, known)
            if found is not None:
                known[node] = found
    return [known.get(output) for output in outputs]


def _tangent(node: Node, known: dict[Node, Node]) -> Node | None:
    moving = [k for k, source in enumerate(node.inputs) if source in known and carries(node, k)]
    if node.op.linear and len(moving) == len(node.inputs) and node.op.joint is None:
        return node.op(*[known[source] for source in node.inputs], **dict(node.attrs))
    total = None
    for k in moving:
        part = _by_rule(node, k, known[node.inputs[k]])
        if part is not None:
            total = part if total is None else arithmetic.add(total, part)
    return total


def _by_rule(node: Node, position: int, tangent: Node) -> Node | None:
    rule = node.op.vjp
    if node.op.axes is elementwise_axes and isinstance(rule, tuple):
        own = rule[position]
        return None if own is None else own(tangent, node, *node.inputs, **dict(node.attrs))
    source, cotangent = node.inputs[position], stand_in(node)
    apart = stand_in(source)  # the same value may be fed twice; only this place moves
    inputs = tuple(apart if k == position else other for k, other in enumerate(node.inputs))
    alone = node.op(*inputs, **dict(node.attrs))
    (row,) = backward([alone], [cotangent], [apart])
    if row is None:
        return None
    (found,) = backward([row], [tangent], [cotangent])
    if found is None:
        return None
    return walk.substitute(walk.ancestors([found]), {apart: source, alone: node})[found]


# ---- what is measured ----


def perceptron() -> Model:
    """Three layers with tanh, the mean of squares."""
    x = gi.input("x", ("n", 32))
    wrt, value = [], x
    for k, (rows, columns) in enumerate([(32, 64), (64, 64), (64, 1)]):
        w, b = gi.input(f"w{k}", (rows, columns)), gi.input(f"b{k}", (columns,))
        value = gi.tanh(value @ w + b)
        wrt += [w, b]
    return [gi.mean(gi.square(value[:, 0] - gi.input("y", ("n",))))], wrt


def softmax_regression() -> Model:
    """The mean cross-entropy of labels."""
    x, t, w, b = gi.input("x", ("n", 64)), gi.input("t", ("n",), "int64"), gi.input("w", (64, 10)), gi.input("b", (10,))
    logits = x @ w + b
    picked = gi.take_along_axis(logits, t[:, None], axis=1)[:, 0]
    return [gi.mean(gi.logsumexp(logits, axis=1) - picked)], [w, b]


def recurrent() -> Model:
    """tanh(x u + h w + b) over time by gi.scan."""
    xs, u, w, b = gi.input("xs", (20, "n", 8)), gi.input("u", (8, 16)), gi.input("w", (16, 16)), gi.input("b", (16,))

    def step(h: gi.Expr, x: gi.Expr) -> tuple[gi.Expr, gi.Expr]:
        h = gi.tanh(x @ u + h @ w + b)
        return h, h

    last, _ = gi.scan(step, gi.zeros(("n", 16)), xs)
    return [gi.mean(gi.square(last))], [u, w, b]


def attention() -> Model:
    """Two heads of scaled dot products, normalised, over 12 positions."""
    x = gi.input("x", ("n", 12, 16))
    q, k, v, o = (gi.input(name, (16, 16)) for name in "qkvo")

    def heads(w: gi.Expr) -> gi.Expr:
        return gi.permute_dims(gi.reshape(x @ w, ("n", 12, 2, 8)), (0, 2, 1, 3))

    scores = gi.softmax(heads(q) @ heads(k).mT / np.sqrt(8.0), axis=-1)
    mixed = gi.reshape(gi.permute_dims(scores @ heads(v), (0, 2, 1, 3)), ("n", 12, 16))
    value = x + mixed @ o
    normal = (value - gi.mean(value, axis=-1, keepdims=True)) / gi.std(value, axis=-1, keepdims=True)
    return [gi.mean(gi.square(normal - gi.input("y", ("n", 12, 16))))], [q, k, v, o]


MODELS = {f.__name__: f for f in (perceptron, softmax_regression, recurrent, attention)}


def sizes(name: str, values: list[gi.Expr], wrt: list[gi.Expr]) -> Row:
    """Nodes and operations of value and tangent, by reverse mode twice and by forward mode."""
    tangents = [gi.input(f"d{k}", x.shape, x.dtype) for k, x in enumerate(wrt)]
    twice = jvp(values, wrt, tangents)
    ahead = forward([v.node for v in values], [x.node for x in wrt], [t.node for t in tangents])
    filled = [v.node if a is None else a for a, v in zip(ahead, values, strict=True)]
    counts = []
    for found in (twice, filled):
        outputs = {f"v{k}": v for k, v in enumerate(values)} | {f"t{k}": t for k, t in enumerate(found)}
        graph = gi.simplify(gi.Graph(outputs))
        counts += [len(graph), operations(graph, {"n": 256})]
    return name, counts[0], counts[2], counts[1], counts[3]


def op_cases() -> list[tuple[str, list[gi.Expr], list[gi.Expr]]]:
    """The first differentiable example of every op."""
    cases = []
    for op in REGISTRY.values():
        if not isinstance(op.vjp, str) and op.name not in ("input", "custom_vjp"):
            cases += _case(op)
    return cases


def _case(op: Op) -> list[tuple[str, list[gi.Expr], list[gi.Expr]]]:
    for example in op.examples:
        inputs = [input_(name=f"arg{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs)]
        node = op(*inputs, **example.attrs)
        wrt = [gi.Expr(source) for k, source in enumerate(inputs) if carries(node, k)]
        if wrt:
            return [(op.name, [gi.Expr(node)], wrt)]
    return []


def measure() -> list[Row]:
    """One row for the whole op set, one for each model."""
    each = [sizes(*case) for case in op_cases()]
    total = tuple(sum(row[column] for row in each) for column in (1, 2, 3, 4))
    return [(f"{len(each)} ops", *total), *(sizes(name.replace("_", " "), *make()) for name, make in MODELS.items())]


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| | nodes, reverse twice | nodes, forward | operations, reverse twice | operations, forward |"]
    lines += ["|---|---|---|---|---|"]
    lines += [f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |" for name, *counts in rows]
    return "\n".join(lines)
