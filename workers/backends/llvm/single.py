"""The functions of `vector` that are evaluated in float32 for float32: twice as many fit into a vector, and series are half as long.

Reductions and series are the same; errors are in docs/kernels.md. What is not here is evaluated in float64 and rounded.
"""

import math
from collections.abc import Callable

import numpy as np

from workers.backends.llvm.code import Code, number

_MAGIC, _MAGIC_BITS = 1.5 * 2.0**23, 0x4B400000
_LN2 = (float(np.float32(math.log(2))), math.log(2) - float(np.float32(math.log(2))))
_ROOT = 0x3F3504F3  # of one half, about
F = "float"


def f(value: float) -> str:
    """A float32 constant."""
    return number(value, F)


def _fma(c: Code, a: str, b: str, addend: str) -> str:
    return c.call("fma", F, a, b, addend)


def _series(c: Code, x: str, coefficients: list[float]) -> str:
    total = f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = _fma(c, total, x, f(coefficient))
    return total


def _factorials(first: int, last: int) -> list[float]:
    return [1 / math.factorial(k) for k in range(last, first - 1, -1)]


def _clamped(c: Code, x: str, low: float, high: float) -> str:
    """A NaN stays one."""
    raised = c.select(c.compare("olt", F, x, f(low)), F, f(low), x)
    return c.select(c.compare("ogt", F, raised, f(high)), F, f(high), raised)


def _power(c: Code, k: str) -> str:
    """2**k for k within the exponents of normal numbers."""
    return c.make(f"bitcast i32 {c.two('shl', 'i32', c.two('add', 'i32', k, '127'), '23')} to float")


def _reduced(c: Code, x: str) -> tuple[str, str]:
    """r and k with x = k * ln 2 + r and |r| at most half of ln 2."""
    shifted = _fma(c, x, f(1 / math.log(2)), f(_MAGIC))
    k = c.two("sub", "i32", c.make(f"bitcast float {shifted} to i32"), str(_MAGIC_BITS))
    n = c.two("fsub", F, shifted, f(_MAGIC))
    return _fma(c, n, f(-_LN2[1]), _fma(c, n, f(-_LN2[0]), x)), k


def exp(c: Code, x: str) -> str:
    """e**x, scaled in two steps."""
    r, k = _reduced(c, _clamped(c, x, -104.0, 89.0))
    half = c.two("ashr", "i32", k, "1")
    first = c.two("fmul", F, _series(c, r, _factorials(0, 7)), _power(c, half))
    return c.two("fmul", F, first, _power(c, c.two("sub", "i32", k, half)))


def _exp_less_one(c: Code, x: str) -> str:
    """e**x - 1 for -18 <= x <= 88.72: all halved so that 2**k is finite."""
    r, k = _reduced(c, x)
    q = _fma(c, c.two("fmul", F, r, r), _series(c, r, _factorials(2, 8)), r)
    s = _power(c, c.two("sub", "i32", k, "1"))
    total = _fma(c, q, s, c.two("fsub", F, s, f(0.5)))
    return c.two("fadd", F, total, total)


def expm1(c: Code, x: str) -> str:
    """e**x - 1; x itself where nothing else remains, -0.0 among it."""
    far = _exp_less_one(c, _clamped(c, x, -18.0, 88.8))
    return c.select(c.compare("olt", F, c.call("fabs", F, x), f(1e-8)), F, x, far)


def tanh(c: Code, x: str) -> str:
    """m / (m + 2) with m = e**(2 |x|) - 1, and the sign of x."""
    size = c.call("fabs", F, x)
    m = _exp_less_one(c, _clamped(c, c.two("fadd", F, size, size), 0.0, 20.0))
    ratio = c.two("fdiv", F, m, c.two("fadd", F, m, f(2.0)))
    small = c.select(c.compare("olt", F, size, f(1e-5)), F, size, ratio)
    return c.call("copysign", F, small, x)


def _log(c: Code, x: str, low: str) -> str:
    """log(x) + low for x > 0, where low is small: x = 2**k (1 + m), 1 + m between 0.7 and 1.42."""
    tiny = c.compare("olt", F, x, f(2.0**-126))
    bits = c.make(f"bitcast float {c.select(tiny, F, c.two('fmul', F, x, f(2.0**25)), x)} to i32")
    exponent = c.two("ashr", "i32", c.two("sub", "i32", bits, str(_ROOT)), "23")
    mantissa = c.two("sub", "i32", bits, c.two("shl", "i32", exponent, "23"))
    k = c.make(f"sitofp i32 {exponent} to float")
    k = c.two("fsub", F, k, c.select(tiny, F, f(25.0), f(0.0)))
    m = c.two("fsub", F, c.make(f"bitcast i32 {mantissa} to float"), f(1.0))
    s = c.two("fdiv", F, m, c.two("fadd", F, m, f(2.0)))
    square = c.two("fmul", F, s, s)
    series = _series(c, square, [2 / (2 * n + 1) for n in range(5, 0, -1)])
    h = c.two("fmul", F, c.two("fmul", F, m, m), f(0.5))
    t = c.two("fmul", F, s, _fma(c, square, series, h))
    low = _fma(c, k, f(_LN2[1]), c.two("fadd", F, t, low))
    inner = c.two("fsub", F, c.two("fsub", F, h, low), m)
    return _fma(c, k, f(_LN2[0]), c.make(f"fneg float {inner}"))


def _specials(c: Code, x: str, result: str) -> str:
    result = c.select(c.compare("ult", F, x, f(math.inf)), F, result, x)
    result = c.select(c.compare("uge", F, x, f(0.0)), F, result, f(math.nan))
    result = c.select(c.compare("oeq", F, x, f(0.0)), F, f(-math.inf), result)
    return c.select(c.compare("uno", F, x, x), F, x, result)


def log(c: Code, x: str) -> str:
    """The natural logarithm."""
    return _specials(c, x, _log(c, x, f(0.0)))


def log1p(c: Code, x: str) -> str:
    """log(1 + x): that of the rounded sum, and what rounding took, divided by it."""
    u = c.two("fadd", F, x, f(1.0))
    lost = c.two("fsub", F, x, c.two("fsub", F, u, f(1.0)))
    result = _log(c, u, c.two("fdiv", F, lost, u))
    small = c.compare("olt", F, c.call("fabs", F, x), f(1e-9))
    return c.select(small, F, x, _specials(c, u, result))


FUNCTIONS: dict[str, Callable[[Code, str], str]] = {
    "exp": exp,
    "expm1": expm1,
    "tanh": tanh,
    "log": log,
    "log1p": log1p,
}
