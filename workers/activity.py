"""What a rank is at, kept so that another thread may ask: who is slow, and whether anybody gets on at all.

The clock is given by whoever makes the worker; without one, all times are zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from workers.work import Cell

Doing: TypeAlias = tuple[str, str | int | None, Cell]
"""A rank "computes" a program (its digest) on a cell, or "waits" for a rank, or is "between" these."""
BETWEEN: Doing = ("between", None, ())


@dataclass(frozen=True, slots=True)
class Sign:
    """What a rank is at, since how many seconds, runs and seconds of each program, and the bytes it has exchanged."""

    doing: Doing
    since: float
    spent: Mapping[str, tuple[int, float]]
    moved: int

    @property
    def progress(self) -> tuple[Any, ...]:
        """Equal in two signs between which the rank has not got on."""
        return self.doing, sum(runs for runs, _ in self.spent.values()), self.moved


class Activity:
    """Written by the rank's own thread only."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.clock = clock
        self._doing, self._begun = BETWEEN, 0.0
        self._spent: dict[str, tuple[int, float]] = {}

    def begin(self, what: str, which: str | int, cell: Cell = ()) -> None:
        """The rank computes a program, or waits for a rank."""
        self._doing, self._begun = (what, which, cell), self.clock()

    def end(self) -> None:
        """It has done so."""
        what, which, _ = self._doing
        if what == "computes" and isinstance(which, str):
            runs, seconds = self._spent.get(which, (0, 0.0))
            self._spent[which] = runs + 1, seconds + self.clock() - self._begun
        self._doing = BETWEEN

    def sign(self, moved: int) -> Sign:
        """What the rank is at."""
        return Sign(self._doing, self.clock() - self._begun, dict(self._spent), moved)
