"""Work shared among threads: whoever comes first takes the next part, and the caller never waits for a thread to wake.

A part that no other thread has begun is done by the caller, so on a busy machine shared work takes as long as without
threads, not longer. Which thread does a part decides no bit.
"""

import os
import threading
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue

import numpy as np


class _Work:
    """Parts by number; `_ended` counts those that are done, and who does the last one opens the door."""

    def __init__(self, parts: int, run: Callable[[int], None]) -> None:
        self._parts, self._run = parts, run
        self._taken, self._ended = count(), count(1)
        self._door = threading.Lock()
        self._door.acquire()
        self._errors: dict[int, BaseException] = {}

    def help(self) -> None:
        """Do parts until all are taken."""
        while (number := next(self._taken)) < self._parts:  # next() of a count is one step for threads
            try:
                self._run(number)
            except BaseException as error:  # noqa: BLE001  # raised where the work was given out
                self._errors[number] = error
            if next(self._ended) == self._parts:
                self._door.release()

    def wait(self) -> None:
        """Until every part has ended; the error of the first part that has one."""
        self._door.acquire()
        if self._errors:
            raise self._errors[min(self._errors)]


class _Crew:
    """Threads that wait for work, as many as anybody has asked for at one time."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Work] = SimpleQueue()
        self._lock, self._size = threading.Lock(), 0

    def call(self, work: _Work, helpers: int) -> None:
        """Ask so many threads to help."""
        if self._size < helpers:
            with self._lock:
                for number in range(self._size, helpers):
                    threading.Thread(target=self._serve, name=f"gradfleet-crew-{number}", daemon=True).start()
                self._size = max(self._size, helpers)
        for _ in range(helpers):
            self._queue.put(work)

    def _serve(self) -> None:
        with np.errstate(all="ignore"):
            while True:
                self._queue.get().help()  # nothing is kept while it waits


_CREW = _Crew()


def _forget() -> None:
    """A forked process has none of the threads, and perhaps a lock that one of them held."""
    global _CREW
    _CREW = _Crew()


os.register_at_fork(after_in_child=_forget)


def share(parts: int, threads: int, run: Callable[[int], None]) -> None:
    """Call `run` with each number of a part, on as many threads; ended when all calls have."""
    if min(parts, threads) <= 1:
        for number in range(parts):
            run(number)
        return
    work = _Work(parts, run)
    _CREW.call(work, min(parts, threads) - 1)
    work.help()
    work.wait()
