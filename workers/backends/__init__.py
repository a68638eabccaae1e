"""Back-ends: who provides the kernels of the ops. One module each, imported only when it is asked for.

A back-end module has a function `kernel(op)` that gives an op's kernel, and may have `loop(group)`, which gives a fused
group as compiled code or None, and `whole(graph, sizes, offsets)`, which does so with a small graph. Or it runs every graph as one
program: `program(graph, sizes, offsets, threads)` gives a function from the inputs' arrays, by name, to the outputs', and
`check(graph)` refuses what it lacks. "auto" stands for the fastest that is installed; whoever keeps a name resolves it first. If it needs a library, the library is an extra of the distribution with the back-end's name.
"""

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from graphir.errors import GraphError
from graphir.graph import Graph
from graphir.node import Array, Op

Kernels = Callable[[Op], Callable[..., Array]]


class UnknownBackendError(GraphError):
    """There is no back-end of the name, or its library is not installed."""


@cache  # to look at the folder takes longer than to make an executor
def names() -> tuple[str, ...]:
    """The back-ends there are: the modules of this package."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def resolved(name: str) -> str:
    """A back-end's name for "auto": compiled kernels where their library is installed, else NumPy's; any other name as it is."""
    if name != "auto":
        return name
    return "llvm" if find_spec("llvmlite") is not None else "numpy"


class UnsupportedOpError(GraphError):
    """The back-end has nothing for an op of the graph."""


def entire(name: str) -> Any:
    """The back-end's module if it runs every graph as one program, else None; UnknownBackendError."""
    module = _module(name)
    return module if hasattr(module, "program") else None


def check(name: str, graph: Graph) -> None:
    """UnknownBackendError, UnsupportedOpError unless the back-end is there and has all that the graph needs."""
    module = entire(name)
    if module is not None:
        module.check(graph)


def load(name: str) -> Kernels:
    """The function that gives an op's kernel in the back-end; UnknownBackendError otherwise."""
    kernels: Kernels = _module(name).kernel
    return kernels


def compiler(name: str, of: str) -> Callable[..., Any] | None:
    """The function that compiles fused groups ("loop") or small graphs ("whole"), of a back-end that does."""
    found: Callable[..., Any] | None = getattr(_module(name), of, None)
    return found


def _module(name: str) -> Any:
    if name not in names():
        raise UnknownBackendError(f"there is no back-end {name!r}; the back-ends are {', '.join(names())}")
    try:
        return import_module(f"workers.backends.{name}")
    except ModuleNotFoundError as error:
        raise UnknownBackendError(
            f"back-end {name!r} needs {error.name}, which is not installed; pip install 'gradfleet[{name}]'"
        ) from error
