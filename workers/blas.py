"""One BLAS thread: what makes the bits of a kernel independent of the number of cores."""

from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    """Found once a process: looking through the loaded libraries takes half a millisecond."""
    return ThreadpoolController()


def threads(count: int) -> AbstractContextManager[Any]:
    """Inside the block, BLAS uses this many threads."""
    limited: AbstractContextManager[Any] = _controller().limit(limits=count)
    return limited


def libraries() -> list[str]:
    """NumPy's BLAS, with its version and the core that it is tuned for; all there are if NumPy brings none of its own."""
    known = [info for info in _controller().info() if info["user_api"] == "blas"]
    home = Path(np.__file__).parent
    own = [info for info in known if Path(info["filepath"]).is_relative_to(home.parent / "numpy.libs")]
    own += [info for info in known if Path(info["filepath"]).is_relative_to(home)]
    return [f"{info['internal_api']} {info['version']} {info.get('architecture', '')}".strip() for info in own or known]
