"""Who made a node: a line of the user's program, a derivative rule, a pass, or a file.

To keep node creation cheap the raw origin of a user's node is (code object, instruction offset); the line is
worked out when somebody asks.
"""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import ParamSpec, TypeAlias, TypeVar

from graphir.errors import GraphError

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep

CodePoint: TypeAlias = tuple[CodeType, int]

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node comes from.

    kind: "user" (a line of a program), "vjp" (a derivative rule) or "pass" (a rewrite or the partitioner).
    where: "file.py:12" of the user's line that it stems from; empty if unknown.
    of: for "vjp", the name of the differentiated op; for "pass", the name of the pass.
    """

    kind: str
    where: str = ""
    of: str = ""

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        if self.kind == "vjp":
            return f"vjp of {self.of}{place}"
        return f"{self.of}{place}" if self.kind == "pass" else self.where or "unknown line"


def caller() -> CodePoint:
    """The innermost point of the call stack outside this package."""
    frame = sys._getframe(2)
    code = frame.f_code
    while code.co_filename.startswith(_PACKAGE):
        outer = frame.f_back
        if outer is None:
            break
        frame, code = outer, outer.f_code
    return code, frame.f_lasti


@lru_cache(maxsize=65536)
def source_line(point: CodePoint) -> str:
    """ "file.py:12" for a code point."""
    code, offset = point
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return f"{code.co_filename}:{line}"
    return code.co_filename


def located(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, whose typed errors say on which of the user's lines it was called."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except GraphError as error:
            raise error.at(source_line(caller())) from None

    return call
