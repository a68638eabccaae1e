"""scan: a body applied step after step to the slices of arrays, with values carried from each step to the next.

The body takes (carried values, slices, others) and gives (carried values, stacked values, summed values). `scan` has
as outputs the carried values at the end, the stacked ones along a new leading axis, the sums over all steps, and
last the histories: any value inside, at each step, which reverse mode reads. The adjoint of a scan is a scan from the
other end; its body computes what is cheap of the step again, and then its adjoint: so derivatives of any order exist. The cotangents of
`others` are sums over steps, not carried, so that a weight's gradient is a partial sum where the rows are cut.
With checkpoints the adjoint is a `retraced_scan` instead, which keeps so many states and computes the rest again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphir import walk
from graphir.batch import RULES, spread
from graphir.body import Body
from graphir.control import retrace, steps
from graphir.control.bodies import (
    adjoint,
    batch_carried,
    body_of,
    close,
    inline,
    placeholder,
    zeros,
)
from graphir.control.factors import joint_rule
from graphir.control.later import Later
from graphir.control.retrace import Retraced, retraced_of
from graphir.control.steps import Layout, dear_values, layout_of
from graphir.dims import Dim
from graphir.example import Example, Sample
from graphir.node import Attrs, Node, Op, make
from graphir.ops import arithmetic, layout, transcendental
from graphir.reverse import active_nodes, backward
from graphir.types import TensorType

# ---- making scans ----


def scan_nodes(
    carried: Sequence[tuple[Node, Node, Node]],
    scanned: Sequence[tuple[Node, Node]],
    stacked: Sequence[Node],
    summed: Sequence[Node],
    length: Dim,
    reverse: bool,
    checkpoints: int,
) -> list[Node]:
    """The outputs of a scan but the history. carried: (placeholder, first value, next value).

    scanned: (placeholder, array). stacked, summed: values of a step. Anything else that they depend on is passed in
    as it is.
    """
    results = [*(after for _, _, after in carried), *stacked, *summed]
    used = set(walk.ancestors(results))
    scanned = [(p, array) for p, array in scanned if p in used]
    placeholders = [*(p for p, _, _ in carried), *(p for p, _ in scanned)]
    body, captured = close(placeholders, results)
    inputs = [*(first for _, first, _ in carried), *(array for _, array in scanned), *captured]
    plan = Layout(body, len(carried), len(scanned), len(stacked), length, reverse, checkpoints)
    return [scan(*inputs, **plan.attrs(), output=k) for k in range(len(results))]


# ---- derivatives ----


def _vjp(cotangents: dict[int, Node], wanted: frozenset[int], *inputs: Node, **attrs: Any) -> list[Node | None]:
    return _Adjoint(layout_of(attrs), inputs, cotangents, wanted, attrs).contributions()


class _Adjoint:
    """The scan that carries cotangents from the last step to the first."""

    def __init__(
        self,
        plan: Layout,
        inputs: tuple[Node, ...],
        given: dict[int, Node],
        wanted: frozenset[int],
        attrs: dict[str, Any],
    ) -> None:
        self.plan, self.inputs, self.given, self.attrs = plan, inputs, given, attrs
        body = plan.body
        self.here = [self._stand_in("v", k, node.type) for k, node in enumerate(body.inputs)]
        self.image = walk.substitute(body.nodes, dict(zip(body.inputs, self.here, strict=True)))
        self.moving = self._moving(set(wanted))

    def _moving(self, wanted: set[int]) -> set[int]:
        """The inputs of the body whose cotangents matter: the wanted ones and carried values that depend on them."""
        body, found = self.plan.body, wanted
        while True:
            active = active_nodes(body.nodes, [body.inputs[k] for k in found], frozenset())
            more = {c for c in range(self.plan.carries) if body.outputs[c] in active} - found
            if not more:
                return found
            found = found | more

    def _stand_in(self, what: str, k: int, type_: TensorType) -> Node:
        # unlike any other name, for a body may hold another scan's adjoint
        return placeholder(f"adjoint.{what}{k}.{self.plan.body.digest.hex()}", type_)

    def contributions(self) -> list[Node | None]:
        plan = self.plan
        active = {k for k in self.given if plan.kind(k) == "final"} & self.moving
        while True:
            seeds = self._seeds(active)
            found = self._pull(seeds)
            more = {c for c in range(plan.carries) if found[c] is not None} - active
            if not more:
                return self._scan(sorted(active), seeds, found)
            active |= more

    def _seeds(self, active: set[int]) -> dict[int, Node]:
        """A stand-in for the cotangent of each value of the body that has one."""
        given = {k for k in self.given if self.plan.kind(k) != "final"}
        return {k: self._stand_in("ct", k, self.plan.of(k).type) for k in sorted(active | given)}

    def _pull(self, seeds: dict[int, Node]) -> list[Node | None]:
        """The cotangents of the body's inputs."""
        floats = [k for k in sorted(self.moving) if self.here[k].type.dtype.kind == "f"]
        pulled: list[Node | None] = [None] * len(self.here)
        outputs = [self.image[self.plan.of(k)] for k in seeds]
        through = backward(outputs, list(seeds.values()), [self.here[k] for k in floats])
        for k, contribution in zip(floats, through, strict=True):
            pulled[k] = contribution
        return pulled

    def _scan(self, active: list[int], seeds: dict[int, Node], found: list[Node | None]) -> list[Node | None]:
        plan, end = self.plan, self.plan.carries + self.plan.scanned
        carried = [(seeds[c], self._or_zero(self.given.get(c), c), self._or_zero(found[c], c)) for c in active]
        scanned = [(seeds[k], ct) for k, ct in self.given.items() if plan.kind(k) in ("stacked", "history")]
        scanned += list(zip(self.here[plan.carries : end], self.inputs[plan.carries : end], strict=True))
        slices = [k for k in range(plan.carries, end) if found[k] is not None]
        others = [k for k in range(end, len(self.inputs)) if found[k] is not None]
        results = self._outside([after for _, _, after in carried] + [found[k] for k in (*slices, *others)], seeds)
        split = len(carried)
        nodes = self._nodes(
            [(p, first, after) for (p, first, _), after in zip(carried, results, strict=False)],
            scanned, results[split : split + len(slices)], results[split + len(slices) :],
        )  # fmt: skip
        pulled: list[Node | None] = [None] * len(self.inputs)
        for k, node in zip([*active, *slices, *others], nodes, strict=True):
            pulled[k] = node
        return pulled

    def _outside(self, results: list[Any], seeds: dict[int, Node]) -> list[Node]:
        """The results with the stand-ins of what does not change from step to step replaced by the values."""
        end = self.plan.carries + self.plan.scanned
        outer = dict(zip(self.here[end:], self.inputs[end:], strict=True))
        outer |= {seeds[k]: ct for k, ct in self.given.items() if self.plan.kind(k) == "summed"}
        image = walk.substitute(walk.ancestors([*results, *self.image.values()]), outer)
        self.image = {node: image[inner] for node, inner in self.image.items()}
        return [image[node] for node in results]

    def _nodes(
        self,
        carried: list[tuple[Node, Node, Node]],
        scanned: list[tuple[Node, Node]],
        stacked: list[Node],
        summed: list[Node],
    ) -> list[Node]:
        plan, results = self.plan, [*(after for _, _, after in carried), *stacked, *summed]
        used = set(walk.ancestors(results))
        states = [node for node in plan.body.inputs[: plan.carries] if self.image[node] in used]
        if plan.checkpoints and states:
            return self._retraced(states, carried, scanned, stacked, summed)
        kept = states if plan.checkpoints else [*states, *dear_values(plan, self.image, results)]
        stand_ins = {self.image[node]: self._stand_in("t", k, node.type) for k, node in enumerate(kept)}
        read = [(stand_ins[self.image[node]], self._history(node)) for node in kept]
        image = walk.substitute(walk.ancestors(results, stop=frozenset(stand_ins)), stand_ins)
        new, first, last = [image[node] for node in results], len(carried), len(carried) + len(stacked)
        carried = [(p, before, after) for (p, before, _), after in zip(carried, new, strict=False)]
        later = Later(dict([*read, *scanned]), new[first:last]) if not plan.checkpoints else None
        waiting = [None if later is None else later.taken(node) for node in new[last:]]
        inside = [node for node, out in zip(new[last:], waiting, strict=True) if out is None]
        stacks = new[first:last] if later is None else later.stacked
        found = scan_nodes(
            carried, [*read, *scanned], stacks, inside, plan.length, not plan.reverse, plan.checkpoints
        )  # fmt: skip
        made = found[first : first + len(stacks)]
        sums = iter(found[first + len(stacks) :])
        outside = [next(sums) if make is None else make(made) for make in waiting]
        return [*found[:first], *made[: last - first], *outside]

    def _history(self, node: Node) -> Node:
        """The values of a node of the body at each step."""
        return scan(*self.inputs, **self.attrs, output=self.plan.body.number(node))

    def _retraced(
        self,
        read: list[Node],
        carried: list[tuple[Node, Node, Node]],
        scanned: list[tuple[Node, Node]],
        stacked: list[Node],
        summed: list[Node],
    ) -> list[Node]:
        plan, results = self.plan, [*(after for _, _, after in carried), *stacked, *summed]
        used = set(walk.ancestors(results))
        scanned = [(p, array) for p, array in scanned if p in used]
        states = plan.needed([plan.body.number(node) for node in read])
        placeholders = [*(p for p, _, _ in carried), *(p for p, _ in scanned), *(self.here[c] for c in states)]
        body, captured = close(placeholders, results)
        after = [plan.body.outputs[c] for c in states]
        moved = set(walk.ancestors(after))
        end = plan.carries + plan.scanned
        rest = [k for k in range(plan.carries, len(plan.body.inputs)) if plan.body.inputs[k] in moved]
        ahead = body_of([plan.body.inputs[k] for k in (*states, *rest)], after)
        retraced = Retraced(
            body, ahead, len(carried), len(scanned), len(stacked), plan.length, not plan.reverse,
            len(states), sum(k < end for k in rest), plan.checkpoints,
        )  # fmt: skip
        inputs = [*(first for _, first, _ in carried), *(array for _, array in scanned), *captured]
        inputs += [self.inputs[k] for k in (*states, *rest)]
        return [retraced_scan(*inputs, **retraced.attrs(), output=k) for k in range(len(results))]

    def _or_zero(self, node: Node | None, c: int) -> Node:
        if node is not None:
            return node
        return zeros(self.plan.body.inputs[c].type)


# ---- batching ----


def _batch(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    plan, output = layout_of(dict(node.attrs)), node.attr("output")
    more, body, image = batch_carried(plan.body, plan.carries, grown, size)
    end, inner = plan.carries + plan.scanned, plan.of(output)
    given = [_given(*pair, plan.carries <= k < end, size) for k, pair in enumerate(_pairs(node, inputs, more))]
    number = body.number(image[inner]) if plan.kind(output) == "history" else output
    result = scan(*given, **{**plan.attrs(), "body": body}, output=number)
    if plan.kind(output) in ("stacked", "history") and body.value(number).type.rank > inner.type.rank:
        result = _swapped(result)
    return spread(result, size, node)


def _batch_retraced(node: Node, inputs: tuple[Node, ...], grown: tuple[bool, ...], size: Dim) -> Node:
    plan, output = retraced_of(dict(node.attrs)), node.attr("output")
    own, others, given = plan.split(grown)
    ahead, forward, _ = batch_carried(plan.forward, plan.states, given, size)
    back, body, _ = batch_carried(plan.body, plan.carries, [*own, *ahead[: plan.states], *others], size)
    start = plan.carries + plan.scanned
    more = [*back[:start], *others, *ahead]
    sliced = {*range(plan.carries, start)}
    first = start + len(others) + plan.states
    sliced |= {*range(first, first + plan.sliced)}
    values = [_given(*pair, k in sliced, size) for k, pair in enumerate(_pairs(node, inputs, more))]
    result = retraced_scan(*values, **{**plan.attrs(), "body": body, "forward": forward}, output=output)
    wide = body.outputs[output].type.rank > plan.body.outputs[output].type.rank
    return spread(_swapped(result) if wide and plan.back.kind(output) == "stacked" else result, size, node)


def _pairs(node: Node, inputs: Sequence[Node], more: Sequence[bool]) -> list[tuple[Node, Node, bool]]:
    return list(zip(inputs, node.inputs, more, strict=True))


def _given(new: Node, old: Node, more: bool, sliced: bool, size: Dim) -> Node:
    if not more:
        return new
    value = spread(new, size, old)
    return _swapped(value) if sliced else value


def _swapped(node: Node) -> Node:
    return layout.permute(node, axes=(1, 0, *range(2, node.type.rank)))


RULES |= {"scan": _batch, "retraced_scan": _batch_retraced}


# ---- the plain form of a retraced scan ----


def plain_scan(inputs: Sequence[Node], attrs: dict[str, Any]) -> list[Node]:
    """All outputs of a retraced scan as those of a scan over the other's history."""
    plan = retraced_of(attrs)
    own, others, given = plan.split(inputs)
    states = [scan(*given, **plan.ahead.attrs(), output=plan.history(c)) for c in range(plan.states)]
    values = [*own, *states, *others]
    return [scan(*values, **plan.back.attrs(), output=k) for k in range(len(plan.body.outputs))]


def _plain_body(types: Sequence[TensorType], attrs: dict[str, Any]) -> Body:
    inputs = [placeholder(str(k), type_) for k, type_ in enumerate(types)]
    return body_of(inputs, plain_scan(inputs, attrs))


def _vjp_retraced(
    cotangents: dict[int, Node], wanted: frozenset[int], *inputs: Node, **attrs: Any
) -> list[Node | None]:
    here, seeds, pulled = adjoint(_plain_body([node.type for node in inputs], attrs), list(cotangents), wanted)
    found = [node for node in pulled if node is not None]
    values = dict(zip([*here, *seeds], [*inputs, *cotangents.values()], strict=True))
    image = walk.substitute(walk.ancestors(found), values)
    return [None if node is None else image[node] for node in pulled]


def _local_retraced(node: Node, inputs: tuple[Node, ...]) -> Attrs:
    attrs = dict(node.attrs)
    plan, output = retraced_of(attrs), attrs["output"]
    own, others, given = plan.split(inputs)
    plain = plain_scan(node.inputs, attrs)[output]
    start = plan.carries + plan.scanned
    states = [
        make(scan, tuple(given), steps.local(state, tuple(given)))
        for state in plain.inputs[start : start + plan.states]
    ]
    back = dict(steps.local(plain, (*own, *states, *others)))
    forward = dict(states[0].attrs)["body"]
    attrs.update(body=back["body"], forward=forward, length=back["length"])
    return tuple(sorted(attrs.items()))


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
_BODY = _example_body()
_ATTRS = {"body": _BODY, "carries": 2, "scanned": 1, "stacked": 1, "length": 3, "checkpoints": 0}
_KINDS = {
    "body": "graph", "carries": "int", "scanned": "int", "stacked": "int", "length": "dim", "reverse": "bool",
    "checkpoints": "int", "output": "int",
}  # fmt: skip

scan: Op = Op(
    "scan",
    "A body applied to slices one after the other, with carried values; `output` says which of its values.",
    arity=None,
    attrs=_KINDS,
    infer=steps.infer,
    kernel=steps.kernel,
    joint=steps.joint,
    vjp=_vjp,
    axes=steps.axes,
    local=steps.local,
    examples=tuple(
        Example(_SAMPLES, {**_ATTRS, "reverse": back, "output": output}) for output in range(6) for back in (False, True)
    ),
)  # fmt: skip


def _retraced_example() -> Retraced:
    """The body above goes back along the states of: h, x, w -> sin(h) * w + x"""
    h, x, w = (placeholder(name, TensorType(np.dtype("float64"), (2,))) for name in ("rh", "rx", "rw"))
    forward = body_of([h, x, w], [arithmetic.add(arithmetic.multiply(transcendental.sin(h), w), x)])
    own = [placeholder(f"r{k}", node.type) for k, node in enumerate(_BODY.inputs)]
    state = placeholder("rs", TensorType(np.dtype("float64"), (2,)))
    outputs = inline(_BODY, own)
    results = [*outputs[:2], arithmetic.multiply(outputs[2], state), outputs[3]]
    return Retraced(body_of([*own[:3], state, own[3]], results), forward, 2, 1, 1, 3, True, 1, 1, 1)


retraced_scan: Op = Op(
    "retraced_scan",
    "A scan over slices and over the states of another scan, most of which are computed again instead of kept.",
    arity=None,
    attrs={**_KINDS, "forward": "graph", "states": "int", "sliced": "int"},
    infer=retrace.infer,
    kernel=lambda *arrays, output, **attrs: retrace.joint(*arrays, outputs=(output,), **attrs)[0],
    joint=retrace.joint,
    vjp=_vjp_retraced,
    axes=lambda types, attrs: joint_rule((_plain_body(types, attrs),), attrs["output"])[1],
    local=_local_retraced,
    examples=tuple(
        Example(
            (*_SAMPLES, Sample((2,)), Sample((3, 2)), Sample((2,))), {**_retraced_example().attrs(), "output": output}
        )
        for output in range(4)
    ),
)
