"""Machine code on disk by digest, so that a second process need not make it.

A file that is cut short, damaged or of somebody else is as good as none; one that cannot be written is not kept.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

_MARK = b"gradfleet code 1\n"


def folder() -> Path:
    """XDG Base Directory Specification."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gradfleet" / "code"


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
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=folder())  # readable and writable by this user alone
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MARK + _digest(key, code) + code)
            os.replace(path, folder() / key)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()
