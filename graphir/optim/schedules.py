"""Learning-rate schedules: functions from the step, a float64 scalar that starts at 0, to the rate."""

from collections.abc import Sequence
from math import pi

from graphir import array, elementwise
from graphir.errors import AttributeValueError
from graphir.expr import Expr
from graphir.optim.updates import Rate, Schedule, check_number


def constant(rate: float) -> Schedule:
    """The same rate in each step."""
    check_number("rate", rate)
    return lambda step: array.full_like(step, rate)


def exponential(rate: float, decay: float, *, every: float = 1, staircase: bool = False) -> Schedule:
    """rate decay^(step / every); a staircase rounds the exponent down."""
    check_number("rate", rate)
    check_number("decay", decay, above=0.0)
    check_number("every", every, above=0.0)

    def at(step: Expr) -> Expr:
        exponent = elementwise.floor(step / every) if staircase else step / every
        return rate * decay**exponent

    return at


def polynomial(rate: float, steps: float, *, end: float = 0.0, power: float = 1.0) -> Schedule:
    """From rate to end in so many steps as (1 - step / steps)^power; end from then on."""
    for name, value in (("rate", rate), ("end", end), ("power", power)):
        check_number(name, value)
    check_number("steps", steps, above=0.0)
    return lambda step: end + (rate - end) * (1 - elementwise.minimum(step / steps, 1.0)) ** float(power)


def cosine(rate: float, steps: float, *, end: float = 0.0) -> Schedule:
    """From rate to end in so many steps along half a cosine; end from then on. Loshchilov, Hutter (2017), eq. 5."""
    check_number("rate", rate)
    check_number("end", end)
    check_number("steps", steps, above=0.0)
    return lambda step: _half_cosine(rate, end, elementwise.minimum(step / steps, 1.0))


def _half_cosine(first: float, last: float, share: Expr) -> Expr:
    return last + (first - last) * 0.5 * (1 + elementwise.cos(pi * share))


def warmup(steps: float, then: Rate, *, start: float = 0.0) -> Schedule:
    """A line from start to what `then` begins with in so many steps, then `then`, whose step 0 is at the end."""
    check_number("steps", steps, above=0.0)
    check_number("start", start)
    after: Schedule = then if callable(then) else constant(then)

    def at(step: Expr) -> Expr:
        rising = start + (after(array.zeros_like(step)) - start) * (step / steps)
        return array.where(step < steps, rising, after(elementwise.maximum(step - steps, 0.0)))

    return at


def piecewise(rates: Sequence[float], borders: Sequence[float]) -> Schedule:
    """rates[k] from step borders[k - 1] on; there is one rate more than borders, and borders increase."""
    if len(rates) != len(borders) + 1 or list(borders) != sorted(set(borders)):
        raise AttributeValueError(f"piecewise needs increasing borders and one rate more; not {rates} and {borders}")
    for rate in rates:
        check_number("rate", rate)

    def at(step: Expr) -> Expr:
        found = array.full_like(step, rates[0])
        for rate, border in zip(rates[1:], borders, strict=True):
            found = array.where(step >= border, array.full_like(step, rate), found)
        return found

    return at


def one_cycle(peak: float, steps: int, *, rise: float = 0.3, first: float = 25.0, last: float = 1e4) -> Schedule:
    """From peak / first up to the peak in a share `rise` of the steps, down to peak / first / last; half cosines.

    Source: Smith, Topin (2018), section 2, as torch.optim.lr_scheduler.OneCycleLR.
    """
    for name, value in (("peak", peak), ("first", first), ("last", last)):
        check_number(name, value, above=0.0)
    check_number("rise", rise, above=0.0, below=1.0)
    check_number("steps", steps, above=0.0)
    top, low = rise * steps - 1, peak / first
    if not 0 < top < steps - 1:
        raise AttributeValueError(f"one_cycle needs steps on both sides of its peak, not {steps} with rise={rise}")

    def at(step: Expr) -> Expr:
        up = _half_cosine(low, peak, step / top)
        share = elementwise.minimum((step - top) / (steps - 1 - top), 1.0)
        return array.where(step <= top, up, _half_cosine(peak, low / last, share))

    return at
