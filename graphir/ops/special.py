"""The error function, by W. J. Cody's rational approximations (Math. Comp. 23, 1969, 631-637)."""

import math

import numpy as np

from graphir.node import Array, Node, Op
from graphir.ops.arithmetic import elementwise, multiply, negative, square
from graphir.ops.layout import fill_like
from graphir.ops.transcendental import exp

SMALL, LARGE = 0.46875, 4.0
"""Where the three approximations meet."""

# Coefficients of numerator and denominator, highest power first.
NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
MIDDLE = (
    (
        2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
        2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
        3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
    ),
)  # fmt: skip
FAR = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip


def _erf_kernel(x: Array) -> Array:
    wide = np.asarray(x, np.float64)
    size = np.abs(wide)
    with np.errstate(all="ignore"):
        squared = np.square(np.minimum(size, SMALL))
        near = wide * np.polyval(NEAR[0], squared) / np.polyval(NEAR[1], squared)
        y = np.clip(size, SMALL, LARGE)
        middle = np.polyval(MIDDLE[0], y) / np.polyval(MIDDLE[1], y)
        inverse = np.square(1 / np.maximum(size, LARGE))
        tail = inverse * np.polyval(FAR[0], inverse) / np.polyval(FAR[1], inverse)
        far = (1 / math.sqrt(math.pi) - tail) / np.maximum(size, LARGE)
        rest = np.exp(-np.square(size)) * np.where(size <= LARGE, middle, far)
    away = np.copysign(1 - rest, wide)
    return np.asarray(np.where(size <= SMALL, near, away), x.dtype)


def _erf_vjp(ct: Node, out: Node, x: Node) -> Node:
    slope = multiply(fill_like(x, 2 / math.sqrt(math.pi)), exp(negative(square(x))))
    return multiply(ct, slope)


erf: Op = elementwise("erf", "The error function.", _erf_kernel, (_erf_vjp,), (-2.0, 2.0), cost=30)
