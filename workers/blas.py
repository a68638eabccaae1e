"""One BLAS thread: what makes the bits of a kernel independent of the number of cores."""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    """Found once a process: looking through the loaded libraries takes half a millisecond."""
    return ThreadpoolController()


def threads(count: int) -> AbstractContextManager[Any]:
    """Inside the block, BLAS uses this many threads."""
    limited: AbstractContextManager[Any] = _controller().limit(limits=count)
    return limited
