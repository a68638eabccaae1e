"""Rung whenever something happens to jobs in this process; others wait for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Bell:
    """A lock around what those share who ring, and how often it was rung."""

    def __init__(self) -> None:
        self._changed, self._rung, self._callers = threading.Condition(), 0, 0

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Alone with what is shared; nothing is rung."""
        with self._changed:
            yield

    @contextmanager
    def ringing(self) -> Iterator[None]:
        """Alone with what is shared; those who wait are told afterwards."""
        with self._changed:
            yield
            self._rung += 1
            self._changed.notify_all()

    def ring(self) -> None:
        """Tell those who wait."""
        with self.ringing():
            pass

    def wait(self, known: int, seconds: float) -> int:
        """Wait, at most so long, until it was rung more often than is known; how often it was."""
        with self._changed:
            self._changed.wait_for(lambda: self._rung != known, seconds)
            return self._rung

    @contextmanager
    def calling(self) -> Iterator[None]:
        """While somebody waits for an answer, those who have time give way."""
        with self._changed:
            self._callers += 1
        try:
            yield
        finally:
            with self._changed:
                self._callers -= 1
                if not self._callers:
                    self._changed.notify_all()

    def give_way(self, seconds: float) -> None:
        """Wait until nobody waits for an answer, but at most so long."""
        if self._callers:
            with self._changed:
                self._changed.wait_for(lambda: not self._callers, seconds)

    @property
    def rung(self) -> int:
        """How often it was rung."""
        return self._rung
