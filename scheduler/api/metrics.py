"""Figures for those on call, in the text format that Prometheus reads."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from scheduler.job.state import Status

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)


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

    def text(self, jobs: Mapping[str, int], watchers: int) -> str:
        """All figures."""
        with self._lock:
            requests, buckets = dict(self._requests), dict(self._buckets)
            seconds, answers = self._seconds, self._answers
        named = {f'method="{m}",route="{r}",status="{s}"': n for (m, r, s), n in sorted(requests.items())}
        times = {f'_bucket{{le="{most}"}}': buckets.get(most, 0) for most in BUCKETS}
        return "".join(
            [
                _figures("jobs", "gauge", "jobs by status", {f'status="{s}"': jobs.get(s, 0) for s in Status}),
                _figures("watchers", "gauge", "streams of events and waiting requests", {"": watchers}),
                _figures("uptime_seconds", "gauge", "since the process began", {"": time.monotonic() - self._begun}),
                _figures("requests_total", "counter", "answers by method, route and status", named),
                "# HELP gradfleet_request_seconds time to the end of an answer\n"
                "# TYPE gradfleet_request_seconds histogram\n",
                *_lines("gradfleet_request_seconds", {**times, '_bucket{le="+Inf"}': answers}),
                *_lines("gradfleet_request_seconds", {"_sum": seconds, "_count": answers}),
            ]
        )


def _figures(name: str, kind: str, help: str, values: Mapping[str, float]) -> str:
    head = f"# HELP gradfleet_{name} {help}\n# TYPE gradfleet_{name} {kind}\n"
    rows = {f"{{{label}}}" if label else "": value for label, value in values.items()}
    return head + "".join(_lines(f"gradfleet_{name}", rows))


def _lines(name: str, values: Mapping[str, float]) -> Iterable[str]:
    return (f"{name}{label} {value:.10g}\n" for label, value in values.items())
