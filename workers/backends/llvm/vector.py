"""exp, log, sin and their kin as straight code without branches or tables, so that LLVM makes vector code of it.

All are evaluated in float64, for float32 with shorter series where `single` has none of its own. Arguments are reduced as usual (a multiple of ln 2 or pi/2 in two or
three parts, each product with one rounding); the series are Taylor's. Special values, signed zeros and denormals come out as C99 says. Errors in
docs/kernels.md are measured by tests/test_native.py. sin and cos call arguments beyond FAR suspect: numpy's kernels do those.
"""

import math
from typing import TypeAlias

from graphir.ops import special
from workers.backends.llvm.code import Code, number

FAR = 1e6
"""sin and cos reduce arguments of at most this size."""
Terms: TypeAlias = int
_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = 0x4338000000000000
_LN2 = (math.log(2), 2.3190468138462996e-17)
_HALF_PI = (math.pi / 2, 6.123233995736766e-17, -1.4973849048591833e-33)


def d(value: float) -> str:
    """A float64 constant."""
    return number(value, "double")


def _two(c: Code, operation: str, left: str, right: str) -> str:
    return c.two(operation, "double", left, right)


def _fma(c: Code, a: str, b: str, addend: str) -> str:
    return c.call("fma", "double", a, b, addend)


def _is(c: Code, relation: str, left: str, right: str) -> str:
    return c.compare(relation, "double", left, right)


def _pick(c: Code, condition: str, then: str, other: str) -> str:
    return c.select(condition, "double", then, other)


def _clamped(c: Code, x: str, low: float, high: float) -> str:
    """A NaN stays one."""
    raised = _pick(c, _is(c, "olt", x, d(low)), d(low), x)
    return _pick(c, _is(c, "ogt", raised, d(high)), d(high), raised)


def _nearest(c: Code, x: str, factor: float) -> tuple[str, str]:
    """The whole number nearest to x * factor as a float64 and as an int64, which is anything for a NaN."""
    shifted = _fma(c, x, d(factor), d(_MAGIC))
    bits = c.make(f"bitcast double {shifted} to i64")
    return _two(c, "fsub", shifted, d(_MAGIC)), c.two("sub", "i64", bits, str(_MAGIC_BITS))


def _power(c: Code, k: str) -> str:
    """2**k for k within the exponents of normal numbers."""
    biased = c.two("add", "i64", k, "1023")
    return c.make(f"bitcast i64 {c.two('shl', 'i64', biased, '52')} to double")


def _reduced(c: Code, x: str) -> tuple[str, str]:
    """r and k with x = k * ln 2 + r and |r| at most half of ln 2."""
    n, k = _nearest(c, x, 1 / math.log(2))
    r = _fma(c, n, d(-_LN2[0]), x)
    return _fma(c, n, d(-_LN2[1]), r), k


def _series(first: int, last: int) -> list[float]:
    return [1 / math.factorial(k) for k in range(last, first - 1, -1)]


def exp(c: Code, x: str, terms: Terms) -> str:
    """e**x; scaled in two steps, of which only the second can round, where the result is denormal."""
    r, k = _reduced(c, _clamped(c, x, -746.0, 710.0))
    p = c.polynomial(r, _series(0, terms))
    half = c.two("ashr", "i64", k, "1")
    rest = c.two("sub", "i64", k, half)
    return _two(c, "fmul", _two(c, "fmul", p, _power(c, half)), _power(c, rest))


def _exp_less_one(c: Code, x: str, terms: Terms) -> str:
    """e**x - 1 for -40 <= x <= 709.9: 2**k * (e**r - 1) + (2**k - 1), all halved so that 2**k is finite."""
    r, k = _reduced(c, x)
    q = c.polynomial(r, _series(2, terms + 1))
    q = _fma(c, _two(c, "fmul", r, r), q, r)
    s = _power(c, c.two("sub", "i64", k, "1"))
    sum_ = _fma(c, q, s, _two(c, "fsub", s, d(0.5)))
    return _two(c, "fadd", sum_, sum_)


def expm1(c: Code, x: str, terms: Terms) -> str:
    """e**x - 1; x itself where it is so small that nothing else remains, -0.0 among it."""
    far = _exp_less_one(c, _clamped(c, x, -40.0, 709.9), terms)
    return _pick(c, _is(c, "olt", c.call("fabs", "double", x), d(1e-17)), x, far)


def tanh(c: Code, x: str, terms: Terms) -> str:
    """m / (m + 2) with m = e**(2 |x|) - 1, and the sign of x."""
    size = c.call("fabs", "double", x)
    m = _exp_less_one(c, _clamped(c, _two(c, "fadd", size, size), 0.0, 44.0), terms)
    ratio = _two(c, "fdiv", m, _two(c, "fadd", m, d(2.0)))
    small = _pick(c, _is(c, "olt", size, d(1e-9)), size, ratio)
    return c.call("copysign", "double", small, x)


def _log_parts(c: Code, x: str, terms: Terms) -> tuple[str, str, str, str]:
    """k, f, h, t with log(x) = k ln 2 + f - (h - t), for x > 0: x = 2**k (1 + f), 1 + f between 0.7 and 1.42."""
    tiny = _is(c, "olt", x, d(2.0**-1022))
    scaled = _pick(c, tiny, _two(c, "fmul", x, d(2.0**54)), x)
    bits = c.make(f"bitcast double {scaled} to i64")
    root = 0x3FE6A09E00000000  # of one half, about
    shifted = c.two("sub", "i64", bits, str(root))
    exponent = c.two("ashr", "i64", shifted, "52")
    mantissa = c.two("sub", "i64", bits, c.two("shl", "i64", exponent, "52"))
    k = c.make(f"sitofp i64 {exponent} to double")
    k = _two(c, "fsub", k, _pick(c, tiny, d(54.0), d(0.0)))
    f = _two(c, "fsub", c.make(f"bitcast i64 {mantissa} to double"), d(1.0))
    s = _two(c, "fdiv", f, _two(c, "fadd", f, d(2.0)))
    square = _two(c, "fmul", s, s)
    series = c.polynomial(square, [2 / (2 * n + 1) for n in range(terms, 0, -1)])
    h = _two(c, "fmul", _two(c, "fmul", f, f), d(0.5))
    t = _two(c, "fmul", s, _fma(c, square, series, h))
    return k, f, h, t


def _log_specials(c: Code, x: str, result: str) -> str:
    result = _pick(c, _is(c, "ult", x, d(math.inf)), result, x)  # infinity, and a NaN by the next line
    result = _pick(c, _is(c, "uge", x, d(0.0)), result, d(math.nan))
    result = _pick(c, _is(c, "oeq", x, d(0.0)), d(-math.inf), result)
    return _pick(c, _is(c, "uno", x, x), x, result)


def _log_sum(c: Code, parts: tuple[str, str, str, str], low: str) -> str:
    """With `low`, what is added to the smallest part."""
    k, f, h, t = parts
    low = _fma(c, k, d(_LN2[1]), _two(c, "fadd", t, low))
    inner = _two(c, "fsub", _two(c, "fsub", h, low), f)
    return _fma(c, k, d(_LN2[0]), c.make(f"fneg double {inner}"))


def log(c: Code, x: str, terms: Terms) -> str:
    """The natural logarithm."""
    return _log_specials(c, x, _log_sum(c, _log_parts(c, x, terms), d(0.0)))


def log1p(c: Code, x: str, terms: Terms) -> str:
    """log(1 + x): that of the rounded sum, and what rounding took, divided by it."""
    u = _two(c, "fadd", x, d(1.0))
    lost = _two(c, "fsub", x, _two(c, "fsub", u, d(1.0)))
    result = _log_sum(c, _log_parts(c, u, terms), _two(c, "fdiv", lost, u))
    small = _is(c, "olt", c.call("fabs", "double", x), d(1e-17))
    return _pick(c, small, x, _log_specials(c, u, result))


def log2(c: Code, x: str, terms: Terms) -> str:
    """k + log(1 + f) / ln 2: exact for powers of two."""
    k, f, h, t = _log_parts(c, x, terms)
    log_f = _two(c, "fsub", f, _two(c, "fsub", h, t))
    high = _two(c, "fmul", log_f, d(1 / math.log(2)))
    low = _fma(c, log_f, d(1 / math.log(2)), c.make(f"fneg double {high}"))
    low = _fma(c, log_f, d(2.0355273740931033e-17), low)
    # what log_f itself lost when it was rounded
    gone = _two(c, "fsub", _two(c, "fsub", f, log_f), _two(c, "fsub", h, t))
    low = _fma(c, gone, d(1 / math.log(2)), low)
    return _log_specials(c, x, _two(c, "fadd", k, _two(c, "fadd", high, low)))


def _turned(c: Code, x: str, quarter: int, terms: Terms) -> str:
    """sin(x + quarter * pi/2), by the series of sin or cos about the nearest multiple of pi/2."""
    size = c.call("fabs", "double", x)
    c.suspect.append(c.two("and", "i1", _is(c, "ogt", size, d(FAR)), _is(c, "one", size, d(math.inf))))
    n, k = _nearest(c, _clamped(c, x, -FAR, FAR), 2 / math.pi)
    first = _fma(c, n, d(-_HALF_PI[0]), x)  # exact
    second = _two(c, "fmul", n, d(_HALF_PI[1]))
    r = _two(c, "fsub", first, second)
    # what the two steps lost to rounding, and the third part
    taken = _two(c, "fsub", r, first)
    lost = _two(c, "fsub", first, _two(c, "fsub", r, taken))
    gone = _two(c, "fsub", lost, _two(c, "fadd", second, taken))
    gone = _two(c, "fsub", gone, _fma(c, n, d(_HALF_PI[1]), c.make(f"fneg double {second}")))
    gone = _fma(c, n, d(-_HALF_PI[2]), gone)
    square = _two(c, "fmul", r, r)
    signs = [(-1.0) ** n for n in range(terms + 1)]
    odd = c.polynomial(square, [signs[n] / math.factorial(2 * n + 1) for n in range(terms, 0, -1)])
    even = c.polynomial(square, [signs[n] / math.factorial(2 * n) for n in range(terms, 1, -1)])
    sine = _two(c, "fadd", r, _fma(c, _two(c, "fmul", r, square), odd, gone))
    half = _two(c, "fmul", square, d(0.5))
    lead = _two(c, "fsub", d(1.0), half)
    rest = _two(c, "fsub", _two(c, "fsub", d(1.0), lead), half)
    tail = _fma(c, _two(c, "fmul", square, square), even, rest)
    tail = _fma(c, r, c.make(f"fneg double {gone}"), tail)
    cosine = _two(c, "fadd", lead, tail)
    turns = c.two("add", "i64", k, str(quarter))
    is_cosine = c.make(f"trunc i64 {turns} to i1")
    value = _pick(c, is_cosine, cosine, sine)
    negative = c.make(f"trunc i64 {c.two('lshr', 'i64', turns, '1')} to i1")
    return _pick(c, negative, c.make(f"fneg double {value}"), value)


def sin(c: Code, x: str, terms: Terms) -> str:
    """The sine; -0.0 for -0.0, which the reduction would lose."""
    return _pick(c, _is(c, "oeq", x, d(0.0)), x, _turned(c, x, 0, terms))


def cos(c: Code, x: str, terms: Terms) -> str:
    """The cosine."""
    return _turned(c, x, 1, terms)


def _ratio(c: Code, x: str, fraction: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    return _two(c, "fdiv", c.polynomial(x, fraction[0]), c.polynomial(x, fraction[1]))


def erf(c: Code, x: str, terms: Terms) -> str:
    """The approximations of the op's own kernel."""
    size = c.call("fabs", "double", x)
    squared = _two(c, "fmul", size, size)
    near = _two(c, "fmul", x, _ratio(c, _clamped(c, squared, 0.0, special.SMALL**2), special.NEAR))
    middle = _ratio(c, _clamped(c, size, special.SMALL, special.LARGE), special.MIDDLE)
    # beyond LARGE the error function is within 2e-8 of 1, so that one of its two approximations is enough up to 6
    rest = _two(c, "fmul", exp(c, c.make(f"fneg double {squared}"), terms), middle)
    rest = _pick(c, _is(c, "ogt", size, d(special.LARGE)), _far(c, size, squared, terms), rest)
    away = c.call("copysign", "double", _two(c, "fsub", d(1.0), rest), x)
    value = _pick(c, _is(c, "ole", size, d(special.SMALL)), near, away)
    return _pick(c, _is(c, "uno", x, x), x, value)


def _far(c: Code, size: str, squared: str, terms: Terms) -> str:
    large = _clamped(c, size, special.LARGE, 30.0)
    inverse = _two(c, "fdiv", d(1.0), _two(c, "fmul", large, large))
    tail = _two(c, "fmul", inverse, _ratio(c, inverse, special.FAR))
    far = _two(c, "fdiv", _two(c, "fsub", d(1 / math.sqrt(math.pi)), tail), large)
    return _two(c, "fmul", exp(c, c.make(f"fneg double {squared}"), terms), far)


FUNCTIONS = {
    "exp": (exp, 13, 8), "expm1": (expm1, 13, 8), "tanh": (tanh, 13, 8),
    "log": (log, 11, 6), "log1p": (log1p, 11, 6), "log2": (log2, 11, 6),
    "sin": (sin, 9, 6), "cos": (cos, 9, 6), "erf": (erf, 13, 10),
}  # fmt: skip
"""Functions with their terms for float64 and for float32."""
