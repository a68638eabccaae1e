"""Uploads that are cut in the middle go on from there: over real sockets, after a killed server, and for whoever sent them only."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir import transport
from graphir.client import connect
from graphir.errors import LimitError
from scheduler.job import uploads
from scheduler.job.blobs import BlobMismatch, Blobs, BlobWriteFailed
from scheduler.job.uploads import UploadGap, Uploads, UploadShort
from tests.jobs import WAIT, until
from tests.served import Served, serving

DATA = np.random.default_rng(0).bytes(6 << 20)
DIGEST = hashlib.sha256(DATA).hexdigest()
CUT = 4 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--workers", 0) as found:
        yield found


def send_a_part(served: Served, digest: str, part: bytes, of: int, headers: str = "") -> None:
    """Begin a request, send a part of its body, and break the connection."""
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        head = f"PUT /v1/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {of}\r\n{headers}\r\n"
        line.sendall(head.encode() + part)


def offset(http: httpx.Client, digest: str) -> int:
    answer = http.head(f"/v1/blobs/{digest}")
    assert answer.status_code == 404
    return int(answer.headers.get("Upload-Offset", 0))


def client_of(served: Served) -> httpx.Client:
    return httpx.Client(base_url=served.url, trust_env=False, timeout=WAIT)


def test_a_cut_upload_goes_on(served: Served) -> None:
    send_a_part(served, DIGEST, DATA[:CUT], len(DATA))
    with client_of(served) as http:
        until(lambda: offset(http, DIGEST) == CUT)
        place = f"/v1/blobs/{DIGEST}"
        beyond = http.put(
            place, content=DATA[CUT + 1 :], headers={"Content-Range": f"bytes {CUT + 1}-{len(DATA) - 1}/{len(DATA)}"}
        )
        assert (beyond.status_code, beyond.headers["Upload-Offset"], beyond.json()["kinds"][0]) == (
            409,
            str(CUT),
            "UploadGap",
        )
        for wrong in (
            "bytes 0-1/5",
            "bytes */5",
            "bytes 5-4/5",
            "lines 0-4/5",
            "bytes 0-4/*",
            "bytes 0-9999999999999999999/1",
        ):
            assert http.put(place, content=b"x", headers={"Content-Range": wrong}).status_code == 400
        rest = http.put(
            place, content=DATA[CUT:], headers={"Content-Range": f"bytes {CUT}-{len(DATA) - 1}/{len(DATA)}"}
        )
        assert rest.status_code == 201, rest.text
        assert http.get(place).content == DATA
        assert http.head(place).headers["Content-Length"] == str(len(DATA))


def test_it_goes_on_after_a_killed_server_too(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", 0) as served, client_of(served) as http:
        send_a_part(served, DIGEST, DATA[:CUT], len(DATA))
        until(lambda: offset(http, DIGEST) == CUT)
        served.kill()
        served.start()
        assert offset(http, DIGEST) == CUT
        headers = {"Content-Range": f"bytes {CUT}-{len(DATA) - 1}/{len(DATA)}"}
        wrong = bytearray(DATA[CUT:])
        wrong[0] ^= 1
        answer = http.put(f"/v1/blobs/{DIGEST}", content=bytes(wrong), headers=headers)
        assert (answer.status_code, answer.json()["kinds"][0]) == (422, "BlobMismatch")
        assert offset(http, DIGEST) == 0  # who knows which part was wrong
        assert http.put(f"/v1/blobs/{DIGEST}", content=DATA).status_code == 201


class Cutter:
    """A way to the server that breaks each connection after so many bytes of it were sent, and counts all bytes."""

    def __init__(self, served: Served, after: int) -> None:
        self.passed, self._after, self._to = 0, after, ("127.0.0.1", served.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._begin(self._accept)

    def _begin(self, work: Callable[..., None], *given: Any) -> None:
        threading.Thread(target=work, args=given, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._to)
            self._begin(self._pass, near, far, self._after)
            self._begin(self._pass, far, near, None)

    def _pass(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while (most is None or passed <= most) and (data := source.recv(1 << 16)):
                target.sendall(data)
                passed += len(data)
                self.passed += 0 if most is None else len(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_the_client_goes_on_over_a_line_that_breaks(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_PAUSE", 0.2)
    rows = np.random.default_rng(1).random(4 << 20)  # 32 MB, of which 10 come through at a time
    graph = gi.Graph({"y": gi.sum(gi.input("x", ("n",)))})
    cutter = Cutter(served, 10 << 20)
    try:
        with connect(cutter.url) as client:
            job = client.submit(graph, {"x": rows})
    finally:
        cutter.close()
    with connect(served.url) as client:
        np.testing.assert_allclose(client.job(job.id).result(WAIT)["y"], rows.sum())
    assert cutter.passed < 2 * rows.nbytes  # hardly anything was sent twice


def test_nobody_goes_on_with_another_s_upload(tmp_path: Path) -> None:
    found = Uploads(Blobs(tmp_path / "blobs"))
    with pytest.raises(BlobWriteFailed):
        found.receive("ann", DIGEST, broken(DATA[:CUT]), begin=0, total=None, limit=len(DATA))
    assert (found.offset("ann", DIGEST), found.offset("bob", DIGEST), found.offset("", DIGEST)) == (CUT, 0, 0)
    assert (found.waiting("ann", DIGEST), found.waiting("ann", "other"), found.waiting("bob", "other")) == (0, CUT, 0)
    with pytest.raises(UploadGap):
        found.receive("bob", DIGEST, [DATA[CUT:]], begin=CUT, total=len(DATA), limit=len(DATA))
    assert found.receive("ann", DIGEST, [DATA[CUT:]], begin=CUT, total=len(DATA), limit=len(DATA)) == len(DATA)
    assert found.waiting("ann", "other") == 0


def broken(data: bytes) -> Iterator[bytes]:
    yield data
    raise ConnectionResetError("cut")


@settings(max_examples=40)
@given(data=st.binary(max_size=60), cuts=st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=5))
def test_cuts_of_any_kind_give_the_same_blob(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[tuple[int, bool]]
) -> None:
    blobs = Blobs(tmp_path_factory.mktemp("blobs"), durable=False)
    found, digest = Uploads(blobs), hashlib.sha256(data).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "KEPT_BYTES", 1)
        for end, told in cuts:
            begin = found.offset("ann", digest)
            piece = data[begin : max(begin, min(end, len(data) - 1))]
            chunks, total = ([piece], len(data) + 1) if told else (broken(piece), None)
            with pytest.raises((BlobWriteFailed, UploadShort)):
                found.receive("ann", digest, chunks, begin=begin, total=total, limit=100)
        begin = found.offset("ann", digest)
        assert found.receive("ann", digest, [data[begin:]], begin=begin, total=len(data), limit=100) == len(data)
    assert blobs.get(digest) == data
    assert [path for path in blobs.incoming.rglob("*") if path.is_file()] == []


def test_what_is_wrong_leaves_nothing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    found = Uploads(blobs)
    with pytest.raises(BlobMismatch):
        found.receive("ann", DIGEST, [DATA[:CUT]], begin=0, total=None, limit=len(DATA))
    with pytest.raises(LimitError):
        found.receive("ann", DIGEST, [DATA], begin=0, total=None, limit=CUT)
    with pytest.raises(BlobWriteFailed):
        found.receive("ann", DIGEST, broken(b"little"), begin=0, total=None, limit=CUT)
    assert [path for path in blobs.incoming.rglob("*") if path.is_file()] == []
    with pytest.raises(BlobWriteFailed):
        found.receive("ann", DIGEST, broken(DATA[:CUT]), begin=0, total=None, limit=len(DATA))
    assert blobs.sweep(time.time() - 60) == 0
    os.utime(next(path for path in blobs.incoming.rglob("*") if path.is_file()), (0, 0))
    assert (blobs.sweep(time.time() - 60), found.offset("ann", DIGEST)) == (1, 0)


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    found = Uploads(blobs)

    def slowly() -> Iterator[bytes]:
        yield DATA[:CUT]
        assert found.receive("ann", DIGEST, [DATA], begin=0, total=None, limit=len(DATA)) == len(DATA)
        with pytest.raises(UploadGap):
            found.receive("ann", DIGEST, [DATA[CUT:]], begin=CUT, total=None, limit=len(DATA))
        yield DATA[CUT:]

    assert found.receive("ann", DIGEST, slowly(), begin=0, total=None, limit=len(DATA)) == len(DATA)
    assert blobs.get(DIGEST) == DATA
