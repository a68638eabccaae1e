"""scan: a body applied step after step to the slices of arrays, with values carried from each step to the next.

The body takes (carried values, slices, others) and gives (carried values, stacked values, summed values). `scan` has
as outputs the carried values at the end, the stacked ones along a new leading axis, the sums over all steps, and
last the carried values before each step, which reverse mode reads. The adjoint of a scan is a scan from the other
end whose body computes the step again and then its adjoint: so derivatives of any order exist. The cotangents of
`others` are sums over steps, not carried, so that a weight's gradient is a partial sum where the rows are cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir import walk
from graphir.axes import AxisRule
from graphir.batch import RULES, spread
from graphir.body import Body
from graphir.control.bodies import batch_body, body_of, close, inline, placeholder, resize, spread_all, zeros
from graphir.control.factors import Factors
from graphir.dims import Dim
from graphir.errors import AttributeValueError, ShapeError
from graphir.example import Example, Sample
from graphir.interpret import BoundBody
from graphir.node import Array, Attrs, Node, Op
from graphir.ops import arithmetic, layout
from graphir.reverse import backward
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
        inner = self.body.inputs[output - len(self.body.outputs)] if self.kind(output) == "history" else None
        return inner or self.body.outputs[output]

    def needed(self, outputs: Sequence[int]) -> tuple[int, ...]:
        """The carried values that these outputs depend on."""
        wanted = {k if k < self.carries else k - len(self.body.outputs) for k in outputs if self._carried(k)}
        inner = [self.body.outputs[k] for k in outputs if self.kind(k) in ("stacked", "summed")]
        before = -1
        while len(wanted) != before:
            before = len(wanted)
            reached = set(walk.ancestors([*inner, *(self.body.outputs[c] for c in wanted)]))
            wanted |= {c for c in range(self.carries) if self.body.inputs[c] in reached}
        return tuple(sorted(wanted))

    def _carried(self, output: int) -> bool:
        return self.kind(output) in ("final", "history")


def layout_of(attrs: dict[str, Any]) -> Layout:
    """The layout that a node's attributes describe."""
    return Layout(**{name: value for name, value in attrs.items() if name != "output"})


def _infer(*types: TensorType, output: int, **attrs: Any) -> TensorType:
    plan = layout_of(attrs)
    body, carried, end = plan.body, plan.carries, plan.carries + plan.scanned
    if min(plan.carries, plan.scanned, plan.stacked, plan.summed) < 0 or end > len(body.inputs):
        raise AttributeValueError("the numbers of carried, scanned and stacked values do not fit the body")
    if not 0 <= output < len(body.outputs) + carried:
        raise AttributeValueError(f"the scan has no output {output}")
    given = [t.with_shape(t.shape[1:]) if carried <= k < end and t.rank else t for k, t in enumerate(types)]
    for k, (found, expected) in enumerate(zip(given, body.input_types, strict=False)):
        if found != expected:
            raise ShapeError(f"input {k} of the scan's body is {expected}, but the value given is {found}")
    if len(types) != len(body.inputs):
        raise ShapeError(f"the scan's body takes {len(body.inputs)} values, not {len(types)}")
    for k, t in enumerate(types[carried:end]):
        if not t.rank or t.shape[0] != plan.length:
            raise ShapeError(f"scanned value {k} is {t}; its first axis must have the scan's length, {plan.length}")
    for c in range(carried):
        if body.output_types[c] != body.input_types[c]:
            raise ShapeError(
                f"carried value {c} goes in as {body.input_types[c]} and comes out as {body.output_types[c]}; "
                "a step must keep its type: cast or reshape it"
            )
    inner = plan.of(output).type
    return inner if plan.kind(output) in ("final", "summed") else inner.with_shape((plan.length, *inner.shape))


# ---- evaluation ----


def _joint(*arrays: Array, outputs: tuple[int, ...], body: BoundBody, **attrs: Any) -> tuple[Array, ...]:
    plan = Layout(body.body, **attrs)
    needed = plan.needed(outputs)
    made = tuple(k for k in outputs if plan.kind(k) in ("stacked", "summed"))
    length, end = int(plan.length), plan.carries + plan.scanned
    carried, scanned, others = list(arrays[: plan.carries]), arrays[plan.carries : end], arrays[end:]
    results: dict[int, Array] = {}
    for k in outputs:
        if plan.kind(k) != "final":
            inner = plan.of(k).type
            leading = () if plan.kind(k) == "summed" else (length,)
            results[k] = np.zeros((*leading, *body.shape(inner)), inner.dtype)
    history = [(k, k - len(body.body.outputs)) for k in outputs if plan.kind(k) == "history"]
    for step in range(length - 1, -1, -1) if plan.reverse else range(length):
        for k, c in history:
            results[k][step] = carried[c]
        found = body([*carried, *(x[step] for x in scanned), *others], (*needed, *made))
        for c, value in zip(needed, found, strict=False):
            carried[c] = value
        for k, value in zip(made, found[len(needed) :], strict=True):
            if plan.kind(k) == "stacked":
                results[k][step] = value
            else:
                results[k] += value
    return tuple(carried[k] if plan.kind(k) == "final" else results[k] for k in outputs)


def _kernel(*arrays: Array, output: int, **attrs: Any) -> Array:
    return _joint(*arrays, outputs=(output,), **attrs)[0]


# ---- cutting ----


def _factors(plan: Layout, output: int) -> tuple[Factors, list[Node]]:
    body, needed = plan.body, plan.needed([output])
    carried = [body.outputs[c] for c in needed]
    wanted = [*carried, plan.of(output)]
    ties = [(body.inputs[c], body.outputs[c]) for c in range(plan.carries)]
    return Factors([body], [*wanted, *body.outputs], ties), carried


def _axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
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


def _local(node: Node, inputs: tuple[Node, ...]) -> Attrs:
    attrs = dict(node.attrs)
    plan = layout_of(attrs)
    factors, _ = _factors(plan, attrs["output"])
    end = plan.carries + plan.scanned
    shapes = [i.type.shape[1:] if plan.carries <= k < end else i.type.shape for k, i in enumerate(inputs)]
    types = [n.type.with_shape(shape) for n, shape in zip(plan.body.inputs, shapes, strict=True)]
    body = resize(plan.body, types, factors.sizes_for(plan.body.inputs, shapes))
    lengths = [i.type.shape[0] for i in inputs[plan.carries : end]]
    attrs.update(body=body, length=lengths[0] if lengths else plan.length)
    return tuple(sorted(attrs.items()))


# ---- making scans ----


def scan_nodes(
    carried: Sequence[tuple[Node, Node, Node]],
    scanned: Sequence[tuple[Node, Node]],
    stacked: Sequence[Node],
    summed: Sequence[Node],
    length: Dim,
    reverse: bool,
    wanted: Sequence[int] | None = None,
) -> list[Node]:
    """The outputs of a scan. carried: (placeholder, first value, next value); scanned: (placeholder, array).

    stacked, summed: values of a step. Anything else that they depend on is passed in as it is.
    wanted: the numbers of outputs to make, by default all but the history.
    """
    results = [*(after for _, _, after in carried), *stacked, *summed]
    used = set(walk.ancestors(results))
    scanned = [(p, array) for p, array in scanned if p in used]
    placeholders = [*(p for p, _, _ in carried), *(p for p, _ in scanned)]
    body, captured = close(placeholders, results)
    inputs = [*(first for _, first, _ in carried), *(array for _, array in scanned), *captured]
    outputs = range(len(results)) if wanted is None else wanted
    attrs = {
        "body": body, "carries": len(carried), "scanned": len(scanned), "stacked": len(stacked),
        "length": length, "reverse": reverse,
    }  # fmt: skip
    return [scan(*inputs, **attrs, output=k) for k in outputs]


# ---- derivatives ----


def _vjp(cotangents: dict[int, Node], *inputs: Node, **attrs: Any) -> list[Node | None]:
    return _Adjoint(layout_of(attrs), inputs, cotangents, attrs).contributions()


class _Adjoint:
    """The scan that carries cotangents from the last step to the first."""

    def __init__(self, plan: Layout, inputs: tuple[Node, ...], given: dict[int, Node], attrs: dict[str, Any]) -> None:
        self.plan, self.inputs, self.given, self.attrs = plan, inputs, given, attrs
        body = plan.body
        self.here = [self._stand_in("v", k, node.type) for k, node in enumerate(body.inputs)]
        self.values = inline(body, self.here)

    def _stand_in(self, what: str, k: int, type_: TensorType) -> Node:
        # unlike any other name, for a body may hold another scan's adjoint
        return placeholder(f"adjoint.{what}{k}.{self.plan.body.digest.hex()}", type_)

    def contributions(self) -> list[Node | None]:
        plan = self.plan
        active = {k for k in self.given if plan.kind(k) == "final"}
        while True:
            seeds = self._seeds(active)
            found = self._pull(seeds)
            more = {c for c in range(plan.carries) if found[c] is not None} - active
            if not more:
                return self._scan(sorted(active), seeds, found)
            active |= more

    def _seeds(self, active: set[int]) -> dict[int, Node]:
        """A stand-in for the cotangent of each output of the body that has one."""
        given = {k for k in self.given if self.plan.kind(k) in ("stacked", "summed")}
        return {k: self._stand_in("ct", k, self.plan.body.outputs[k].type) for k in sorted(active | given)}

    def _pull(self, seeds: dict[int, Node]) -> list[Node | None]:
        """The cotangents of the body's inputs: the step's adjoint, and what the history's cotangents add."""
        floats = [k for k, node in enumerate(self.here) if node.type.dtype.kind == "f"]
        pulled: list[Node | None] = [None] * len(self.here)
        outputs = [self.values[k] for k in seeds]
        through = backward(outputs, list(seeds.values()), [self.here[k] for k in floats]) if seeds else []
        for k, contribution in zip(floats, through, strict=False):
            pulled[k] = contribution
        for c in range(self.plan.carries):
            if len(self.plan.body.outputs) + c in self.given:
                extra = self._stand_in("h", c, self.here[c].type)
                old = pulled[c]
                pulled[c] = extra if old is None else arithmetic.add(old, extra)
        return pulled

    def _scan(self, active: list[int], seeds: dict[int, Node], found: list[Node | None]) -> list[Node | None]:
        plan, end = self.plan, self.plan.carries + self.plan.scanned
        carried = [(seeds[c], self._or_zero(self.given.get(c), c), self._or_zero(found[c], c)) for c in active]
        scanned = [(seeds[k], ct) for k, ct in self.given.items() if plan.kind(k) == "stacked"]
        count = len(plan.body.outputs)
        scanned += [
            (self._stand_in("h", k - count, self.here[k - count].type), ct)
            for k, ct in self.given.items()
            if k >= count
        ]
        scanned += [(self.here[c], scan(*self.inputs, **self.attrs, output=count + c)) for c in range(plan.carries)]
        scanned += list(zip(self.here[plan.carries : end], self.inputs[plan.carries : end], strict=True))
        slices = [k for k in range(plan.carries, end) if found[k] is not None]
        others = [k for k in range(end, len(self.inputs)) if found[k] is not None]
        outer = {self.here[k]: self.inputs[k] for k in range(end, len(self.inputs))}
        outer |= {seeds[k]: ct for k, ct in self.given.items() if plan.kind(k) == "summed"}
        results = self._outside([after for _, _, after in carried] + [found[k] for k in (*slices, *others)], outer)
        split = len(carried)
        nodes = scan_nodes(
            [(p, first, after) for (p, first, _), after in zip(carried, results, strict=False)],
            scanned, results[split : split + len(slices)], results[split + len(slices) :], plan.length, not plan.reverse,
        )  # fmt: skip
        pulled: list[Node | None] = [None] * len(self.inputs)
        for k, node in zip([*active, *slices, *others], nodes, strict=True):
            pulled[k] = node
        return pulled

    def _outside(self, results: list[Any], outer: dict[Node, Node]) -> list[Node]:
        """The results with the stand-ins of what does not change from step to step replaced by the values."""
        image = walk.substitute(walk.ancestors(results), outer)
        return [image[node] for node in results]

    def _or_zero(self, node: Node | None, c: int) -> Node:
        if node is not None:
            return node
        return zeros(self.plan.body.inputs[c].type)


# ---- batching ----


def _batch(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    attrs = dict(node.attrs)
    plan, output = layout_of(attrs), attrs["output"]
    more = list(grown)
    while True:
        own, outs = batch_body(plan.body, more, size)
        wider = [image.type.rank > old.type.rank for image, old in zip(outs, plan.body.outputs, strict=True)]
        new = [m or (k < plan.carries and wider[k]) for k, m in enumerate(more)]
        if new == more:
            break
        more = new
    wide_outputs = [*(more[: plan.carries]), *wider[plan.carries :]]
    body = body_of(own, spread_all(outs, plan.body.outputs, wide_outputs, size))
    given = []
    for k, (new_input, old) in enumerate(zip(inputs, node.inputs, strict=True)):
        value = spread(new_input, size, old) if more[k] else new_input
        if more[k] and plan.carries <= k < plan.carries + plan.scanned:
            value = _swapped(value)
        given.append(value)
    result = scan(*given, **{**attrs, "body": body})
    wide = [*wide_outputs, *more[: plan.carries]][output]
    if wide and plan.kind(output) in ("stacked", "history"):
        result = _swapped(result)
    return spread(result, size, node)


def _swapped(node: Node) -> Node:
    return layout.permute(node, axes=(1, 0, *range(2, node.type.rank)))


RULES["scan"] = _batch


# ---- the op ----


def _example_body() -> Body:
    """h, s, x, w -> tanh-free step: h * w + x, s + h * x; stacked h * x; summed h * w"""
    h, s, x, w = (placeholder(name, TensorType(np.dtype("float64"), (2,))) for name in ("eh", "es", "ex", "ew"))
    product = arithmetic.multiply(h, w)
    results = [
        arithmetic.add(product, x),
        arithmetic.add(s, arithmetic.multiply(h, x)),
        arithmetic.multiply(h, x),
        product,
    ]
    return body_of([h, s, x, w], results)


_SAMPLES = (Sample((2,)), Sample((2,)), Sample((3, 2)), Sample((2,), low=-1, high=1))
_ATTRS = {"body": _example_body(), "carries": 2, "scanned": 1, "stacked": 1, "length": 3}

scan: Op = Op(
    "scan",
    "A body applied to slices one after the other, with carried values; `output` says which of its values.",
    arity=None,
    attrs={
        "body": "graph", "carries": "int", "scanned": "int", "stacked": "int", "length": "dim", "reverse": "bool",
        "output": "int",
    },
    infer=_infer,
    kernel=_kernel,
    joint=_joint,
    vjp=_vjp,
    axes=_axes,
    local=_local,
    examples=tuple(
        Example(_SAMPLES, {**_ATTRS, "reverse": back, "output": output}) for output in range(6) for back in (False, True)
    ),
)  # fmt: skip
