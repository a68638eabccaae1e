"""Watch: which rank of a job is far slower than the others, and whether all wait; from signs that they give now and then.

Chunks are alike, so a program takes every rank about as long. A rank is slow if one of its programs takes many times what
the others took for the same one (or, where no other performs it, itself or the job's ranks before), if this is what it was busy
with for the whole time watched, and if the others were not. Pure: times come with the signs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median

from workers.activity import Sign

TIMES = 5.0
"""How many times longer than usual is far too long."""
BUSY, IDLE = 0.6, 0.5
"""The share of the time watched that a slow rank is busy with a program at least, and the others are busy at most."""


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
        """For how many seconds the rank has been watched."""
        return self._last[rank].time - self._first[rank].time if rank in self._last else 0.0

    def judged(self, rank: int) -> str | None:
        """Why the rank is thought far slower than the others, if it is."""
        if rank not in self._last:
            return None
        first, last = self._first[rank], self._last[rank]
        watched = last.time - first.time
        others = [other for other in self._last if other != rank]
        if watched <= 0 or (others and median(self._share(other) for other in others) > IDLE):
            return None
        for program, (_, seconds) in _spent(last.sign).items():
            took = seconds - _spent(first.sign).get(program, (0, 0.0))[1]
            usual, pace = self._usual(program, rank, others), _pace(program, first.sign, last.sign)
            if usual is not None and took > BUSY * watched and pace > TIMES * usual:
                return f"it takes {pace:.3g} s for what takes {usual:.3g} s as a rule"
        return None

    def stuck(self, ranks: Collection[int], patience: float) -> bool:
        """Whether all these ranks have waited for others for so long, and nothing came."""
        return all(
            rank in self._still
            and self._last[rank].sign.doing[0] == "waits"
            and self._last[rank].time - self._still[rank].time > patience
            for rank in ranks
        )

    def _share(self, rank: int) -> float:
        """How much of the time watched a rank was busy."""
        first, last = self._first[rank], self._last[rank]
        spent = sum(seconds for _, seconds in _spent(last.sign).values())
        spent -= sum(seconds for _, seconds in _spent(first.sign).values())
        return spent / (last.time - first.time) if last.time > first.time else 1.0

    def _usual(self, program: str, rank: int, others: Collection[int]) -> float | None:
        """Seconds that a run takes the others, or took this rank before it was watched, or any before."""
        known = [self._last[other].sign.spent.get(program, (0, 0.0)) for other in others]
        paces = [seconds / runs for runs, seconds in known if runs]
        runs, seconds = self._first[rank].sign.spent.get(program, (0, 0.0))
        return median(paces) if paces else seconds / runs if runs else self._known.get(program)


def _spent(sign: Sign) -> Mapping[str, tuple[int, float]]:
    """Runs and seconds by program, the present run's seconds included."""
    what, program, _ = sign.doing
    if what != "computes" or not isinstance(program, str):
        return sign.spent
    runs, seconds = sign.spent.get(program, (0, 0.0))
    return {**sign.spent, program: (runs, seconds + sign.since)}


def _pace(program: str, first: Sign, last: Sign) -> float:
    """Seconds that a run took between two signs, or the present run has taken so far if that is more."""
    (before, earlier), (runs, seconds) = (sign.spent.get(program, (0, 0.0)) for sign in (first, last))
    present = last.since if last.doing[:2] == ("computes", program) else 0.0
    return max(present, (seconds - earlier) / (runs - before) if runs > before else 0.0)
