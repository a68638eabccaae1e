"""while_loop: a body repeated as long as a test of the carried values holds; forward only."""

from typing import Any

import numpy as np

from graphir.axes import AxisRule
from graphir.batch import RULES, spread
from graphir.body import Body
from graphir.control.bodies import batch_body, body_of, placeholder, resize, spread_all
from graphir.control.factors import Factors
from graphir.dims import Dim
from graphir.errors import AttributeValueError, DTypeError, GraphError, LimitError, ShapeError
from graphir.example import Example, Sample
from graphir.interpret import BoundBody
from graphir.node import Array, Attrs, Node, Op
from graphir.ops import arithmetic, layout, reduction, select
from graphir.ops.sources import literal
from graphir.types import BOOL, TensorType


def _infer(*types: TensorType, test: Body, body: Body, limit: int, output: int) -> TensorType:
    if not 0 <= output < len(body.outputs) <= len(types) or limit < 1:
        raise AttributeValueError(f"the loop has no output {output}, or no positive limit of steps")
    if test.input_types != types or body.input_types != types:
        raise ShapeError("test and body must take the carried values and what else is given, in their types")
    if [(t.dtype, t.shape) for t in test.output_types] != [(BOOL, ())]:
        raise DTypeError("the test of a loop gives one bool; reduce it with gi.all or gi.any")
    for c, (before, after) in enumerate(zip(types, body.output_types, strict=False)):
        if before != after:
            raise ShapeError(f"carried value {c} goes in as {before} and comes out as {after}; cast or reshape it")
    return types[output]


def _joint(*arrays: Array, outputs: tuple[int, ...], test: BoundBody, body: BoundBody, limit: int) -> tuple[Array, ...]:
    values, carried = list(arrays), len(body.body.outputs)
    for step in range(limit):
        try:
            if not test(values)[0]:
                return tuple(np.asarray(values[k]) for k in outputs)
            values[:carried] = body(values)
        except GraphError as error:
            raise error.within(f"step {step}") from None
    if not test(values)[0]:
        return tuple(np.asarray(values[k]) for k in outputs)
    raise over_limit(limit)


def over_limit(limit: int) -> LimitError:
    """What is raised when the test has not failed in so many steps."""
    return LimitError(f"the loop's test still holds after {limit} steps; check it, or give while_loop a larger limit=")


def _factors(attrs: dict[str, Any]) -> Factors:
    test, body = attrs["test"], attrs["body"]
    ties = [*zip(body.inputs, test.inputs, strict=True), *zip(body.inputs, body.outputs, strict=False)]
    return Factors([test, body], [*test.outputs, *body.outputs], ties)


def _axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    test, body, factors = attrs["test"], attrs["body"], _factors(attrs)
    checked = [*test.outputs, *body.outputs]
    factors.partial(checked, checked, checked[0])
    inputs, out = tuple(factors.names(node) for node in body.inputs), factors.names(body.inputs[attrs["output"]])
    unused = {name for axes in inputs for name in axes if name not in out}
    return AxisRule(inputs, out, None, factors.whole_names() | unused)


def _local(node: Node, inputs: tuple[Node, ...]) -> Attrs:
    attrs = dict(node.attrs)
    types = [i.type for i in inputs]
    members = _factors(attrs).sizes_for(attrs["body"].inputs, [t.shape for t in types])
    return tuple(sorted({**attrs, **{n: resize(attrs[n], types, members) for n in ("test", "body")}}.items()))


def _batch(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    """Batched loops run until no test holds; those that are done keep their values."""
    attrs = dict(node.attrs)
    test, body, carried = attrs["test"], attrs["body"], len(attrs["body"].outputs)
    more = [k < carried or wide for k, wide in enumerate(grown)]
    own, outs = batch_body(body, more, size)
    after = spread_all(outs, body.outputs, [True] * carried, size)
    _, (goes_on,) = batch_body(test, more, size)
    goes_on = spread(goes_on, size, test.outputs[0])
    kept = [
        select.where(layout.broadcast(goes_on, shape=new.type.shape, axes=(0,)), new, old)
        for new, old in zip(after, own, strict=False)
    ]
    any_left = reduction.reduce_any(goes_on, axes=(0,))
    given = [spread(i, size, old) if wide else i for i, old, wide in zip(inputs, node.inputs, more, strict=True)]
    return while_loop(*given, **{**attrs, "test": body_of(own, [any_left]), "body": body_of(own, kept)})


RULES["while_loop"] = _batch


def _example() -> dict[str, Any]:
    """Double what is not yet over 10; the number of steps is carried along."""
    x, count = (
        placeholder("while.x", TensorType(np.dtype("float64"), (3,))),
        placeholder("while.k", TensorType(np.dtype("int64"), ())),
    )
    most = literal(10.0)
    test = select.less(reduction.reduce_max(x, axes=(0,)), most)
    after = [arithmetic.add(x, x), arithmetic.add(count, literal(1, "int64"))]
    return {"test": body_of([x, count], [test]), "body": body_of([x, count], after), "limit": 100}


while_loop: Op = Op(
    "while_loop",
    "A body applied to carried values as long as a test of them holds; `output` says which of them.",
    arity=None,
    attrs={"test": "graph", "body": "graph", "limit": "int", "output": "int"},
    infer=_infer,
    kernel=lambda *arrays, output, **attrs: _joint(*arrays, outputs=(output,), **attrs)[0],
    joint=_joint,
    vjp="the number of steps is not known before the loop has run; use scan with a length",
    axes=_axes,
    local=_local,
    examples=tuple(
        Example((Sample((3,), low=0.5), Sample((), "int64", 0, 3)), {**_example(), "output": output})
        for output in (0, 1)
    ),
)
