"""What an optimiser gives: outputs, carried names, first values; and the parts that optimisers are made of.

`Builder` checks the loss and the parameters, names the states, and collects what is carried. All names are checked
against the inputs of the loss, because two inputs with one name would be one input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphir import array, elementwise, walk
from graphir.errors import AttributeValueError, DTypeError, InvariantError, ShapeError
from graphir.expr import Expr, cast
from graphir.grad import grad
from graphir.types import FLOAT64, DType, Shape

Schedule: TypeAlias = Callable[[Expr], Expr]
Rate: TypeAlias = float | Schedule


@dataclass(frozen=True, slots=True)
class Updates:
    """One step of an optimiser: `outputs` go into the graph, `start` into the feeds, `carry` into the job."""

    outputs: Mapping[str, Expr]
    """The next value of each parameter and state by the output's name."""
    carry: Mapping[str, str]
    """The output that feeds each input in the next step."""
    start: Mapping[str, np.ndarray[Any, Any]]
    """The first value of each state; the parameters' are the caller's."""

    def __repr__(self) -> str:
        moved = [name for name in self.carry if name not in self.start]
        return f"<Updates of {', '.join(moved)}; states: {', '.join(self.start) or 'none'}>"


def global_norm(values: Sequence[Expr]) -> Expr:
    """The Euclidean norm of all elements of all values together; a scalar."""
    if not values:
        raise ShapeError("global_norm needs one value or more")
    total = array.sum(elementwise.square(values[0]))
    for value in values[1:]:
        total = total + array.sum(elementwise.square(value))
    return elementwise.sqrt(total)


def clip_by_global_norm(values: Sequence[Expr], limit: float) -> list[Expr]:
    """The values times min(1, limit / (norm + 1e-6)), norm being their global norm.

    Source: Pascanu, Mikolov, Bengio (2013), algorithm 1; the 1e-6 is torch.nn.utils.clip_grad_norm_'s.
    """
    check_number("limit", limit, above=0.0)
    factor = elementwise.minimum(limit / (global_norm(values) + 1e-6), 1.0)
    return [value * cast(factor, value.dtype) for value in values]


def check_number(
    name: str, value: Any, *, above: float | None = None, least: float = 0.0, below: float = np.inf
) -> None:
    """AttributeValueError unless value is a number in [least, below), or in (above, below)."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not (value >= least if above is None else value > above) or not value < below:
        low = f"at least {least:g}" if above is None else f"above {above:g}"
        high = "" if below == np.inf else f" and below {below:g}"
        raise AttributeValueError(f"{name} is a finite number {low}{high}, not {value!r:.60}")


class Builder:
    """Collects the updates of one optimiser over the parameters of one loss."""

    def __init__(self, loss: Expr, parameters: Sequence[Expr], prefix: str) -> None:
        self.parameters = _checked(loss, parameters)
        self.loss, self.prefix = loss, prefix
        self.names = [str(p.node.attr("name")) for p in self.parameters]
        nodes = walk.ancestors([loss.node])
        self._taken = {str(n.attr("name")) for n in nodes if n.op.name == "input"}.union(self.names)
        self._outputs: dict[str, Expr] = {}
        self._carry: dict[str, str] = {}
        self._start: dict[str, np.ndarray[Any, Any]] = {}
        self._step: Expr | None = None

    def gradients(self, weight_decay: float = 0.0, clip: float | None = None) -> list[Expr]:
        """The gradients, clipped by their global norm, plus weight_decay times the parameters."""
        check_number("weight_decay", weight_decay)
        found = list(grad(self.loss, self.parameters))
        if clip is not None:
            found = clip_by_global_norm(found, clip)
        if not weight_decay:
            return found
        return [g + weight_decay * p for g, p in zip(found, self.parameters, strict=True)]

    def state(self, name: str, shape: Shape, dtype: DType, value: float = 0.0) -> Expr:
        """A new state, an input of the graph, with this value at first."""
        name = self.prefix + name
        if name in self._taken:
            raise InvariantError(f"the state {name!r} has the name of another input; give a prefix=")
        sizes = [d for d in shape if isinstance(d, int)]
        if len(sizes) < len(shape):
            raise ShapeError(
                f"the state {name!r} of shape {shape} needs sizes that are numbers; give the parameter such"
            )
        self._taken.add(name)
        self._start[name] = np.full(sizes, value, dtype)
        return array.input(name, shape, dtype)

    def carried(self, source: Expr, following: Expr) -> None:
        """Carry `following` to the input `source`."""
        name = str(source.node.attr("name"))
        output = f"{name}_next"
        if output in self._outputs:
            raise InvariantError(f"two updates have the output {output!r}; give a prefix=")
        self._outputs[output], self._carry[name] = cast(following, source.dtype), output

    @property
    def step(self) -> Expr:
        """How many steps are done; the int64 state `step`."""
        if self._step is None:
            self._step = self.state("step", (), np.dtype("int64"))
            self.carried(self._step, self._step + 1)
        return self._step

    def rate(self, rate: Rate) -> Expr | float:
        """The rate of this step, a number or a scalar expression."""
        if callable(rate):
            found = rate(cast(self.step, FLOAT64))
            if found.shape != () or found.dtype.kind != "f":
                raise ShapeError(f"a schedule gives a float scalar, not {found.node.type}")
            return found
        check_number("rate", rate)
        return float(rate)

    def done(self) -> Updates:
        """All that was carried."""
        return Updates(dict(self._outputs), dict(self._carry), dict(self._start))


def times(factor: Expr | float, value: Expr) -> Expr:
    """The value times a scalar, in the value's dtype."""
    return value * (cast(factor, value.dtype) if isinstance(factor, Expr) else factor)


def _checked(loss: object, parameters: object) -> list[Expr]:
    if not isinstance(loss, Expr):
        raise DTypeError(f"the loss is an expression, not {type(loss).__name__}")
    if loss.shape != () or loss.dtype.kind != "f":
        raise ShapeError(f"the loss is a float scalar, not {loss.node.type}; reduce it with gi.mean or gi.sum")
    if not isinstance(parameters, list | tuple) or not parameters:
        raise InvariantError("the parameters of an optimiser are a list of one input or more")
    found: list[Expr] = []
    for p in parameters:
        if not isinstance(p, Expr) or p.node.op.name != "input":
            raise InvariantError(f"a parameter is an input made by gi.input, not {p!r:.200}")
        if p.dtype.kind != "f":
            raise DTypeError(f"parameter {p.node.attr('name')!r} is {p.node.type}; only floats can be optimised")
        found.append(p)
    names = [p.node.attr("name") for p in found]
    if len(set(names)) < len(names):
        raise InvariantError(f"parameters share a name: {names}")
    return found
