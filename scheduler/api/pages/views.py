"""What the page says of jobs: plain data for the templates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.job.seen import Record
from scheduler.job.state import Status

SIGNS = {"queued": "○", "running": "◐", "succeeded": "●", "failed": "✕", "cancelled": "⊘"}
"""A sign for each state, since colour alone tells not everybody."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job in the list."""

    id: str
    title: str
    named: bool
    status: str
    sign: str
    step: int
    steps: int
    note: str
    workers: int
    asked: int
    created: float
    lasted: float | None

    @property
    def live(self) -> bool:
        """Whether more will happen to it."""
        return not Status(self.status).terminal

    @property
    def percent(self) -> int:
        """How much of it is done; all of it only when it is."""
        return 100 if self.status == "succeeded" else min(99, 100 * self.step // max(1, self.steps))


@dataclass(frozen=True, slots=True)
class Filter:
    """A state by which the list may be narrowed, and how many jobs are in it."""

    status: str
    label: str
    jobs: int
    chosen: bool


def row(record: Record, now: float) -> Row:
    """A job as the list shows it."""
    job = record.job
    lasted = None if job.started is None else (job.ended or now) - job.started
    note = job.error.kind if job.error else ", ".join(f"{name} {shown(value)}" for name, value in job.scalars[:2])
    name = (record.spec.name or "").strip()
    return Row(
        record.id, name or record.id, bool(name), job.status.value, SIGNS[job.status.value], job.step, job.steps, note,
        job.workers, job.asked, record.created, lasted,
    )  # fmt: skip


def filters(counts: Mapping[str, int], chosen: str) -> list[Filter]:
    """All states with their numbers of jobs, the chosen one marked; first those of any state."""
    every = Filter("", "all", sum(counts.values()), chosen == "")
    return [every, *(Filter(s.value, s.value, counts.get(s.value, 0), chosen == s.value) for s in Status)]


def summary(counts: Mapping[str, int]) -> str:
    """What is said to those who listen, when it changes."""
    told = [f"{counts[status.value]} {status.value}" for status in Status if counts.get(status.value)]
    return ", ".join(told) or "no jobs"


def shown(value: float) -> str:
    """A scalar in few digits."""
    return f"{value:.4g}" if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "NaN")


def title(rows: Sequence[Row]) -> str:
    """The list in a browser's tab."""
    running = sum(each.status == "running" for each in rows)
    return f"Jobs ({running} running)" if running else "Jobs"
