"""What may be made again is kept in the user's cache folder (XDG Base Directory Specification)."""

import contextlib
import os
import tempfile
from pathlib import Path


def folder() -> Path:
    """Ours. RuntimeError for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gradfleet"


def write(target: Path, content: bytes) -> None:
    """Put a file there, readable by this user alone: a reader sees the old one or the new one. OSError if it cannot be."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, path = tempfile.mkstemp(dir=target.parent, suffix=".new")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(path, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
