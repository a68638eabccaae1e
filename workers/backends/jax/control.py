"""A graph as one function of JAX arrays: nodes by the tables of `ops`, bodies by lax's scan, while_loop and cond.

A compiled program cannot raise. `Tracer.code` is the number of the first refusal so far, 0 for none; `refusals` has what each
number stands for. Bodies give their code back to whoever runs them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax import lax

from graphir import dims, walk
from graphir.body import Body
from graphir.control.loop import over_limit
from graphir.control.retrace import retraced_of
from graphir.control.steps import Layout, layout_of
from graphir.errors import GraphError, LimitError
from graphir.interpret import bound_attributes, kernel_error
from graphir.node import Node, describe
from workers.backends.jax.ops import GUARDED, JOINT, PLAIN

CONTROL = ("call", "cond", "scan", "retraced_scan", "while_loop")
LEAVES = ("input", "constant")


def known(node: Node) -> bool:
    """Whether there is something for the node's op."""
    name = node.op.name
    return name in PLAIN or name in GUARDED or name in JOINT or name in CONTROL or name in LEAVES


@dataclass
class Refusals:
    """What the numbers of a program stand for, in the order in which they were traced."""

    found: list[tuple[type[Exception], str, Node]] = field(default_factory=list)

    def error(self, code: int) -> Exception:
        """The error of a number."""
        kind, message, node = self.found[code - 1]
        error = kind(message)
        return error.at(describe(node)) if isinstance(error, GraphError) else error


class Tracer:
    """Computes the values of nodes. constants, offsets: values that the program is given, by node."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        constants: Mapping[Node, Any],
        offsets: Mapping[Node, Any],
        refusals: Refusals,
    ) -> None:
        self._sizes, self._constants, self._offsets, self._refusals = sizes, constants, offsets, refusals
        self.code: Any = jnp.zeros((), "int32")

    def run(self, nodes: Iterable[Node], values: dict[Node, Any]) -> None:
        """Add the values of the nodes, which are in topological order, to those of inputs."""
        nodes = list(nodes)
        groups = walk.siblings(nodes)
        for node in nodes:
            if node in values:
                continue
            if node.op.name == "constant":
                values[node] = (
                    self._constants[node] if node in self._constants else jnp.asarray(node.attr("value").array)
                )
                continue
            group = groups.get(node, (node,))
            inputs = [values[source] for source in node.inputs]
            try:
                values.update(zip(group, self._group(group, inputs), strict=True))
            except Exception as error:  # noqa: BLE001  # whatever is raised, kernel_error types it or gives it back
                typed = kernel_error(node, error)
                raise typed from (None if typed is error else error)

    def _group(self, group: tuple[Node, ...], inputs: list[Any]) -> Sequence[Any]:
        node, name = group[0], group[0].op.name
        if name in CONTROL:
            outputs = tuple(member.attr("output") for member in group)
            result: Sequence[Any] = getattr(self, f"_{name}")(node, inputs, outputs)
            return result
        attributes = bound_attributes(node, self._sizes)
        if node.op.offset:
            attributes["offset"] = self._offsets[node]
        if name in PLAIN:
            return [PLAIN[name](*inputs, **attributes)]

        def guard(bad: Any, kind: type[Exception], message: str) -> None:
            self._refuse(bad, kind, message, node)

        if name in GUARDED:
            return [GUARDED[name](guard, *inputs, **attributes)]
        outputs = tuple(member.attr("output") for member in group)
        found: Sequence[Any] = JOINT[name](guard, *inputs, outputs=outputs)
        return found

    def _refuse(self, bad: Any, kind: type[Exception], message: str, node: Node) -> None:
        self._refusals.found.append((kind, message, node))
        number = jnp.int32(len(self._refusals.found))
        self.code = jnp.where((self.code == 0) & bad, number, self.code)

    # ---- bodies ----

    def _body(self, body: Body, arrays: Sequence[Any], outputs: Sequence[int], code: Any) -> tuple[list[Any], Any]:
        """Some values of a body, and the code after it."""
        inner = Tracer(self._sizes, self._constants, self._offsets, self._refusals)
        inner.code = code
        values = dict(zip(body.inputs, arrays, strict=True))
        wanted = [body.value(k) for k in outputs]
        inner.run(walk.ancestors(wanted), values)
        return [values[node] for node in wanted], inner.code

    def _call(self, node: Node, arrays: list[Any], outputs: tuple[int, ...]) -> Sequence[Any]:
        found, self.code = self._body(node.attr("body"), arrays, outputs, self.code)
        return found

    def _cond(self, node: Node, arrays: list[Any], outputs: tuple[int, ...]) -> Sequence[Any]:
        def branch(name: str) -> Any:
            return lambda values, code: self._body(node.attr(name), values, outputs, code)

        found, self.code = lax.cond(arrays[0], branch("then"), branch("otherwise"), arrays[1:], self.code)
        return list(found)

    def _scan(self, node: Node, arrays: Sequence[Any], outputs: tuple[int, ...]) -> Sequence[Any]:
        return self._steps(layout_of(dict(node.attrs)), arrays, outputs)

    def _steps(self, plan: Layout, arrays: Sequence[Any], outputs: tuple[int, ...]) -> Sequence[Any]:
        needed, evaluated = plan.needed(outputs), plan.evaluated(outputs)
        end, rest = plan.carries + plan.scanned, evaluated[len(plan.needed(outputs)) :]
        summed = [k for k in rest if plan.kind(k) == "summed"]
        length = int(bound_length(plan, self._sizes))

        def step(state: Any, slices: Any) -> Any:
            carried, sums, code = state
            given = list(arrays[: plan.carries])
            for c, value in zip(needed, carried, strict=True):
                given[c] = value
            found, code = self._body(plan.body, [*given, *slices, *arrays[end:]], evaluated, code)
            values = dict(zip(rest, found[len(needed) :], strict=True))
            sums = [total + values[k] for k, total in zip(summed, sums, strict=True)]
            return (found[: len(needed)], sums, code), [values[k] for k in rest if k not in summed]

        zeros = [jnp.zeros(plan.of(k).type.bind(self._sizes), plan.of(k).type.dtype) for k in summed]
        first = ([arrays[c] for c in needed], zeros, self.code)
        (carried, sums, self.code), stacks = lax.scan(
            step, first, list(arrays[plan.carries : end]), length=length, reverse=plan.reverse
        )
        made = dict(zip(summed, sums, strict=True)) | dict(
            zip([k for k in rest if k not in summed], stacks, strict=True)
        )
        made |= {c: value for c, value in zip(needed, carried, strict=True) if c in outputs}
        return [made[k] for k in outputs]

    def _retraced_scan(self, node: Node, arrays: Sequence[Any], outputs: tuple[int, ...]) -> Sequence[Any]:
        """As the plain scan over the other's history, which it equals; every state is kept."""
        plan = retraced_of(dict(node.attrs))
        own, others, given = plan.split(arrays)
        states = self._steps(plan.ahead, given, tuple(plan.history(c) for c in range(plan.states)))
        return self._steps(plan.back, [*own, *states, *others], outputs)

    def _while_loop(self, node: Node, arrays: list[Any], outputs: tuple[int, ...]) -> Sequence[Any]:
        test, body, limit = node.attr("test"), node.attr("body"), node.attr("limit")
        carried, others = len(body.outputs), arrays[len(body.outputs) :]

        def holds(state: Any) -> Any:
            values, _, code = state
            (found,), after = self._body(test, [*values, *others], (0,), code)
            return found, after

        def goes_on(state: Any) -> Any:
            found, code = holds(state)
            return found & (state[1] < limit) & (code == 0)

        def step(state: Any) -> Any:
            values, count, code = state
            after, code = self._body(body, [*values, *others], range(carried), code)
            return after, count + 1, code

        first = (arrays[:carried], jnp.zeros((), "int64"), self.code)
        last = lax.while_loop(goes_on, step, first)
        found, self.code = holds(last)
        self._refuse(found, LimitError, str(over_limit(limit)), node)
        return [last[0][k] for k in outputs]


def bound_length(plan: Layout, sizes: Mapping[str, int]) -> int:
    """The number of a scan's steps."""
    return plan.length if isinstance(plan.length, int) else dims.evaluate(plan.length, sizes)
