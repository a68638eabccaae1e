"""Waiting for a database that is away, for as long as nobody wants the process to end."""

import time
from collections.abc import Callable
from typing import TypeVar

from scheduler.job.tables import DatabaseUnavailable

PAUSE_SECONDS, LONGEST_PAUSE = 0.05, 1.0
T = TypeVar("T")


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
