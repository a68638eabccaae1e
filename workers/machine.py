"""How much memory this process's machine has for us: the physical memory, or less where a container is given less."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_CONTROLLERS = {"": ("", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}
"""Where control groups of both versions are mounted, and the file with the limit, by the controller's name."""


def memory(root: Path = ROOT) -> int:
    """Bytes of main memory that the processes of this container may use."""
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits(root))


def _limits(root: Path) -> Iterator[int]:
    """Of the control group of this process and of those around it, as far as they can be seen from here."""
    yield 1 << 63
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in _CONTROLLERS:
                continue
            mount, name = _CONTROLLERS[controller]
            top = root / "sys/fs/cgroup" / mount
            below = top / group.lstrip("/")
            for folder in (below, *below.parents):
                if folder.is_relative_to(top) and (limit := _text(folder / name).strip()).isdigit():
                    yield int(limit)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
