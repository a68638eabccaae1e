"""One BLAS thread: what makes the bits of a kernel independent of the number of cores."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    """Found once a process: looking through the loaded libraries takes half a millisecond.

    OpenMP on its own is not looked after: its number of threads is a thread's own, and what computes here asks BLAS.
    """
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside the block, BLAS uses at most this many threads, whatever other threads of the process ask for meanwhile."""
    _LIMITS.enter(count)
    try:
        yield
    finally:
        _LIMITS.leave(count)


class _Limits:
    """The smallest number that is asked for holds, for it is the process's; the original ones come back after the last.

    With OpenMP it is a thread's own, so each that computes asks for itself.
    """

    def __init__(self) -> None:
        self._lock, self._asked = threading.Lock(), list[int]()
        self._original: list[int | None] = []

    def enter(self, count: int) -> None:
        with self._lock:
            if not self._asked:
                self._original = [library.num_threads for library in _controller().lib_controllers]
            self._asked.append(count)
            self._apply()

    def leave(self, count: int) -> None:
        with self._lock:
            self._asked.remove(count)
            self._apply()

    def _apply(self) -> None:
        for library, original in zip(_controller().lib_controllers, self._original, strict=True):
            wanted = min(self._asked, default=original)
            free = getattr(library, "clear_controlling_thread", None)
            if free is not None:  # the library listens to one thread alone otherwise
                free(force=True)
            if wanted is not None:
                library.set_num_threads(wanted)


_LIMITS = _Limits()


def libraries() -> list[str]:
    """NumPy's BLAS, with its version and the core that it is tuned for; all there are if NumPy brings none of its own."""
    known = _controller().info()
    home = Path(np.__file__).parent
    own = [info for info in known if Path(info["filepath"]).is_relative_to(home.parent / "numpy.libs")]
    own += [info for info in known if Path(info["filepath"]).is_relative_to(home)]
    return [f"{info['internal_api']} {info['version']} {info.get('architecture', '')}".strip() for info in own or known]
