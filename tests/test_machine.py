"""How much memory there is for workers: that of the machine, of the container, and of the workers beside."""

import os
from pathlib import Path

import pytest

from workers.machine import memory

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


def machine(root: Path, cgroup: str, **limits: str) -> Path:
    """A made-up machine: the process's control groups, and limits by folder, `__` for `/`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, limit in limits.items():
        folder = root / "sys/fs/cgroup" / name.replace("__", "/").removeprefix("top").lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("memory.limit_in_bytes" if name.startswith("memory") else "memory.max")).write_text(limit + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/\n", {"top": str(512 * MIB)}, 512 * MIB),  # a container sees its own group at the top
        ("0::/a/b\n", {"top__a__b": "max", "top__a": str(300 * MIB), "top": "max"}, 300 * MIB),
        ("0::/a/b\n", {"top__a__b": str(100 * MIB), "top__a": str(300 * MIB)}, 100 * MIB),
        ("0::/\n", {"top": "max"}, PHYSICAL),
        ("9:cpu,cpuacct:/x\n4:memory:/x/y\n0::/\n", {"memory__x__y": str(200 * MIB)}, 200 * MIB),
        ("4:memory:/not/seen/here\n", {"memory": str(50 * MIB)}, 50 * MIB),  # the group's name outside the container
        ("4:memory:/x\n", {"memory__x": "9223372036854771712"}, PHYSICAL),  # no limit
        ("", {}, PHYSICAL),
    ],
)
def test_a_container_may_have_less_than_its_machine(
    tmp_path: Path, cgroup: str, limits: dict[str, str], expected: int
) -> None:
    assert memory(machine(tmp_path, cgroup, **limits)) == expected


def test_here() -> None:
    assert 0 < memory() <= PHYSICAL
