"""What tells one process from all others, also after it is gone: machine start, namespace of process numbers, number, time of start.

Who is in the same namespace of the same running machine can be sure that a process has ended; of others nothing is known.
"""

import os
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def this_process() -> str:
    """The words for this process."""
    return f"{_where()} {os.getpid()} {_started(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether the process has certainly ended."""
    where, _, which = process.rpartition(" ")[0].rpartition(" ")
    started = process.rpartition(" ")[2]
    if not where or where != _where() or not which.isdigit() or not started.isdigit():
        return False
    return _started(int(which)) != started


def _where() -> str:
    """The machine since its start and the namespace, or nothing where the system does not tell."""
    with suppress(OSError):
        (_PROC / "1/stat").read_bytes()  # else processes of others are hidden, and would seem to be gone
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink(_PROC / 'self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """When the process started, in ticks of its machine; empty if it is not there, or only its remains."""
    with suppress(OSError):
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
