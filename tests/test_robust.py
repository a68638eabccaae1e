"""A real service on a full disk, among slow and silent clients, and behind TLS."""

import hashlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

import graphir as gi
from graphir.client import connect
from graphir.errors import ServiceUnavailable
from tests import served as process
from tests.jobs import WAIT
from tests.served import Served, serving

GRAPH = gi.Graph({"y": gi.sum(gi.input("x", ("n",)))})
IMPATIENT = "import scheduler.api.app as app; app.STALL_SECONDS = 1.0; from scheduler.cli import main; main()"


def put(served: Served, data: bytes) -> httpx.Response:
    digest = hashlib.sha256(data).hexdigest()
    return httpx.put(f"{served.url}/v1/blobs/{digest}", content=data, trust_env=False, timeout=WAIT)


def is_well(served: Served) -> bool:
    return httpx.get(f"{served.url}/readyz", trust_env=False, timeout=WAIT).status_code == 200


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """As on a full disk, for those who may not mount one: the process's files are bounded."""
    with serving(tmp_path, "--workers", 0) as served, connect(served.url) as client:
        assert client.submit(GRAPH, {"x": np.ones(3)}).result(WAIT)["y"] == 3.0
        pid = served.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        data = os.urandom(3 << 20)
        answer = put(served, data)
        assert (answer.status_code, answer.json()["kinds"][0]) == (507, "BlobWriteFailed")
        assert is_well(served)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        assert put(served, data).status_code == 201
        assert client.submit(GRAPH, {"x": np.ones(4)}).result(WAIT)["y"] == 4.0


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small disk needs root; bounded files are tried anyhow")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "24m"), serving(disk, "--workers", 0) as served, connect(served.url) as client:
        job = client.submit(GRAPH, {"x": np.ones(3)})
        assert job.result(WAIT)["y"] == 3.0
        kept = os.urandom(4 << 20)
        assert put(served, kept).status_code == 201
        assert put(served, os.urandom(40 << 20)).status_code == 507
        filler = disk / "filler"
        with pytest.raises(OSError, match="space"):
            filler.write_bytes(bytes(24 << 20))
        answer = put(served, os.urandom(1 << 20))
        assert answer.status_code in (503, 507), answer.text  # told, and nothing of it is kept
        assert httpx.get(f"{served.url}/healthz", trust_env=False, timeout=WAIT).status_code == 200
        assert job.result(WAIT)["y"] == 3.0  # what is there is given out
        digest = hashlib.sha256(kept).hexdigest()
        assert httpx.get(f"{served.url}/v1/blobs/{digest}", trust_env=False, timeout=WAIT).content == kept
        filler.unlink()
        assert client.submit(GRAPH, {"x": np.ones(5)}).result(WAIT)["y"] == 5.0
        assert served.process.poll() is None


@pytest.mark.slow
def test_slow_and_silent_clients_keep_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", [sys.executable, "-c", IMPATIENT])
    with serving(tmp_path, "--workers", 0) as served, ExitStack() as lines, connect(served.url) as client:
        for number in range(60):
            line = lines.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            digest = hashlib.sha256(bytes([number])).hexdigest()
            sent = [
                b"",  # half open
                b"GET /v1/jobs HTTP/1.1\r\nHost: loc",  # and never the rest
                f"PUT /v1/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nslow".encode(),
            ]
            line.sendall(sent[number % 3])
        assert put(served, os.urandom(3 << 20)).status_code == 201  # though more are sending than may at one time
        assert client.submit(GRAPH, {"x": np.ones(200_000)}).result(WAIT)["y"] == 200_000.0
        assert is_well(served)
        assert served.stop() == 0  # with all of them there


def test_silent_connections_are_asked_whether_they_live(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", 0) as served, socket.create_connection(("127.0.0.1", served.port)) as line:
        near = f"{0x0100007F:08X}:{line.getsockname()[1]:04X}"
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert line.recv(4096).startswith(b"HTTP/1.1 200")
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (timer,) = [row[5] for row in rows if row[2] == near]
        assert timer.startswith("02:")  # a keepalive timer runs on the server's end


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    asked = [
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(
        ["openssl", "req", *asked, "-keyout", key, "-out", certificate, "-days", "2"], check=True, capture_output=True
    )
    with serving(tmp_path / "jobs", "--workers", 0, "--tls-certificate", certificate, "--tls-key", key) as served:
        assert any(line.startswith("listening on https://") for line in served.said)
        url = served.url.replace("http://", "https://")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with connect(url) as client:
            assert client.submit(GRAPH, {"x": np.ones(3)}).result(WAIT)["y"] == 3.0
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setattr("graphir.remote.PATIENCE", 0.1)
        from graphir.remote import RemoteService

        with pytest.raises(ServiceUnavailable, match="certificate|CERTIFICATE"):
            RemoteService(url, patience=0.1).jobs()
        with pytest.raises(httpx.HTTPError):
            httpx.get(served.url + "/healthz", trust_env=False, timeout=WAIT)
