"""custom_vjp: a value whose derivative is given by a function instead of by the ops that made it."""

from collections.abc import Callable
from typing import Any

from graphir.axes import AxisRule
from graphir.errors import DisconnectedError, ShapeError
from graphir.example import Example, Sample
from graphir.node import Node, Op
from graphir.ops.rules import letters
from graphir.types import TensorType

BACKWARD: dict[str, Callable[..., tuple[Node | None, ...]]] = {}
"""Rules by name: (cotangent, value, *arguments) -> a cotangent, or None for zero, for each argument."""


def _infer(*types: TensorType, rule: str) -> TensorType:
    if not types:
        raise ShapeError("custom_vjp needs a value")
    return types[0]


def _axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    names = letters(types[0].rank)
    others = tuple(letters(t.rank, f"x{k}_") for k, t in enumerate(types[1:]))
    return AxisRule((names, *others), names, None, frozenset(f for axes in others for f in axes))


def _vjp(position: int, ct: Node, out: Node, value: Node, *arguments: Node, rule: str) -> Node | None:
    if position == 0:
        return None  # the ops that made the value are passed over
    if rule not in BACKWARD:
        raise DisconnectedError(
            f"the derivative rule {rule!r} is not known in this process; import the module that calls gi.custom_vjp"
        )
    return BACKWARD[rule](ct, value, *arguments)[position - 1]


custom_vjp: Op = Op(
    "custom_vjp",
    "The first input; derivatives go to the other inputs by a rule of the user's.",
    arity=None,
    attrs={"rule": "str"},
    infer=_infer,
    kernel=lambda value, *arguments, rule: value,
    vjp=_vjp,
    axes=_axes,
    examples=(Example((Sample((3, 4), "float32"), Sample((3,), "float32")), {"rule": "example"}),),
    cheap=True,
)
