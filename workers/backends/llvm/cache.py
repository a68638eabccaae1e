"""Machine code on disk by digest, so that a second process need not make it.

A file that is cut short, damaged or of somebody else is as good as none; one that cannot be written is not kept.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from workers import cachefolder

_MARK = b"gradfleet code 1\n"


def folder() -> Path:
    """Where it is."""
    return cachefolder.folder() / "code"


def read(key: str) -> bytes | None:
    """What was kept under the key, if it is whole and in a file of this user's that nobody else may write."""
    try:
        with (folder() / key).open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return None
            content = file.read()
    except (OSError, RuntimeError):  # no folder for a user without a home
        return None
    head, code = content[: len(_MARK) + 32], content[len(_MARK) + 32 :]
    return code if head == _MARK + _digest(key, code) else None


def write(key: str, code: bytes) -> None:
    """Keep it, all at once or not at all."""
    with contextlib.suppress(OSError, RuntimeError):
        cachefolder.write(folder() / key, _MARK + _digest(key, code) + code)


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()
