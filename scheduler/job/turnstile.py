"""A lock that is had in the order in which it was asked for, those first whom somebody waits for.

SQLite has one writer at a time and lets others sleep and try again, which leaves some asleep for seconds while many write.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

IN_A_ROW = 8
"""So many of the first kind go before one of the others does."""


class Turnstile:
    """Lets one thread in at a time."""

    def __init__(self) -> None:
        self._lock, self._taken, self._row = threading.Lock(), False, 0
        self._first: deque[threading.Lock] = deque()
        self._others: deque[threading.Lock] = deque()

    @contextmanager
    def turn(self, *, first: bool) -> Iterator[None]:
        """Alone in here. first: before those who are not."""
        gate = self._ask(first)
        if gate is not None:
            gate.acquire()
        try:
            yield
        finally:
            self._pass_on()

    def _ask(self, first: bool) -> "threading.Lock | None":  # a function before Python 3.13
        """What opens when it is the caller's turn, or None if that is now."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return None
            gate = threading.Lock()
            gate.acquire()
            (self._first if first else self._others).append(gate)
            return gate

    def _pass_on(self) -> None:
        with self._lock:
            first = bool(self._first) and (self._row < IN_A_ROW or not self._others)
            self._row = self._row + 1 if first else 0
            waiting = self._first if first else self._others
            if waiting:
                waiting.popleft().release()
            else:
                self._taken = False
