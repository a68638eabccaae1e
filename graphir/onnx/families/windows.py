"""The windows that an operator's attributes describe."""

from collections.abc import Sequence

from graphir.errors import AttributeValueError
from graphir.expr import Expr
from graphir.nn.windows import Geometry, Padding, spatial_sizes, windows_of
from graphir.onnx.call import Call

_SAME = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}


def geometry(call: Call, x: Expr, kernel: Sequence[int]) -> Geometry:
    """The windows over x."""
    rank = len(spatial_sizes(x))
    auto = call.attr("auto_pad", "NOTSET")
    padding: Padding = _SAME[auto] if auto in _SAME else pairs(call, rank)
    strides, dilations = (call.attr(name) or [1] * rank for name in ("strides", "dilations"))
    return windows_of(x, [int(k) for k in kernel], strides, dilations, padding, bool(call.attr("ceil_mode", 0)))


def pairs(call: Call, rank: int) -> list[tuple[int, int]]:
    """The attribute pads: zeros before and after each axis."""
    pads = call.attr("pads") or [0] * (2 * rank)
    if len(pads) != 2 * rank:
        raise AttributeValueError(f"pads {tuple(pads)} must have {2 * rank} numbers")
    return [(int(pads[k]), int(pads[rank + k])) for k in range(rank)]
