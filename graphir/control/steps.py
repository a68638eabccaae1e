"""What a scan does with its body: its outputs' types, how it is evaluated, and how it is cut."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from graphir import walk
from graphir.axes import AxisRule
from graphir.body import Body
from graphir.control.bodies import resize
from graphir.control.factors import Factors
from graphir.dims import Dim
from graphir.errors import AttributeValueError, GraphError, ShapeError
from graphir.interpret import BoundBody
from graphir.node import Array, Attrs, Node
from graphir.types import TensorType


@dataclass(frozen=True)
class Layout:
    """How a scan's inputs and outputs are divided."""

    body: Body
    carries: int
    scanned: int
    stacked: int
    length: Dim
    reverse: bool
    checkpoints: int = 0

    def attrs(self) -> dict[str, Any]:
        """The attributes that describe it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def summed(self) -> int:
        """The number of summed outputs."""
        return len(self.body.outputs) - self.carries - self.stacked

    def kind(self, output: int) -> str:
        """What an output is: "final", "stacked", "summed" or "history"."""
        if output < self.carries:
            return "final"
        if output < self.carries + self.stacked:
            return "stacked"
        return "summed" if output < len(self.body.outputs) else "history"

    def of(self, output: int) -> Node:
        """The node of the body whose values the output is made of."""
        return self.body.value(output)

    def needed(self, outputs: Sequence[int]) -> tuple[int, ...]:
        """The carried values that these outputs depend on."""
        wanted = {k for k in outputs if self.kind(k) == "final"}
        inner = [self.of(k) for k in outputs if self.kind(k) != "final"]
        before = -1
        while len(wanted) != before:
            before = len(wanted)
            reached = set(walk.ancestors([*inner, *(self.body.outputs[c] for c in wanted)]))
            wanted |= {c for c in range(self.carries) if self.body.inputs[c] in reached}
        return tuple(sorted(wanted))

    def evaluated(self, outputs: Sequence[int]) -> tuple[int, ...]:
        """The values of the body that a step computes for these outputs."""
        return (*self.needed(outputs), *(k for k in outputs if self.kind(k) != "final"))


def layout_of(attrs: dict[str, Any]) -> Layout:
    """The layout that a node's attributes describe."""
    return Layout(**{name: value for name, value in attrs.items() if name != "output"})


def _check_numbers(plan: Layout, output: int) -> None:
    end = plan.carries + plan.scanned
    if min(plan.carries, plan.scanned, plan.stacked, plan.summed) < 0 or end > len(plan.body.inputs):
        raise AttributeValueError("the numbers of carried, scanned and stacked values do not fit the body")
    if plan.checkpoints < 0:
        raise AttributeValueError(f"a scan keeps 0 checkpoints (every state) or more, not {plan.checkpoints}")
    if not 0 <= output < len(plan.body.outputs) + len(plan.body.values):
        raise AttributeValueError(f"the scan has no output {output}")


def _check_inputs(plan: Layout, types: Sequence[TensorType]) -> None:
    carried, end = plan.carries, plan.carries + plan.scanned
    given = [t.with_shape(t.shape[1:]) if carried <= k < end and t.rank else t for k, t in enumerate(types)]
    for k, (found, expected) in enumerate(zip(given, plan.body.input_types, strict=False)):
        if found != expected:
            raise ShapeError(f"input {k} of the scan's body is {expected}, but the value given is {found}")
    if len(types) != len(plan.body.inputs):
        raise ShapeError(f"the scan's body takes {len(plan.body.inputs)} values, not {len(types)}")
    for k, t in enumerate(types[carried:end]):
        if not t.rank or t.shape[0] != plan.length:
            raise ShapeError(f"scanned value {k} is {t}; its first axis must have the scan's length, {plan.length}")


def infer(*types: TensorType, output: int, **attrs: Any) -> TensorType:
    """The type of an output."""
    plan = layout_of(attrs)
    _check_numbers(plan, output)
    _check_inputs(plan, types)
    for c in range(plan.carries):
        before, after = plan.body.input_types[c], plan.body.output_types[c]
        if before != after:
            raise ShapeError(
                f"carried value {c} goes in as {before} and comes out as {after}; "
                "a step must keep its type: cast or reshape it"
            )
    inner = plan.of(output).type
    return inner if plan.kind(output) in ("final", "summed") else inner.with_shape((plan.length, *inner.shape))


# ---- evaluation ----


class Run:
    """An evaluation, one step at a time, of some outputs of a scan."""

    def __init__(self, plan: Layout, body: BoundBody, carried: Sequence[Array], outputs: tuple[int, ...]) -> None:
        self._plan, self._body, self._outputs = plan, body, outputs
        self._evaluated = plan.evaluated(outputs)
        self._needed = plan.needed(outputs)
        self._carried, self._results = list(carried), {k: self._empty(k) for k in outputs if plan.kind(k) != "final"}

    def _empty(self, output: int) -> Array:
        inner = self._plan.of(output).type
        leading = () if self._plan.kind(output) == "summed" else (int(self._plan.length),)
        return np.zeros((*leading, *self._body.shape(inner)), inner.dtype)

    def step(self, at: int, rest: Sequence[Array]) -> None:
        """Apply the body to the carried values and the `rest` of its inputs; `at` is the number of the slice."""
        try:
            found = self._body([*self._carried, *rest], self._evaluated)
        except GraphError as error:
            raise error.within(f"step {at}") from None
        for c, value in zip(self._needed, found, strict=False):
            self._carried[c] = value
        first = len(self._needed)
        for k, value in zip(self._evaluated[first:], found[first:], strict=True):
            if self._plan.kind(k) == "summed":
                self._results[k] += value
            else:
                self._results[k][at] = value

    def values(self) -> tuple[Array, ...]:
        """The outputs, after the last step."""
        return tuple(self._carried[k] if self._plan.kind(k) == "final" else self._results[k] for k in self._outputs)


def in_order(array: Array) -> Array:
    """What every step reads, in C order: products with it take less time than one copy. What is repeated stays."""
    return array if 0 in array.strides else np.ascontiguousarray(array).reshape(array.shape)


def joint(*arrays: Array, outputs: tuple[int, ...], body: BoundBody, **attrs: Any) -> tuple[Array, ...]:
    """The values of several outputs of a scan."""
    plan = Layout(body.body, **attrs)
    length, end = int(plan.length), plan.carries + plan.scanned
    scanned, others = arrays[plan.carries : end], [in_order(array) for array in arrays[end:]]
    run = Run(plan, body, arrays[: plan.carries], outputs)
    for at in range(length - 1, -1, -1) if plan.reverse else range(length):
        run.step(at, [*(x[at] for x in scanned), *others])
    return run.values()


def kernel(*arrays: Array, output: int, **attrs: Any) -> Array:
    """The values of one output."""
    return joint(*arrays, outputs=(output,), **attrs)[0]


# ---- what to keep of a step ----

CHEAP = 4
"""Operations for an element, up to which a value is computed again rather than kept."""


def dear_values(plan: Layout, image: dict[Node, Node], results: Sequence[Node]) -> list[Node]:
    """Nodes of the body whose images the results use directly, which change from step to step and are dear to compute.

    What is cheap from those, from states and from slices is left to be computed again.
    """
    inside = {image[node]: node for node in plan.body.values}
    varying = walk.reaches(plan.body.values, plan.body.inputs[: plan.carries + plan.scanned])
    used = {i for node in walk.ancestors(results) if node not in inside for i in node.inputs} | set(results)
    frontier = {inside[node] for node in used if node in inside}
    dear: set[Node] = set()
    kept = []
    for node in plan.body.values:
        if node in varying and node.inputs and (_is_dear(node) or not dear.isdisjoint(node.inputs)):
            dear.add(node)
            if node in frontier:
                dear.discard(node)
                kept.append(node)
    return kept


def _is_dear(node: Node) -> bool:
    rule = node.op.axis_rule(tuple(i.type for i in node.inputs), node.attrs)
    contracts = rule is None or any(name not in rule.output for axes in rule.inputs for name in axes)
    return contracts or callable(node.op.cost) or node.op.cost > CHEAP


# ---- cutting ----


def _factors(plan: Layout, output: int) -> tuple[Factors, list[Node]]:
    body, needed = plan.body, plan.needed([output])
    carried = [body.outputs[c] for c in needed]
    wanted = [*carried, plan.of(output)]
    ties = [(body.inputs[c], body.outputs[c]) for c in range(plan.carries)]
    return Factors([body], [*wanted, *body.outputs], ties), carried


def axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    """The axis rule of an output, from the body's."""
    plan, output = layout_of(attrs), int(attrs["output"])
    factors, carried = _factors(plan, output)
    inner, kind = plan.of(output), plan.kind(output)
    parts = factors.partial(carried, carried, inner)
    if kind in ("stacked", "history") and parts:  # parts of every slice: a partial sum all the same
        parts = frozenset(parts)
    inputs = [
        ("t", *factors.names(node)) if plan.carries <= k < plan.carries + plan.scanned else factors.names(node)
        for k, node in enumerate(plan.body.inputs)
    ]
    own = factors.names(inner)
    out = ("t", *own) if kind in ("stacked", "history") else own
    summed = {factors.names(node)[axis] for node, axis in parts}
    seen = {name for axes in inputs for name in axes}
    whole = factors.whole_names() | {name for name in seen if name not in out and name not in summed and name != "t"}
    if carried or kind == "final" or (kind == "summed" and summed):
        whole |= {"t"}
    combine = "sum" if summed or kind == "summed" else None
    return AxisRule(tuple(inputs), out, combine, frozenset(whole))


def local(node: Node, inputs: tuple[Node, ...]) -> Attrs:
    """The attributes for inputs of the sizes of a chunk."""
    attrs = dict(node.attrs)
    plan = layout_of(attrs)
    factors, _ = _factors(plan, attrs["output"])
    end = plan.carries + plan.scanned
    shapes = [i.type.shape[1:] if plan.carries <= k < end else i.type.shape for k, i in enumerate(inputs)]
    types = [n.type.with_shape(shape) for n, shape in zip(plan.body.inputs, shapes, strict=True)]
    body, image = resize(plan.body, types, factors.sizes_for(plan.body.inputs, shapes))
    lengths = [i.type.shape[0] for i in inputs[plan.carries : end]]
    output = attrs["output"]
    if plan.kind(output) == "history":
        output = body.number(image[plan.of(output)])
    attrs.update(body=body, length=lengths[0] if lengths else plan.length, output=output)
    return tuple(sorted(attrs.items()))
