"""What the people on call see of a process: which job it is at, what happened to jobs, and how long each part took.

Code below says it here, in the words of `logging`; where it goes is decided by who starts the process (`api.logs`,
`api.tracing`). Without them, counting is all that happens.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from scheduler.job.events import Event, StepDone, TaskFailed, Worked, WorkerLost, event_name
from scheduler.job.state import Job

_LOG = logging.getLogger("gradfleet.jobs")
_LOG.addHandler(logging.NullHandler())  # who embeds this hears of it by events
LEVELS = ("debug", "info", "warning", "error")
_FACTS: ContextVar[Mapping[str, str]] = ContextVar("gradfleet_facts")


Tracer = Callable[[str, Mapping[str, str], Mapping[str, str] | None], AbstractContextManager[Any]]
"""What makes a span with a name and attributes around a block, inside the one that is there or that headers tell of."""

_tracers: list[Tracer] = []
_lock = threading.Lock()
_counted: Counter[str] = Counter()


def trace_with(tracer: Tracer | None) -> None:
    """From now on spans go there."""
    _tracers[:] = [] if tracer is None else [tracer]


@contextmanager
def span(name: str, sent: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Around a part of the work; gives the span, or None where nobody traces. sent: headers that may tell whose part it is."""
    if not _tracers:
        yield None
        return
    with _tracers[0](name, facts("gradfleet."), sent) as made:
        yield made


@contextmanager
def about(**facts: str) -> Iterator[None]:
    """Lines that this thread or task logs meanwhile, and spans, are about this."""
    before = _FACTS.set({**_FACTS.get({}), **facts})
    try:
        yield
    finally:
        _FACTS.reset(before)


def facts(prefix: str = "") -> dict[str, str]:
    """What is done now is about this."""
    return {prefix + name: value for name, value in _FACTS.get({}).items()}


def happened_to(job: Job, events: Iterable[Event]) -> None:
    """Log and count what happened to the job that this thread is at."""
    told = list(events)
    with _lock:
        _counted.update(map(event_name, told))
    if not _LOG.isEnabledFor(logging.INFO):
        return
    for event in told:
        if not isinstance(event, StepDone | Worked):
            _LOG.log(_level(event), event_name(event), extra=_shown(event))
    if job.status.terminal:
        _LOG.info("ended", extra={"status": job.status.value, "step": job.step, "steps": job.steps})


def counted() -> dict[str, int]:
    """How often each kind of event happened to jobs that this process runs."""
    with _lock:
        return dict(_counted)


def _level(event: Event) -> int:
    return logging.WARNING if isinstance(event, WorkerLost | TaskFailed) else logging.INFO


def _shown(event: Event) -> dict[str, Any]:
    """The event's fields that fit into a line, under names that `logging` has no use for."""
    names = [name for kind in type(event).__mro__ for name in getattr(kind, "__slots__", ())]
    shown = {name: getattr(event, name) for name in names if name not in ("time", "traceback", "kernels")}
    return {"error_message" if name == "message" else name: value for name, value in shown.items()}
