"""Figures for those on call, in the text format that Prometheus reads."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from scheduler.job.state import Status

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sample:
    """What others count or know now."""

    jobs: Mapping[str, int]
    watchers: int
    events: Mapping[str, int] = field(default_factory=dict)
    workers: int = 0
    asked: int = 0
    problems: Mapping[str, str] = field(default_factory=dict)


class Metrics:
    """What has been counted since the process began. May be used by several threads."""

    def __init__(self) -> None:
        self._lock, self._begun = threading.Lock(), time.monotonic()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds, self._answers = 0.0, 0

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        with self._lock:
            self._requests[method, route, status] += 1
            self._seconds += seconds
            self._answers += 1
            for most in BUCKETS:
                self._buckets[most] += seconds <= most

    def text(self, now: Sample) -> str:
        """All figures."""
        return "".join([*_service(now), *self._of_requests(), *self._of_process()])

    def _of_requests(self) -> Iterable[str]:
        with self._lock:
            requests, buckets = dict(self._requests), dict(self._buckets)
            seconds, answers = self._seconds, self._answers
        named = {f'method="{m}",route="{r}",status="{s}"': n for (m, r, s), n in sorted(requests.items())}
        times = {f'_bucket{{le="{most}"}}': buckets.get(most, 0) for most in BUCKETS}
        name = "gradfleet_request_duration_seconds"
        yield _figures("gradfleet_requests_total", "counter", "answers by method, route and status", named)
        yield f"# HELP {name} time to the end of an answer\n# TYPE {name} histogram\n"
        yield from _lines(name, {**times, '_bucket{le="+Inf"}': answers})
        yield from _lines(name, {"_sum": seconds, "_count": answers})

    def _of_process(self) -> Iterable[str]:
        """Under the names that Prometheus' own clients use."""
        yield _figures(
            "gradfleet_uptime_seconds", "gauge", "since the process began", {"": time.monotonic() - self._begun}
        )
        yield _figures("process_cpu_seconds_total", "counter", "of this process", {"": time.process_time()})
        pages = int(Path("/proc/self/statm").read_text().split()[1]) if os.path.exists("/proc/self/statm") else 0
        yield _figures("process_resident_memory_bytes", "gauge", "main memory of this process", {"": pages * _PAGE})
        files = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        yield _figures("process_open_fds", "gauge", "open files and sockets of this process", {"": files})


def _service(now: Sample) -> Iterable[str]:
    yield _figures(
        "gradfleet_build_info", "gauge", "always 1; the label says what runs", {f'version="{version("gradfleet")}"': 1}
    )
    yield _figures("gradfleet_jobs", "gauge", "jobs by status", {f'status="{s}"': now.jobs.get(s, 0) for s in Status})
    events = {f'type="{name}"': count for name, count in sorted(now.events.items())}
    yield _figures("gradfleet_job_events_total", "counter", "what happened to jobs that this process ran", events)
    yield _figures("gradfleet_workers", "gauge", "workers that are there", {"": now.workers})
    yield _figures(
        "gradfleet_workers_wanted",
        "gauge",
        "workers that are asked of Ray, those that are there included",
        {"": now.asked},
    )
    usable = {f'part="{name}"': not problem for name, problem in now.problems.items()}
    yield _figures("gradfleet_usable", "gauge", "1 where a part that jobs need can be used, as /readyz says", usable)
    yield _figures("gradfleet_watchers", "gauge", "streams of events and waiting requests", {"": now.watchers})


def _figures(name: str, kind: str, help: str, values: Mapping[str, float]) -> str:
    head = f"# HELP {name} {help}\n# TYPE {name} {kind}\n"
    rows = {f"{{{label}}}" if label else "": value for label, value in values.items()}
    return head + "".join(_lines(name, rows))


def _lines(name: str, values: Mapping[str, float]) -> Iterable[str]:
    return (f"{name}{label} {value:.10g}\n" for label, value in values.items())
