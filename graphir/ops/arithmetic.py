"""Elementwise arithmetic and rounding, with the Array API's names (2024.12, elementwise functions)."""

from typing import Any

import numpy as np

from graphir.node import Array, Op, Rule
from graphir.ops.layout import fill_like
from graphir.ops.rules import FLOATS, NUMBERS, elementwise_axes, floats, pointwise, samples

_ANY = (-2.0, 2.0)
_POSITIVE = (0.3, 2.0)
_STEP = "piecewise constant: the derivative is zero wherever it exists"


def elementwise(
    name: str,
    doc: str,
    kernel: Rule,
    vjp: tuple[Rule | None, ...] | str,
    *domains: tuple[float, float],
    kinds: str = FLOATS,
    **more: Any,
) -> Op:
    """Declare an op whose inputs and output have one type; one domain of examples for each input."""
    examples = floats(*domains)
    if "i" in kinds:
        examples += (samples("int32", len(domains), 1, 7), samples("uint8", len(domains), 1, 7))
    return Op(
        name,
        doc,
        arity=len(domains),
        infer=pointwise(kinds),
        kernel=kernel,
        vjp=vjp,
        axes=elementwise_axes,
        examples=examples,
        **more,
    )


add: Op = elementwise(
    "add", "x + y", np.add, (lambda ct, out, x, y: ct, lambda ct, out, x, y: ct), _ANY, _ANY, kinds=NUMBERS, linear=True
)
subtract: Op = elementwise(
    "subtract",
    "x - y",
    np.subtract,
    (lambda ct, out, x, y: ct, lambda ct, out, x, y: negative(ct)),
    _ANY,
    _ANY,
    kinds=NUMBERS,
    linear=True,
)
multiply: Op = elementwise(
    "multiply",
    "x * y",
    np.multiply,
    (lambda ct, out, x, y: multiply(ct, y), lambda ct, out, x, y: multiply(ct, x)),
    _ANY,
    _ANY,
    kinds=NUMBERS,
)
divide: Op = elementwise(
    "divide",
    "x / y",
    np.divide,
    (lambda ct, out, x, y: divide(ct, y), lambda ct, out, x, y: negative(divide(multiply(ct, out), y))),
    _ANY,
    _POSITIVE,
)
negative: Op = elementwise(
    "negative", "-x", np.negative, (lambda ct, out, x: negative(ct),), _ANY, kinds=NUMBERS, linear=True
)
positive: Op = elementwise("positive", "+x", np.positive, (lambda ct, out, x: ct,), _ANY, kinds=NUMBERS, linear=True)
reciprocal: Op = elementwise(
    "reciprocal", "1 / x", np.reciprocal, (lambda ct, out, x: negative(multiply(ct, multiply(out, out))),), _POSITIVE
)
square: Op = elementwise(
    "square",
    "x * x",
    np.square,
    (lambda ct, out, x: multiply(ct, multiply(fill_like(x, 2), x)),),
    _ANY,
    kinds=NUMBERS,
)
sqrt: Op = elementwise(
    "sqrt",
    "The square root.",
    np.sqrt,
    (lambda ct, out, x: divide(multiply(ct, fill_like(x, 0.5)), out),),
    _POSITIVE,
    cost=4,
)
sign: Op = elementwise("sign", "-1, 0 or 1; NaN for NaN.", np.sign, _STEP, _ANY, kinds=NUMBERS)
abs_: Op = elementwise(
    "abs", "The absolute value.", np.abs, (lambda ct, out, x: multiply(ct, sign(x)),), _ANY, kinds=NUMBERS
)
copysign: Op = elementwise(
    "copysign",
    "The magnitude of x with the sign of y.",
    np.copysign,
    (lambda ct, out, x, y: multiply(ct, multiply(sign(x), copysign(fill_like(x, 1), y))), None),
    _POSITIVE,
    _ANY,
)
nextafter: Op = elementwise(
    "nextafter", "The next float after x towards y.", np.nextafter, (lambda ct, out, x, y: ct, None), _ANY, _ANY
)


def _tie_share_kernel(x: Array, y: Array) -> Array:
    tied = np.multiply(np.equal(x, y), x.dtype.type(0.5), dtype=x.dtype)
    return np.asarray(np.add(np.greater(x, y), tied, dtype=x.dtype))


tie_share: Op = elementwise(
    "tie_share",
    "The part of the larger of x and y that is x's: 1 where x > y, 0.5 where they are equal, else 0, also beside a NaN.",
    _tie_share_kernel,
    _STEP,
    _ANY,
    _ANY,
)
maximum: Op = elementwise(
    "maximum",
    "The larger of x and y; NaN if either is. Where they are equal each gets half of the derivative.",
    np.maximum,
    (
        lambda ct, out, x, y: multiply(ct, tie_share(x, y)),
        lambda ct, out, x, y: multiply(ct, tie_share(y, x)),
    ),
    _ANY,
    _ANY,
    kinds=NUMBERS,
)
minimum: Op = elementwise(
    "minimum",
    "The smaller of x and y; NaN if either is. Where they are equal each gets half of the derivative.",
    np.minimum,
    (
        lambda ct, out, x, y: multiply(ct, tie_share(y, x)),
        lambda ct, out, x, y: multiply(ct, tie_share(x, y)),
    ),
    _ANY,
    _ANY,
    kinds=NUMBERS,
)

floor: Op = elementwise("floor", "Round down.", np.floor, _STEP, _ANY, kinds=NUMBERS)
ceil: Op = elementwise("ceil", "Round up.", np.ceil, _STEP, _ANY, kinds=NUMBERS)
trunc: Op = elementwise("trunc", "Round towards zero.", np.trunc, _STEP, _ANY, kinds=NUMBERS)
round_: Op = elementwise("round", "Round to the nearest integer, halves to even.", np.rint, _STEP, _ANY)
floor_divide: Op = elementwise(
    "floor_divide", "x / y rounded down.", np.floor_divide, _STEP, _ANY, _POSITIVE, kinds=NUMBERS
)
remainder: Op = elementwise(
    "remainder",
    "x - y * floor(x / y): the sign of y.",
    np.remainder,
    (lambda ct, out, x, y: ct, lambda ct, out, x, y: negative(multiply(ct, floor_divide(x, y)))),
    _ANY,
    _POSITIVE,
    kinds=NUMBERS,
)
