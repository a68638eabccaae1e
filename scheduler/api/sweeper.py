"""A thread that removes what is not needed any more, now and then, while the service runs.

Nothing is removed by a clock that cannot be trusted: after a jump of the time of day it waits for as long as uploads are
kept, since what was put before the jump would look old.
"""

import logging
import threading
import time
from collections.abc import Callable

from graphir.errors import GraphError
from scheduler.job.retention import Keep, Retention
from scheduler.job.store import Store
from scheduler.job.values import Values

_LOG = logging.getLogger(__name__)
EVERY_SECONDS = 900.0
JUMP_SECONDS = 60.0


class Sweeper:
    """Sweeps one service. Clocks: the time of day, and one that never jumps."""

    def __init__(
        self,
        store: Store,
        values: Values,
        keep: Keep,
        *,
        every: float = EVERY_SECONDS,
        day: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retention, self._keep, self._every = Retention(store, values, keep), keep, every
        self._day, self._steady = day, steady
        self._difference, self._resume = day() - steady(), steady()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gradfleet-sweep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, after what is under way."""
        self._closed.set()
        self._thread.join()

    def sweep(self) -> bool:
        """Remove what is not needed, unless the time of day has jumped; whether that was done."""
        now, difference = self._steady(), self._day() - self._steady()
        if abs(difference - self._difference) > JUMP_SECONDS:
            _LOG.warning(
                "the clock has jumped by %.0f s; nothing is removed for a while", difference - self._difference
            )
            self._resume = now + self._keep.uploads
        self._difference = difference
        if now < self._resume:
            return False
        swept = self._retention.collect(self._day())
        if swept.blobs or swept.values or swept.jobs:
            _LOG.info("removed %s", swept)
        return True

    def _run(self) -> None:
        while not self._closed.wait(self._every):
            try:
                self.sweep()
            except GraphError as error:  # the next time perhaps
                _LOG.warning("nothing could be removed: %s", error)
