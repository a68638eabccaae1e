"""cond, one of two bodies by a condition, and call, a body as it is: a value that reverse mode computes again.

The adjoint of either is of the same kind: its bodies compute the values inside again and then their adjoints, so
nothing from inside is kept between forward and backward (rematerialisation). Derivatives of any order exist.
"""

from typing import Any

import numpy as np

from graphir import walk
from graphir.axes import AxisRule
from graphir.batch import RULES, spread
from graphir.body import Body
from graphir.control.bodies import (
    adjoint,
    batch_body,
    body_of,
    inline,
    placeholder,
    resize,
    spread_all,
    zeros,
)
from graphir.control.factors import joint_rule
from graphir.dims import Dim
from graphir.errors import AttributeValueError, DTypeError, GraphError, ShapeError
from graphir.example import Example, Sample
from graphir.interpret import BoundBody
from graphir.node import Array, Attrs, Node, Op
from graphir.ops import arithmetic, contraction, layout, select, transcendental
from graphir.types import TensorType


def _check_arguments(what: str, body: Body, types: tuple[TensorType, ...], output: int) -> None:
    if body.input_types != types:
        raise ShapeError(f"{what} takes {', '.join(map(str, body.input_types))}, not {', '.join(map(str, types))}")
    if not 0 <= output < len(body.outputs):
        raise AttributeValueError(f"{what} has no output {output}")


def _resized(node: Node, names: tuple[str, ...], arguments: tuple[Node, ...]) -> Attrs:
    attrs = dict(node.attrs)
    bodies = tuple(attrs[name] for name in names)
    factors, _ = joint_rule(bodies, attrs["output"])
    shapes = [argument.type.shape for argument in arguments]
    members = factors.sizes_for(bodies[0].inputs, shapes)
    types = [argument.type for argument in arguments]
    return tuple(
        sorted({**attrs, **{n: resize(b, types, members)[0] for n, b in zip(names, bodies, strict=True)}}.items())
    )


# ---- call ----


def _infer_call(*types: TensorType, body: Body, output: int) -> TensorType:
    _check_arguments("the body", body, types, output)
    return body.output_types[output]


def _vjp_call(cotangents: dict[int, Node], wanted: frozenset[int], *inputs: Node, body: Body) -> list[Node | None]:
    here, seeds, pulled = adjoint(body, list(cotangents), wanted)
    kept = [k for k, node in enumerate(pulled) if node is not None]
    results = [node for node in pulled if node is not None]
    places = _used([*here, *seeds], results)
    back = body_of([[*here, *seeds][place] for place in places], results)
    values = [[*inputs, *cotangents.values()][place] for place in places]
    found: list[Node | None] = [None] * len(inputs)
    for output, k in enumerate(kept):
        found[k] = call(*values, body=back, output=output)
    return found


def _used(given: list[Node], results: list[Node]) -> list[int]:
    """The places of those inputs that the results need: an adjoint of a linear map must not seem to need its point."""
    needed = set(walk.ancestors(results))
    return [place for place, node in enumerate(given) if node in needed]


def _batch_call(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    body: Body = node.attr("body")
    own, outs = batch_body(body, grown, size)
    result = call(*inputs, body=body_of(own, outs), output=node.attr("output"))
    return spread(result, size, node)


def _call_body() -> Body:
    x, y = (placeholder(name, TensorType(np.dtype("float64"), (2, 3))) for name in ("call.x", "call.y"))
    product = arithmetic.multiply(transcendental.sin(x), y)
    return body_of([x, y], [product, contraction.einsum(product, x, subscripts="ab,ab->b")])


call: Op = Op(
    "call",
    "A body applied once; reverse mode computes it again instead of keeping the values inside.",
    arity=None,
    attrs={"body": "graph", "output": "int"},
    infer=_infer_call,
    kernel=lambda *arrays, body, output: body(arrays, (output,))[0],
    joint=lambda *arrays, body, outputs: body(arrays, outputs),
    vjp=_vjp_call,
    axes=lambda types, attrs: joint_rule((attrs["body"],), attrs["output"])[1],
    local=lambda node, inputs: _resized(node, ("body",), inputs),
    examples=tuple(
        Example((Sample((2, 3)), Sample((2, 3))), {"body": _call_body(), "output": output}) for output in (0, 1)
    ),
)
RULES["call"] = _batch_call

# ---- cond ----


def _infer_cond(*types: TensorType, then: Body, otherwise: Body, output: int) -> TensorType:
    if not types or types[0].dtype != np.bool_ or types[0].shape:
        raise DTypeError("a condition is one bool; reduce it with gi.all or gi.any, or choose elements with gi.where")
    for what, body in (("the first branch", then), ("the second branch", otherwise)):
        _check_arguments(what, body, types[1:], output)
    if then.output_types[output] != otherwise.output_types[output]:
        raise ShapeError(
            f"the branches give {then.output_types[output]} and {otherwise.output_types[output]}; make them equal"
        )
    return then.output_types[output]


def _joint_cond(
    condition: Array, *arrays: Array, outputs: tuple[int, ...], then: BoundBody, otherwise: BoundBody
) -> list[Array]:
    try:
        return (then if condition else otherwise)(arrays, outputs)
    except GraphError as error:
        raise error.within(f"the {'first' if condition else 'second'} branch") from None


def _vjp_cond(
    cotangents: dict[int, Node], wanted: frozenset[int], condition: Node, *inputs: Node, **branches: Body
) -> list[Node | None]:
    own = {k - 1 for k in wanted}
    made = {name: adjoint(body, list(cotangents), own) for name, body in branches.items()}
    pulls = [pulled for _, _, pulled in made.values()]
    kept = [k for k in range(len(inputs)) if any(pulled[k] is not None for pulled in pulls)]
    given = {name: [*here, *seeds] for name, (here, seeds, _) in made.items()}
    results = {name: [pulled[k] or zeros(here[k].type) for k in kept] for name, (here, _, pulled) in made.items()}
    places = sorted({place for name in made for place in _used(given[name], results[name])})
    back = {name: body_of([given[name][place] for place in places], results[name]) for name in made}
    values = [[*inputs, *cotangents.values()][place] for place in places]
    found: list[Node | None] = [None] * (1 + len(inputs))
    for output, k in enumerate(kept):
        found[1 + k] = cond(condition, *values, **back, output=output)
    return found


def _batch_cond(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    """One condition chooses a batched branch; a batch of conditions chooses between the values of both."""
    output, arguments = node.attr("output"), inputs[1:]
    branches = {name: node.attr(name) for name in ("then", "otherwise")}
    made = {name: batch_body(body, grown[1:], size) for name, body in branches.items()}
    if not grown[0]:
        wide = [True] * len(branches["then"].outputs)
        back = {
            name: body_of(own, spread_all(outs, branches[name].outputs, wide, size))
            for name, (own, outs) in made.items()
        }
        return cond(inputs[0], *arguments, **back, output=output)
    sides = [spread(inline(body_of(own, outs), arguments)[output], size, node) for own, outs in made.values()]
    return select.where(layout.broadcast(inputs[0], shape=sides[0].type.shape, axes=(0,)), *sides)


def _axes_cond(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    _, rule = joint_rule((attrs["then"], attrs["otherwise"]), attrs["output"])
    return AxisRule(((), *rule.inputs), rule.output, rule.combine, rule.whole)


def _cond_bodies() -> dict[str, Body]:
    x, y = (placeholder(name, TensorType(np.dtype("float64"), (2, 3))) for name in ("cond.x", "cond.y"))
    product = arithmetic.multiply(x, y)
    then = [arithmetic.multiply(transcendental.sin(x), y), layout.reduce_sum(product, axes=(0,))]
    return {"then": body_of([x, y], then), "otherwise": body_of([x, y], [x, layout.reduce_sum(y, axes=(0,))])}


cond: Op = Op(
    "cond",
    "The first body applied to the inputs where the condition holds, the second where not; only one is evaluated.",
    arity=None,
    attrs={"then": "graph", "otherwise": "graph", "output": "int"},
    infer=_infer_cond,
    kernel=lambda condition, *arrays, output, **branches: _joint_cond(condition, *arrays, outputs=(output,), **branches)[0],
    joint=_joint_cond,
    vjp=_vjp_cond,
    axes=_axes_cond,
    local=lambda node, inputs: _resized(node, ("then", "otherwise"), inputs[1:]),
    examples=tuple(
        Example((Sample((), "bool"), Sample((2, 3)), Sample((2, 3), "float64", low)), {**_cond_bodies(), "output": output})
        for output in (0, 1)
        for low in (-2.0, -1.0, 0.0)
    ),
)  # fmt: skip
RULES["cond"] = _batch_cond
