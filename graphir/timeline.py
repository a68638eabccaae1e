"""A job's events as a Chrome trace (chrome://tracing, Perfetto)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any


def chrome_trace(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trace of all events so far, as JSON data."""
    begin = events[0]["time"] if events else 0.0
    trace = list(_lanes(events, begin))
    for before, event in pairwise(event for event in events if event["type"] != "worked"):
        name = f"step {event['step']}" if event["type"] == "step_done" else event["type"]
        span = {"ts": (before["time"] - begin) * 1e6, "dur": (event["time"] - before["time"]) * 1e6}
        details = {key: event[key] for key in event if key not in ("time", "type")}
        trace.append({"name": name, "ph": "X", "pid": 1, "tid": 1, "cat": "job", **span, "args": details})
    return {"traceEvents": trace, "displayTimeUnit": "ms"}


def _lanes(events: Sequence[dict[str, Any]], begin: float) -> Iterator[dict[str, Any]]:
    """A thread for each worker with what it did in each span, and a counter of how much of it that was."""
    threads: dict[str, int] = {}
    for event in events:
        for lane in event["lanes"] if event["type"] == "worked" else ():
            name, seconds = lane["worker"], max(event["seconds"], 1e-9)
            if name not in threads:
                threads[name] = len(threads) + 2
                yield {"ph": "M", "name": "thread_name", "pid": 1, "tid": threads[name], "args": {"name": name}}
            shares = {step: round(took / seconds, 4) for _, step, took in lane["steps"]}
            shares["waits"] = round(lane["waited"] / seconds, 4)
            place = {"pid": 1, "ts": (event["time"] - seconds - begin) * 1e6}
            busy = f"computes {sum(shares.values()) - shares['waits']:.0%}"
            yield {
                "name": busy,
                "ph": "X",
                "tid": threads[name],
                "cat": "worker",
                "dur": seconds * 1e6,
                "args": shares,
                **place,
            }
            yield {"name": name, "ph": "C", "args": shares, **place}
