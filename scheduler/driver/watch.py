"""Watch: which rank of a job is far slower than the others, and whether all wait; from signs that they give now and then.

Chunks are alike, so a program takes every rank about as long, and so does reading a chunk of an input. A rank is slow if one of its programs takes many times what
the others took for the same one (or, where no other performs it, itself or the job's ranks before), if this is what it was busy
with for the whole time watched, and if the others were not. Pure: times come with the signs.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median

from workers.activity import WORK, Sign

TIMES = 5.0
"""How many times longer than usual is far too long."""
BUSY, IDLE = 0.6, 0.5
"""The share of the time watched that a slow rank is busy with a program at least, and the others are busy at most.

The time is that which their workers have given to the job: they may have others."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A sign, and when it came."""

    time: float
    sign: Sign


class Watch:
    """The signs of the ranks of one job; `patience`: for how many seconds a rank is watched before it is judged.

    known: seconds that a run of a program took the job's ranks before.
    """

    def __init__(self, ranks: int, patience: float, known: Mapping[str, float] | None = None) -> None:
        self._patience = [patience] * ranks
        self._known = dict(known or {})
        self._first: dict[int, Reading] = {}
        self._last: dict[int, Reading] = {}
        self._still: dict[int, Reading] = {}

    def take(self, rank: int, time: float, sign: Sign) -> None:
        """Note a rank's sign."""
        reading = Reading(time, sign)
        self._first.setdefault(rank, reading)
        self._last[rank] = reading
        before = self._still.get(rank)
        if before is None or before.sign.progress != sign.progress:
            self._still[rank] = reading

    def forget(self, rank: int) -> None:
        """The rank has another worker; the next time it is watched twice as long, lest it be the work that is heavy."""
        self._patience[rank] *= 2
        self._known = self.paces()
        for readings in (self._first, self._last, self._still):
            readings.pop(rank, None)

    def slow(self) -> tuple[int, str] | None:
        """A rank that is far slower than the others, and why it is thought so."""
        due = [rank for rank in sorted(self._last) if self.watched(rank) >= self._patience[rank]]
        for rank in due:
            reason = self.judged(rank)
            if reason is not None:
                return rank, reason
        for rank in due:
            if self._last[rank].sign.since < self.watched(rank):  # else it is in one program all the time
                self._first[rank] = self._last[rank]
        return None

    def restart(self, rank: int) -> None:
        """Judge the rank by what it does from now on."""
        self._first[rank] = self._last[rank]

    def paces(self) -> dict[str, float]:
        """Seconds that a run of each program took: the median of the ranks, or as it was known before."""
        found: dict[str, list[float]] = {}
        for reading in self._last.values():
            for program, (runs, seconds) in reading.sign.spent.items():
                if runs:
                    found.setdefault(program, []).append(seconds / runs)
        return self._known | {program: median(paces) for program, paces in found.items()}

    def watched(self, rank: int) -> float:
        """For how many seconds, of those given to the job, the rank has been watched."""
        return self._last[rank].sign.given - self._first[rank].sign.given if rank in self._last else 0.0

    def judged(self, rank: int) -> str | None:
        """Why the rank is thought far slower than the others, if it is."""
        if rank not in self._last:
            return None
        first, last, watched = self._first[rank], self._last[rank], self.watched(rank)
        others = self._others(rank)
        if watched <= 0 or self._busy(others):
            return None
        for program, (_, seconds) in spent(last.sign).items():
            took = seconds - spent(first.sign).get(program, (0, 0.0))[1]
            usual, pace = self._usual(program, rank, others), _pace(program, first.sign, last.sign)
            if usual is not None and took > BUSY * watched and pace > TIMES * usual:
                return _reason(pace, usual)
        return None

    def doubtful(self, patience: Callable[[int, str], float], last: Collection[int] = ()) -> tuple[int, str] | None:
        """A rank that has been longer than `patience` in one run of a program while the others wait, and the program.

        Nothing is known of what it should take: nobody has performed it before. last: ranks of which it is known that all
        others wait for them.
        """
        for rank, reading in sorted(self._last.items()):
            program, since = _present(reading.sign, ("computes",)), reading.sign.since
            if program is None or since <= patience(rank, program) or (last and rank not in last):
                continue
            others = self._others(rank)
            if self._usual(program, rank, others) is None and (last or not self._busy(others)):
                return rank, program
        return None

    def overdue(self, rank: int) -> str | None:
        """Why a rank that all others wait for is thought not to end what it is at, if it is."""
        if rank not in self._last:
            return None
        sign = self._last[rank].sign
        program, took = _present(sign), sign.since
        usual = None if program is None else self._usual(program, rank, self._others(rank))
        if usual is None or took <= max(self._patience[rank], TIMES * usual):
            return None
        return _reason(took, usual)

    def at(self, rank: int, program: str) -> bool:
        """Whether the rank is in its first run of a program."""
        last = self._last.get(rank)
        return last is not None and _present(last.sign) == program and program not in last.sign.spent

    def learn(self, program: str, seconds: float) -> None:
        """A run of a program took so long elsewhere."""
        self._known[program] = seconds

    def stuck(self, ranks: Collection[int], patience: float) -> bool:
        """Whether all these ranks have waited for others for so long, and nothing came."""
        return all(
            rank in self._still
            and self._last[rank].sign.doing[0] == "waits"
            and self._last[rank].time - self._still[rank].time > patience
            for rank in ranks
        )

    def _others(self, rank: int) -> list[int]:
        return [other for other in self._last if other != rank]

    def _busy(self, ranks: Collection[int]) -> bool:
        """Whether most of them compute, rather than wait for somebody."""
        return bool(ranks) and median(map(self._share, ranks)) > IDLE

    def _share(self, rank: int) -> float:
        """How much of the time watched a rank was busy."""
        first, last, watched = self._first[rank], self._last[rank], self.watched(rank)
        busy = sum(seconds for _, seconds in spent(last.sign).values())
        busy -= sum(seconds for _, seconds in spent(first.sign).values())
        return busy / watched if watched > 0 else 1.0

    def _usual(self, program: str, rank: int, others: Collection[int]) -> float | None:
        """Seconds that a run takes the others, or took this rank before it was watched, or any before."""
        known = [self._last[other].sign.spent.get(program, (0, 0.0)) for other in others]
        paces = [seconds / runs for runs, seconds in known if runs]
        runs, seconds = self._first[rank].sign.spent.get(program, (0, 0.0))
        return median(paces) if paces else seconds / runs if runs else self._known.get(program)


def _reason(took: float, usual: float) -> str:
    return f"it takes {took:.3g} s for what takes {usual:.3g} s as a rule"


def _present(sign: Sign, kinds: Collection[str] = WORK) -> str | None:
    """The program that is being computed, or the input that is being read."""
    what, program, _ = sign.doing
    return program if what in kinds and isinstance(program, str) else None


def spent(sign: Sign) -> Mapping[str, tuple[int, float]]:
    """Runs and seconds by program, the present run's seconds included."""
    program = _present(sign)
    if program is None:
        return sign.spent
    runs, seconds = sign.spent.get(program, (0, 0.0))
    return {**sign.spent, program: (runs, seconds + sign.since)}


def _pace(program: str, first: Sign, last: Sign) -> float:
    """Seconds that a run took between two signs, or the present run has taken so far if that is more."""
    (before, earlier), (runs, seconds) = (sign.spent.get(program, (0, 0.0)) for sign in (first, last))
    present = last.since if _present(last) == program else 0.0
    return max(present, (seconds - earlier) / (runs - before) if runs > before else 0.0)
