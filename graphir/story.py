"""What the events of a job tell, bounded: its scalars by iteration, its workers' lanes, and what befell it.

Events are JSON data as `Job.events()` gives them. Notebooks and the service's page show the same of it.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from graphir.lanes import Spans
from graphir.plot import Series, curve

MOST_SERIES, MOST_MOMENTS = 24, 60
QUIET = ("step_done", "worked")
"""Events that come all the time."""


def in_notebook(id: str, state: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> str:
    """A job as a notebook shows it: where it is, what went wrong, its scalars and its workers."""
    story, error = Story(), state["error"]
    story.take(events)
    told = f"{state['step']:,} of {state['steps']:,} steps"
    wrong = f"<pre>{escape(error['message'])}</pre>" if error else ""
    return (
        f"<div><p><b>Job {escape(id)}</b> {escape(state['status'])} "
        f'<progress max="{state["steps"]}" value="{state["step"]}" aria-label="{told}"></progress> {told}</p>{wrong}'
        f"{''.join(story.curves(state['steps']))}{story.lanes()}</div>"
    )


class Story:
    """Takes events in order, and knows which was the last."""

    def __init__(self) -> None:
        self.seq = 0
        self.series: dict[str, Series] = {}
        self.spans = Spans()
        self.moments: deque[Mapping[str, Any]] = deque(maxlen=MOST_MOMENTS)

    def take(self, events: Iterable[Mapping[str, Any]]) -> None:
        """More of what has happened."""
        for event in events:
            self.seq = event["seq"]
            if event["type"] == "step_done":
                self._step(event)
            if event["type"] == "worked":
                self.spans.add(event)
            if event["type"] not in QUIET:
                self.moments.append(event)

    def curves(self, steps: int) -> list[str]:
        """A picture for each scalar of a job of several iterations."""
        return [curve(name, series) for name, series in self.series.items()] if steps > 1 else []

    def lanes(self) -> str:
        """A picture of what the workers did, if that was told."""
        return self.spans.svg() if len(self.spans) else ""

    def _step(self, event: Mapping[str, Any]) -> None:
        for name, value in event["scalars"]:
            if name in self.series or len(self.series) < MOST_SERIES:
                self.series.setdefault(name, Series()).add(event["step"], float(value))
