"""Python functions made of text, a line for each call, and which of them has failed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def function(lines: Sequence[str], scope: dict[str, Any]) -> Callable[..., Any]:
    """The function `run` that the lines define; `scope` holds what they name."""
    exec(compile("\n".join(lines), "<generated>", "exec"), scope)
    found: Callable[..., Any] = scope["run"]
    return found


def failure(error: Exception, run: Callable[..., Any]) -> tuple[int, Mapping[str, Any]]:
    """In which line of such a function, counted from 0, an error has come up, and its variables then."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not run.__code__:
        trace = trace.tb_next
    assert trace is not None
    return trace.tb_lineno - 1, trace.tb_frame.f_locals
