"""What the page says of jobs: plain data for the templates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphir.story import Story
from scheduler.api.pages.render import lasted
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
    took: float | None

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
    took = None if job.started is None else (job.ended or now) - job.started
    note = job.error.kind if job.error else ", ".join(f"{name} {shown(value)}" for name, value in job.scalars[:2])
    name = (record.spec.name or "").strip()
    return Row(
        record.id, name or record.id, bool(name), job.status.value, SIGNS[job.status.value], job.step, job.steps, note,
        job.workers, job.asked, record.created, took,
    )  # fmt: skip


def filters(counts: Mapping[str, int], chosen: str) -> list[Filter]:
    """All states with their numbers of jobs, the chosen one marked; first those of any state."""
    every = Filter("", "all", sum(counts.values()), chosen == "")
    return [every, *(Filter(s.value, s.value, counts.get(s.value, 0), chosen == s.value) for s in Status)]


def summary(counts: Mapping[str, int]) -> str:
    """What is said to those who listen, when it changes."""
    told = [f"{counts[status.value]} {status.value}" for status in Status if counts.get(status.value)]
    return ", ".join(told) or "no jobs"


def facts(record: Record, now: float) -> list[tuple[str, str]]:
    """What is known of where a job is, by name."""
    job = record.job
    found = [
        ("Workers", f"{job.workers} of {job.asked}" if job.workers != job.asked else str(job.workers or "none yet"))
    ]
    if job.started is not None:
        spent = (job.ended or now) - job.started
        found += [
            ("Waited", lasted(job.started - record.created)),
            ("Took" if job.ended else "Runs for", lasted(spent)),
        ]
        if not job.ended and 0 < job.step < job.steps and job.furthest == job.step:
            found.append(("About to end in", lasted(spent / job.step * (job.steps - job.step))))
    if job.checkpoint is not None:
        found.append(("Checkpoint", f"after {job.checkpoint.step:,} steps"))
    counted = {
        "Tried again": job.retried, "Workers lost": job.workers_lost, "Stragglers": job.stragglers, "Restarts": job.restarts,
    }  # fmt: skip
    return found + [(name, str(value)) for name, value in counted.items() if value]


def options(record: Record) -> list[tuple[str, str]]:
    """What the job was submitted with, where it is not the usual."""
    spec = record.spec
    found = {
        "Carried": ", ".join(f"{name} from {output}" for name, output in spec.carry.items()),
        "Chunks": ", ".join(f"{rows:,} rows of {dim}" for dim, rows in (spec.chunk or {}).items()),
        "Batch": ", ".join(f"{rows:,} rows of {dim}" for dim, rows in (spec.batch or {}).items()),
        "Checkpoint every": f"{spec.checkpoint_every:,} steps" if spec.checkpoint_every else "",
        "Deadline": lasted(spec.deadline) if spec.deadline else "",
        "Back-end": spec.backend if spec.backend != "numpy" else "",
        "Priority": str(spec.priority) if spec.priority else "",
        "Key": spec.key or "",
    }
    return [(name, text) for name, text in found.items() if text]


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that befell a job."""

    what: str
    after: float
    details: str


def moments(story: Story, created: float) -> list[Moment]:
    """What befell the job, the latest first; its steps are left out."""
    return [
        Moment(_WORDS.get(e["type"], e["type"].replace("_", " ")), e["time"] - created, _details(e))
        for e in reversed(story.moments)
    ]


_WORDS = {
    "assembled": "workers",
    "task_failed": "a task failed",
    "worker_lost": "a worker was lost",
    "straggled": "a slow worker was replaced",
}
_LEFT_OUT = (
    "seq",
    "type",
    "time",
    "attempt",
    "traceback",
    "runner",
    "blob",
    "result",
    "node",
    "kernels",
    "fingerprint",
)


def _details(event: Mapping[str, Any]) -> str:
    told = {name: value for name, value in event.items() if name not in _LEFT_OUT and value not in ("", None, False)}
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())[:400]


def shown(value: float) -> str:
    """A scalar in few digits."""
    return f"{value:.4g}" if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "NaN")


def title(rows: Sequence[Row]) -> str:
    """The list in a browser's tab."""
    running = sum(each.status == "running" for each in rows)
    return f"Jobs ({running} running)" if running else "Jobs"
