"""Hostile bytes at each entrance of a real service: refused with a problem, nothing is run, and memory stays as it is."""

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import graphir as gi
from graphir.client import connect
from tests.jobs import WAIT
from tests.served import Served, serving

STEADY_BYTES = 256 << 20
GRAPH = gi.Graph({"y": gi.sum(gi.input("x", ("n",)))})


class Trap:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    (directory / "in").mkdir()
    with serving(directory, "--workers", 0, "--allow-data", directory / "in") as found:
        with connect(found.url) as client:
            client.submit(GRAPH, {"x": np.ones(3)}).result(WAIT)
        before = memory(found)
        yield found
        assert memory(found) < before + STEADY_BYTES
        assert not (directory / "trapped").exists()
        assert httpx.get(f"{found.url}/readyz", trust_env=False, timeout=WAIT).status_code == 200
        assert not [line for line in found.said if "Traceback" in line]


def memory(served: Served) -> int:
    """The bytes of main memory that the process has."""
    text = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) << 10  # type: ignore[index]


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def blobs(served: Served) -> dict[str, bytes]:
    whole = gi.wire.dump(GRAPH)
    size = struct.unpack("<Q", whole[:8])[0]
    metadata = json.loads(whole[8 : 8 + size])
    trap = Trap(served.directory / "trapped")
    buffer = io.BytesIO()
    np.save(buffer, np.array([trap], object), allow_pickle=True)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(200 << 20))
    far = {"t": {"dtype": "F64", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}
    return {
        "nothing": b"", "pickle": pickle.dumps(trap), "objects": buffer.getvalue(), "archive": bomb.getvalue(),
        "gzip": gzip.compress(bytes(64 << 20)), "long header": header(b"{}", 2**63), "longer header": header(b"{}", 2**64 - 1),
        "deep": header(b'{"a":' * 200_000), "lists": header(b"[" * 1_000_000), "numbers": header(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "no text": header(b"\xff\xfe{}"), "far": header(json.dumps(far).encode()) + bytes(8), "cut": whole[:-1],
        "behind": whole + b"x", "many": header(json.dumps({**metadata, **{str(k): far["t"] for k in range(50_000)}}).encode()),
        "nan": header(b'{"__metadata__": {"gir": NaN}}'), "elf": b"\x7fELF" + bytes(1000),
        "script": b"#!/bin/sh\nmkdir trapped\n", "python": b"__import__('os').mkdir('trapped')",
    }  # fmt: skip


def test_as_graphs_and_as_arrays(served: Served) -> None:
    with httpx.Client(base_url=served.url, trust_env=False, timeout=WAIT) as http:
        graph = gi.wire.dump(GRAPH)
        good = hashlib.sha256(graph).hexdigest()
        http.put(f"/v1/blobs/{good}", content=graph)
        for name, data in blobs(served).items():
            digest = hashlib.sha256(data).hexdigest()
            assert http.put(f"/v1/blobs/{digest}", content=data).status_code in (201, 204), name
            for route in ("/v1/jobs", "/v1/plans"):
                answer = http.post(route, json={"graph": digest})
                assert answer.status_code in (413, 422), (name, route, answer.text)
                assert answer.json()["detail"], name
            for shape in ([2**40], [len(data) // 8 + 1]):
                feed = {"kind": "array", "blob": digest, "dtype": "float64", "shape": shape}
                answer = http.post("/v1/jobs", json={"graph": good, "feeds": {"x": feed}})
                assert answer.status_code in (413, 422), (name, shape, answer.text)


def test_as_bodies(served: Served) -> None:
    name = "0" * 64
    bodies = [
        b"[" * 4_000_000, b'{"graph":' * 900_000, b'{"graph": "%s", "steps": %s}' % (name.encode(), b"9" * 5_000_000),
        b'{"graph": "\xff"}', b'{"graph": "\\ud800\\udfff"}', b"\x00" * 1000, pickle.dumps(Trap(served.directory / "trapped")),
        b'{"graph": "%s", "steps": 1e999}' % name.encode(), b'{"graph": "%s", "deadline": NaN}' % name.encode(),
        json.dumps({"graph": name, "feeds": {str(k): {"kind": "array"} for k in range(50_000)}}).encode(),
        json.dumps({"graph": name, "name": "x" * 7_000_000}).encode(), b" " * (9 << 20), b"{}" * 1000, b"",
        json.dumps({"graph": name, "__class__": "os.system", "__reduce__": ["os.mkdir", ["trapped"]]}).encode(),
    ]  # fmt: skip
    with httpx.Client(base_url=served.url, trust_env=False, timeout=WAIT) as http:
        for route in ("/v1/jobs", "/v1/plans"):
            for body in bodies:
                answer = http.post(route, content=body, headers={"Content-Type": "application/json"})
                assert answer.status_code in (404, 413, 422), (body[:40], answer.text[:200])
                assert len(answer.content) < 10_000
        packed = gzip.compress(b'{"graph": "' + b"0" * (64 << 20) + b'"}')
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert http.post("/v1/jobs", content=packed, headers=headers).status_code == 422  # it is not unpacked


@pytest.mark.slow
def test_as_tokens_and_headers(served: Served) -> None:
    odd = [
        "Bearer " + "x" * 60_000,
        "Bearer",
        "Bearer \u00ff",
        "Basic YTpi",
        "bearer gf_" + "0" * 16,
        'Bearer "; drop table',
    ]
    with httpx.Client(base_url=served.url, trust_env=False, timeout=WAIT) as http:
        for text in odd:
            answer = http.get("/v1/jobs", headers={"Authorization": text.encode("latin-1")})
            assert answer.status_code in (200, 400, 401, 431), text[:40]  # there are no tokens here, so anybody may ask
        for name in (
            "Idempotency-Key",
            "Last-Event-ID",
            "Range",
            "Accept",
            "Content-Range",
            "X-Forwarded-For",
            "Cookie",
        ):
            for value in (b"\xff" * 100, b"9" * 10_000, b"bytes=-" + b"9" * 400, b"=;=;" * 1000, b"../" * 100, b"%00"):
                for method, route in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("PUT", "/v1/blobs/" + "0" * 64)):
                    answer = http.request(
                        method, route, headers={name: value}, content=None if method == "GET" else b"x"
                    )
                    assert answer.status_code < 500, (name, value[:20], answer.text)


def test_as_files_of_datasets(served: Served) -> None:
    trap, folder = Trap(served.directory / "trapped"), served.directory / "in"
    np.save(folder / "objects.npy", np.array([trap], object), allow_pickle=True)
    np.savez(folder / "objects.npz", x=np.array([trap], object), allow_pickle=True)
    (folder / "pickled.npy").write_bytes(pickle.dumps(trap))
    evil = b"{'descr': __import__('os').mkdir('trapped'), 'fortran_order': False, 'shape': (3,), }"
    (folder / "code.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(evil)) + evil)
    vast = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904,), }\n"
    (folder / "vast.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(vast)) + vast)
    (folder / "long.npy").write_bytes(b"\x93NUMPY\x03\x00" + struct.pack("<I", 2**32 - 1) + b"{")
    (folder / "long.safetensors").write_bytes(header(b"{}", 2**62))
    (folder / "deep.safetensors").write_bytes(header(b'{"x":' * 100_000))
    pq.write_table(pa.table({"x": np.arange(3.0)}), folder / "good.parquet")
    good = (folder / "good.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(good[:-20])
    (folder / "vast.parquet").write_bytes(good[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1")
    (folder / "noise.parquet").write_bytes(good[:-60] + bytes(52) + good[-8:])
    with zipfile.ZipFile(folder / "up.npz", "w") as archive:
        archive.writestr("../../trapped.npy", b"x")
    with connect(served.url) as client:
        for path in sorted(folder.iterdir()):
            column = None if path.suffix == ".npy" else "x"
            data = gi.dataset(str(path), column=column)
            if path.name == "good.parquet":
                assert client.submit(GRAPH, {"x": data}).result(WAIT)["y"] == 3.0
                continue
            for ask in (client.submit, client.plan):
                with pytest.raises(gi.GraphError) as caught:
                    ask(GRAPH, {"x": data})
                assert not isinstance(caught.value, gi.ServiceUnavailable), path
