"""Back-ends: who provides the kernels of the ops. One file each, imported only when it is asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from graphir.errors import GraphError
from graphir.node import Array, Op

Kernels = Callable[[Op], Callable[..., Array]]

KNOWN = {"numpy": ""}
"""Back-ends and the extra of the distribution that each needs."""


class UnknownBackendError(GraphError):
    """There is no back-end of the name, or its library is not installed."""


def load(name: str) -> Kernels:
    """The function that gives an op's kernel in the back-end; UnknownBackendError otherwise."""
    if name not in KNOWN:
        raise UnknownBackendError(f"there is no back-end {name!r}; the back-ends are {', '.join(KNOWN)}")
    module: Any = import_module(f"workers.backends.{name}")
    kernels: Kernels = module.kernel
    return kernels
