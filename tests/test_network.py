"""Two hosts with real addresses: network namespaces joined by a pair of virtual Ethernet devices, whose link is cut.

Needs root and Debian's iproute2, which is installed if it is missing. Everything that is started lives in the namespaces,
so whatever is left in them at the end is ours to kill.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}

SCRIPT = """
import subprocess, sys, time
import ray
from graphir.client import connect
from tests.test_faults import CARRIES, FEEDS, GRAPH

how, address, host, ip, device = sys.argv[1:]

def link(state):
    subprocess.run([ip, "-n", host, "link", "set", device, state], check=True)

def submit(client, steps, **options):
    return client.submit(GRAPH, FEEDS, carry=CARRIES["rows too"], steps=steps, chunk={"n": 10}, **options)

def bits(job, seconds):
    return {name: value.tobytes() for name, value in job.result(seconds).items()}

with connect(workers=0) as client:
    expected = bits(submit(client, 6000), 120)
ray.init(address=address, _node_ip_address=address.partition(":")[0], logging_level="error", log_to_driver=False)
with connect(workers=2) as client:
    submit(client, 1).result(90)
    pool = client.service.pool
    addresses = {member.address.ip for member in pool.members}
    assert len(addresses) == 2, addresses
    job = submit(client, 6000, checkpoint_every=100)
    while client.service.status(job.id)["step"] < 300:
        time.sleep(0.01)
    link("down")
    if how == "short":
        time.sleep(1.5)
        link("up")
    else:
        while not any(event["type"] == "worker_lost" for event in client.service.events(job.id)):
            time.sleep(0.1)
        time.sleep(8)
        link("up")
    assert bits(job, 200) == expected
    kinds = [event["type"] for event in job.events()]
    print("lost", kinds.count("worker_lost"), "members", len(pool.members), flush=True)
    if how == "long":
        print("host again", flush=True)
        sys.stdin.readline()
        until = time.monotonic() + 90
        while len(pool.members) < 2 and time.monotonic() < until:
            pool.refresh()
            time.sleep(0.2)
        again = submit(client, 600)
        again.result(90)
        print("again with", client.service.status(again.id)["workers"], "workers", flush=True)
ray.shutdown()
"""


@dataclass
class Hosts:
    """Two network namespaces, each with an address on a network between them."""

    ip: str
    name: str
    folder: str
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def make(self) -> None:
        for k in "ab":
            self("netns", "add", self.name + k)
        self("link", "add", f"{self.name}va", "type", "veth", "peer", "name", f"{self.name}vb")
        for k, number in (("a", 1), ("b", 2)):
            self("link", "set", f"{self.name}v{k}", "netns", self.name + k)
            self("-n", self.name + k, "addr", "add", f"10.213.7.{number}/24", "dev", f"{self.name}v{k}")
            self("-n", self.name + k, "link", "set", f"{self.name}v{k}", "up")
            self("-n", self.name + k, "link", "set", "lo", "up")

    def __call__(self, *arguments: str) -> str:
        return subprocess.run([self.ip, *arguments], check=True, capture_output=True, text=True).stdout

    def start(self, where: str, *command: str) -> subprocess.Popen[str]:
        settings = {"PYTHONPATH": str(ROOT), "RAY_IGNORE_UNHANDLED_ERRORS": "1", "RAY_TMPDIR": self.folder}
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        environment = {**os.environ, **HEALTH, **settings, **secret}
        process = subprocess.Popen(
            [self.ip, "netns", "exec", self.name + where, *command],
            cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started.append(process)
        return process

    def ray(self, where: str, *options: str) -> None:
        """Start a Ray node and wait until it says that it runs."""
        address = f"10.213.7.{1 + (where == 'b')}"
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={address}"]
        node = self.start(where, *ray, "--num-cpus=1", "--object-store-memory=100000000", *options)
        said = []
        assert node.stdout is not None
        for line in node.stdout:
            said.append(line)
            if "--block" in line:
                return
        raise AssertionError("".join(said))

    def close(self) -> None:
        """Kill what is left in the namespaces, and delete them."""
        for k in "ab":
            for pid in subprocess.run(
                [self.ip, "netns", "pids", self.name + k], capture_output=True, text=True
            ).stdout.split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            subprocess.run([self.ip, "netns", "delete", self.name + k], capture_output=True)
        for process in self.started:
            process.communicate(timeout=30)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        subprocess.run(["apt-get", "install", "-y", "iproute2"], check=False, capture_output=True)
    ip = shutil.which("ip")
    if ip is None:
        pytest.skip("needs iproute2")
    folder = tempfile.mkdtemp(prefix="gf")  # Ray's sockets need a short path
    made = Hosts(ip, f"gf{os.getpid() % 100_000}", folder)
    try:
        made.make()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("how", ["short", "long"])
def test_a_cut_link_does_not_change_the_bits(hosts: Hosts, how: str) -> None:
    """Cut for less and for more than the health check; then it heals, and the other host's worker joins again."""
    hosts.ray("a", "--head", "--port=6379", "--include-dashboard=false", "--disable-usage-stats")
    hosts.ray("b", "--address=10.213.7.1:6379")
    script = [sys.executable, "-u", "-c", textwrap.dedent(SCRIPT), how, "10.213.7.1:6379"]
    driver = hosts.start("a", *script, f"{hosts.name}b", hosts.ip, f"{hosts.name}vb")
    assert driver.stdout is not None
    assert driver.stdin is not None
    said, deadline = [], time.monotonic() + 400
    for line in driver.stdout:
        said.append(line)
        assert time.monotonic() < deadline, "".join(said)
        if line.startswith("host again"):
            hosts.ray("b", "--address=10.213.7.1:6379")
            driver.stdin.write("there\n")
            driver.stdin.flush()
    assert driver.wait(30) == 0, "".join(said)[-3000:]
    told = "".join(said)
    assert ("lost 0 members 2" if how == "short" else "lost 1 members 1") in told, told[-3000:]
    assert how == "short" or "again with 2 workers" in told, told[-3000:]
