"""Binomial checkpointing: which states of a sequence of steps to keep so that it can be gone through backwards.

Griewank and Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000); "Evaluating Derivatives", 2nd ed., SIAM 2008,
section 12.3. With c kept states, the first included, l steps are reversed with the fewest steps forward possible.
"""

from collections.abc import Iterator
from math import comb


def reach(states: int, repeats: int) -> int:
    """The most steps that `states` kept states reverse if none is taken forward more than `repeats` times."""
    return comb(states + repeats, states) if repeats >= 0 else 0


def repeats_for(length: int, states: int) -> int:
    """How often a step is taken forward at most: the smallest r with reach(states, r) >= length."""
    repeats = 0
    while reach(states, repeats) < length:
        repeats += 1
    return repeats


def forward_steps(length: int, states: int) -> int:
    """The number of steps forward in all: r l - beta(c + 1, r - 1), equation 12.7 of "Evaluating Derivatives"."""
    repeats = repeats_for(length, states)
    return repeats * length - reach(states + 1, repeats - 1)


def reversal(length: int, states: int) -> Iterator[tuple[str, int]]:
    """What to do, in order: ("keep", p) the state before step p, ("restore", p) it, ("forward", p), ("back", p).

    Begins with the state before step 0. A kept state is not needed any more once its step went back.
    """
    if length > 1:
        yield "keep", 0
    parts = [(0, length, states)] if length else []
    current = 0
    while parts:
        start, count, free = parts.pop()
        if current != start:
            yield "restore", start
        if count == 1:
            yield "back", start
            current = start + 1
            continue
        first = _first_part(count, free)
        for position in range(start, start + first):
            yield "forward", position
        current = start + first
        parts += [(start, first, free), (current, count - first, free - 1)]
        if count - first > 1:
            yield "keep", current


def _first_part(length: int, states: int) -> int:
    """How far to go forward before the next state is kept; `reversal` is optimal with it."""
    repeats = repeats_for(length, states)
    return max(1, reach(states, repeats - 2), length - reach(states - 1, repeats))
