"""while_loop with test and body planned once, each as a Python function of its carried values."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphir.control.loop import over_limit
from graphir.errors import GraphError
from graphir.interpret import BoundBody, joint_kernel, kernel_error
from graphir.node import Array, Node
from workers import generated
from workers.backends.numpy.loops import MOST_NODES


class Repeat:
    """The kernel of the outputs of a while_loop that are wanted together."""

    def __init__(self, group: tuple[Node, ...]) -> None:
        self.nodes = group
        self._plain = joint_kernel(group)
        self._outputs = tuple(node.attr("output") for node in group)

    def __call__(self, *arrays: Array, output: int, test: BoundBody, body: BoundBody, limit: int) -> tuple[Array, ...]:
        if body.check_finite or max(len(test.body.nodes), len(body.body.nodes)) > MOST_NODES:
            return self._plain(*arrays, output=output, test=test, body=body, limit=limit)
        holds, after = _straight(test), _straight(body)
        values, carried, step = list(arrays), len(body.body.outputs), 0
        try:
            while holds(values)[0]:
                if step == limit:
                    raise over_limit(limit)
                values[:carried] = after(values)
                step += 1
        except GraphError as error:
            raise error if step == limit else error.within(f"step {step}") from None
        return tuple(np.asarray(values[k]) for k in self._outputs)


def _straight(body: BoundBody) -> Callable[[Sequence[Any]], list[Any]]:
    """The outputs of a body from its inputs, by a function with a line for each call; made once."""
    known = body.kept.get(_straight)
    if known is None:
        known = body.kept[_straight] = _made(body)
    run: Callable[[Sequence[Any]], list[Any]] = known
    return run


def _fixed(lines: Sequence[Any]) -> tuple[list[Any], dict[Node, Any]]:
    """The calls that depend on what is given, and the values of the others."""
    fixed: dict[Node, Any] = {}
    rest = []
    for line in lines:
        group, inputs, kernel, attributes, _ = line
        if group[0].op.joint is None and group[0].op.cheap and all(source in fixed for source in inputs):
            fixed[group[0]] = kernel(*[fixed[source] for source in inputs], **attributes)
        else:
            rest.append(line)
    return rest, fixed


def _made(body: BoundBody) -> Callable[[Sequence[Any]], list[Any]]:
    inner = body.body
    lines, fixed = _fixed(body.plan(tuple(range(len(inner.outputs)))))
    made = dict.fromkeys([*inner.inputs, *fixed, *(node for group, *_ in lines for node in group)])
    names = {node: f"v{k}" for k, node in enumerate(made)}
    scope: dict[str, Any] = {"asarray": np.asarray} | {names[node]: value for node, value in fixed.items()}
    text = ["def run(given):", f" {', '.join(names[node] for node in inner.inputs)}, = given"]
    for k, (group, inputs, kernel, attributes, free) in enumerate(lines):
        scope[f"f{k}"], scope[f"a{k}"] = kernel, attributes
        targets = names[group[0]] if group[0].op.joint is None else ", ".join(names[node] for node in group) + ","
        more = f", **a{k}" if attributes else ""
        operands = ", ".join(names[source] for source in inputs)
        dead = "".join(f"; {names[node]} = None" for node in free if node not in fixed)
        text.append(f" {targets} = f{k}({operands}{more if operands else more[2:]}){dead}")
    text.append(f" return [{', '.join(f'asarray({names[node]})' for node in inner.outputs)}]")
    function = generated.function(text, scope)

    def run(given: Sequence[Any]) -> list[Any]:
        try:
            found: list[Any] = function(given)
        except Exception as error:  # noqa: BLE001  # whatever a kernel raises, kernel_error types it or gives it back
            line, _ = generated.failure(error, function)
            typed = kernel_error(lines[line - 2][0][0], error)
            raise typed from (None if typed is error else error)
        return found

    return run
