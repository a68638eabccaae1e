"""A scan that reads the states of another one from the last to the first, and keeps few of them in memory.

It is the adjoint of a scan with checkpoints: states that are not kept are computed again from the nearest one that
is, by the binomial schedule. Its values are those of the plain scan over the other's history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from graphir.body import Body
from graphir.control import steps
from graphir.control.schedule import reversal
from graphir.dims import Dim
from graphir.errors import AttributeValueError, GraphError
from graphir.interpret import BoundBody
from graphir.node import Array
from graphir.types import TensorType

Value = TypeVar("Value")


@dataclass(frozen=True)
class Retraced:
    """A scan of `body` over slices and over the states of a scan of `forward`, which gives its carried values only.

    The body takes (carried values, slices, states, others). The inputs are the first carried values, the scanned
    arrays and the others, and after them those of the scan of `forward`.
    """

    body: Body
    forward: Body
    carries: int
    scanned: int
    stacked: int
    length: Dim
    reverse: bool
    states: int
    sliced: int
    checkpoints: int

    @property
    def back(self) -> steps.Layout:
        """The scan itself, with the states among what it is scanned over."""
        scanned = self.scanned + self.states
        return steps.Layout(self.body, self.carries, scanned, self.stacked, self.length, self.reverse, self.checkpoints)

    @property
    def ahead(self) -> steps.Layout:
        """The scan whose states are read."""
        return steps.Layout(self.forward, self.states, self.sliced, 0, self.length, not self.reverse, self.checkpoints)

    def attrs(self) -> dict[str, Any]:
        """The attributes that describe it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def split(self, inputs: Sequence[Value]) -> tuple[Sequence[Value], Sequence[Value], Sequence[Value]]:
        """The first carried values and scanned arrays, the others, and the inputs of the scan of `forward`."""
        own = self.carries + self.scanned
        end = len(self.body.inputs) - self.states
        return inputs[:own], inputs[own:end], inputs[end:]

    def history(self, state: int) -> int:
        """The output of the scan of `forward` that is the history of a state."""
        return len(self.forward.outputs) + state


def retraced_of(attrs: dict[str, Any]) -> Retraced:
    """The division that a node's attributes describe."""
    return Retraced(**{name: value for name, value in attrs.items() if name != "output"})


def infer(*types: TensorType, output: int, **attrs: Any) -> TensorType:
    """The type of an output: that of the plain scan."""
    plan = retraced_of(attrs)
    if plan.checkpoints < 1:
        raise AttributeValueError(f"a retraced scan keeps 1 checkpoint or more, not {plan.checkpoints}")
    if len(plan.forward.outputs) != plan.states or output >= len(plan.body.outputs):
        raise AttributeValueError("the numbers of states and outputs do not fit the bodies")
    own, others, given = plan.split(types)
    ahead = plan.ahead.attrs()
    states = [steps.infer(*given, **ahead, output=plan.history(c)) for c in range(plan.states)]
    return steps.infer(*own, *states, *others, **plan.back.attrs(), output=output)


def joint(
    *arrays: Array, outputs: tuple[int, ...], body: BoundBody, forward: BoundBody, **attrs: Any
) -> tuple[Array, ...]:
    """The values of several outputs."""
    plan = Retraced(body=body.body, forward=forward.body, **attrs)
    own, others, given = plan.split(arrays)
    scanned, length = own[plan.carries :], int(plan.length)
    slices, rest = given[plan.states : plan.states + plan.sliced], given[plan.states + plan.sliced :]
    run = steps.Run(plan.back, body, own[: plan.carries], outputs)
    state: Sequence[Array] = given[: plan.states]
    kept: dict[int, Sequence[Array]] = {}
    for action, position in reversal(length, plan.checkpoints):
        at = position if plan.reverse else length - 1 - position
        if action == "keep":
            kept[position] = state
        elif action == "restore":
            state = kept[position]
        elif action == "forward":
            try:
                state = forward([*state, *(x[at] for x in slices), *rest])
            except GraphError as error:
                raise error.within(f"step {at}") from None
        else:
            run.step(at, [*(x[at] for x in scanned), *state, *others])
            kept.pop(position, None)
    return run.values()
