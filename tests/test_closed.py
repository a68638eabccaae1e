"""The service's own Ray lets nobody else in: a real client without its token, and every port that its processes listen on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir.client import connect
from graphir.errors import JobFailed
from tests.jobs import WAIT
from tests.served import ENVIRONMENT, Served, family, serving

LISTENING = "0A"
ENTER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
print("in", ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    (directory / "in").mkdir()
    np.save(directory / "in" / "x.npy", np.arange(3.0))
    with serving(directory, "--workers", 1, "--allow-data", directory / "in") as found:
        with connect(found.url) as client:
            client.submit(gi.Graph({"y": gi.sum(gi.input("x", ("n",)))}), {"x": np.arange(3.0)}).result(WAIT)
        yield found


def listening(pids: set[int]) -> dict[tuple[str, int], str]:
    """Addresses and ports on which these processes listen, and the name of who does."""
    owners: dict[str, str] = {}
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(link)
                if target.startswith("socket:["):
                    owners[target[8:-1]] = name
        except OSError:
            continue
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and rest[5] in owners:
                address, port = local.split(":")
                words = [int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)]
                found[str(ip_address(b"".join(words))), int(port, 16)] = owners[rest[5]]
    return found


def _is_loopback(address: str) -> bool:
    found = ip_address(address)
    inner = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (inner or found).is_loopback


def test_no_process_listens_but_on_loopback(served: Served) -> None:
    found = listening(family(served.process.pid))
    assert {"gcs_server", "raylet"} <= set(found.values())
    assert {place: name for place, name in found.items() if not _is_loopback(place[0])} == {}


@pytest.mark.slow  # those who are refused try for long
def test_nobody_enters_without_the_token(served: Served) -> None:
    pids = family(served.process.pid)
    port = next(port for (_, port), name in listening(pids).items() if name == "gcs_server")
    (worker,) = [pid for pid in pids if b"ray::Shell" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    own = dict(line.split("=", 1) for line in Path(f"/proc/{worker}/environ").read_text().split("\0") if "=" in line)
    assert len(own["RAY_AUTH_TOKEN"]) == 64
    known = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_AUTH")}
    known["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else it does not look on loopback
    for token, entered in ((None, False), ("0" * 64, False), (own["RAY_AUTH_TOKEN"], True)):
        told = {} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        done = subprocess.run(
            [sys.executable, "-c", ENTER, f"127.0.0.1:{port}"],
            env={**known, **told}, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert ("in 42" in done.stdout, done.returncode == 0) == (entered, entered), done.stderr


def test_workers_keep_to_the_fence_of_datasets(served: Served) -> None:
    inside = served.directory / "in"
    graph = gi.Graph({"y": gi.sum(gi.input("x", ("n",)))})
    with connect(served.url) as client:
        assert client.submit(graph, {"x": gi.dataset(inside / "x.npy")}).result(WAIT)["y"] == 3.0
        ids = {pid for pid in family(served.process.pid) if b"ray::Shell" in Path(f"/proc/{pid}/cmdline").read_bytes()}
        assert ids
        for pid in ids:
            assert str(inside).encode() in Path(f"/proc/{pid}/environ").read_bytes()
        with pytest.raises((gi.DatasetError, JobFailed), match="may not be read"):
            client.submit(graph, {"x": gi.dataset(served.directory / "jobs.npy")}).result(WAIT)
