"""What a rank is at, kept so that another thread may ask: who is slow, and whether anybody gets on at all.

The clock is given by whoever makes the worker; without one, all times are zero.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from workers.work import Cell

Doing: TypeAlias = tuple[str, str | int | None, Cell]
"""A rank "computes" a program (its digest) on a cell, "reads" an input, or "waits" for a rank, or is "between" these."""
WORK = ("computes", "reads")
"""What takes all ranks about as long."""
BETWEEN: Doing = ("between", None, ())


@dataclass(frozen=True, slots=True)
class Sign:
    """What a rank is at, since how many seconds, runs and seconds of each program and of reading, and the bytes exchanged.

    given: the seconds that its worker has given to the job's calls, beside those of other jobs. waited: the seconds that it
    has waited for others.
    """

    doing: Doing
    since: float
    spent: Mapping[str, tuple[int, float]]
    moved: int
    given: float
    waited: float = 0.0

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
        self._calls: tuple[float, float | None] = 0.0, None
        self._waited = 0.0

    def begin(self, what: str, which: str | int, cell: Cell = ()) -> None:
        """The rank computes a program, reads an input, or waits for a rank."""
        self._doing, self._begun = (what, which, cell), self.clock()

    def end(self) -> None:
        """It has done so."""
        what, which, _ = self._doing
        if what in WORK and isinstance(which, str):
            runs, seconds = self._spent.get(which, (0, 0.0))
            self._spent[which] = runs + 1, seconds + self.clock() - self._begun
        elif what == "waits":
            self._waited += self.clock() - self._begun
        self._doing = BETWEEN

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """While some of an input is read."""
        self.begin("reads", f"input {name}")
        yield
        self.end()

    @contextmanager
    def call(self) -> Iterator[None]:
        """While the worker is in a call of this job."""
        given, began = self._calls[0], self.clock()
        self._calls = given, began
        try:
            yield
        finally:
            self._calls = given + self.clock() - began, None
            self._doing = BETWEEN

    def sign(self, moved: int) -> Sign:
        """What the rank is at."""
        now, (given, began) = self.clock(), self._calls
        given += 0.0 if began is None else now - began
        return Sign(self._doing, now - self._begun, dict(self._spent), moved, given, self._waited)
