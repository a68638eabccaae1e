"""A job's events as a Chrome trace (chrome://tracing, Perfetto)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def chrome_trace(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trace of all events so far, as JSON data."""
    begin = events[0]["time"] if events else 0.0
    trace = []
    for before, event in pairwise(events):
        name = f"step {event['step']}" if event["type"] == "step_done" else event["type"]
        span = {"ts": (before["time"] - begin) * 1e6, "dur": (event["time"] - before["time"]) * 1e6}
        details = {key: event[key] for key in event if key not in ("time", "type")}
        trace.append({"name": name, "ph": "X", "pid": 1, "tid": 1, "cat": "job", **span, "args": details})
    return {"traceEvents": trace, "displayTimeUnit": "ms"}
