"""Waiting for what is away: a database, for as long as nobody wants the process to end, and what a job's tasks need."""

import time
from collections.abc import Callable
from typing import TypeVar

from scheduler.job.events import Event, StepDone, TaskFailed
from scheduler.job.tables import DatabaseUnavailable

PAUSE_SECONDS, LONGEST_PAUSE = 0.05, 1.0
AGAIN_SECONDS, AGAIN_TIMES, AGAIN_MOST = 0.25, 4.0, 10.0
"""How long a job waits before its third attempt in a row, how many times longer before each further one, and at most."""
T = TypeVar("T")


class Backoff:
    """How long a job waits before its next attempt, to give what its tasks failed for time to get well, a storage or a machine.

    Each failure is waited for once, and a step that ends, new or made again, sets all back. Dead workers are not waited for:
    others take time to start, and more may die meanwhile.
    """

    def __init__(self) -> None:
        self._failed, self._due = 0, 0.0

    def happened(self, event: Event) -> None:
        """Note what the job did."""
        if isinstance(event, StepDone):
            self._failed, self._due = 0, 0.0
        elif isinstance(event, TaskFailed):
            again, self._failed = self._failed - 1, self._failed + 1
            self._due = min(AGAIN_SECONDS * AGAIN_TIMES ** min(again, 9), AGAIN_MOST) if again >= 0 else 0.0

    def take(self) -> float:
        """The seconds to wait now."""
        due, self._due = self._due, 0.0
        return due


def patiently(question: Callable[[], T], stop: Callable[[], bool]) -> T:
    """What the database answers when it does; DatabaseUnavailable if `stop` holds first."""
    pause = PAUSE_SECONDS
    while True:
        try:
            return question()
        except DatabaseUnavailable:
            if stop():
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
