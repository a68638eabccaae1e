"""Datasets below allowed prefixes only: words, escapes, links, redirections, and where a name really leads."""

import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.client import connect
from graphir.dataset import Dataset
from graphir.errors import DatasetError
from tests.jobs import WAIT
from tests.range_server import RangeServer
from tests.range_server import serving as web
from tests.served import serving
from workers.data import open_source, take
from workers.data.fence import VARIABLE, Fence, is_public


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with web() as running:
        running.files["in/x.npy"] = running.files["out/x.npy"] = npy(np.arange(3.0))
        yield running


def fenced(monkeypatch: pytest.MonkeyPatch, *prefixes: str) -> None:
    monkeypatch.setenv(VARIABLE, "")
    Fence(prefixes).raise_up()


OUTSIDE = [
    "x.npy", "/etc/passwd", "/data/in", "/data/inner/x.npy", "/data/in/../x.npy", "/data/in/./x.npy", "file:///data/x.npy",
    "file:///data/in/%2e%2e/x.npy", "file:///data/in/a%2f..%2f..%2fx.npy", "file:///data/in/a%252f%252e%252e%252fx.npy",
    "FILE:///etc/passwd", "local:///etc/passwd", "file://elsewhere/data/in/x.npy", "simplecache::/data/in/x.npy",
    "https://data.example/in/x.npy", "https://data.example.evil/public/x.npy", "https://data.example@evil/public/x.npy",
    "https://data.example/public/../in/x.npy", "https://data.example/public/%2e%2e/in/x.npy", "http://127.0.0.1/x.npy",
    "https://data.example/public\\..\\in/x.npy", "s3://other/x.npy", "gopher://127.0.0.1/x.npy", "/data/in/x\n.npy",
]  # fmt: skip
INSIDE = [
    "/data/in/x.npy", "file:///data/in/x.npy", "file://localhost/data/in/a/b.npy", "/data/in/*.npy", "/data/in/..x/y.npy",
    "https://data.example/public/x.npy", "https://data.example/public/a%20b.npy?version=2", "s3://bucket/rows/part-*.npy",
]  # fmt: skip


def test_what_is_inside_and_what_is_not() -> None:
    fence = Fence(["/data/in", "https://data.example/public/", "s3://bucket"])
    assert [url for url in INSIDE if not fence.allows(url)] == []
    assert [url for url in OUTSIDE if url != "/data/in" and fence.allows(url)] == []
    assert not any(Fence([]).allows(url) for url in INSIDE)


@given(
    st.lists(
        st.sampled_from(["..", ".", "a", "%2e", "%2E.", "%252e%252e", "%2f", "%5c", "/", "\\", "in", "*"]), max_size=8
    )
)
def test_no_path_of_any_spelling_leads_out(parts: list[str]) -> None:
    fence = Fence(["file:///data/in"])
    for url in ("file:///data/in/" + "".join(parts), "file:///data/in/" + "/".join(parts)):
        if fence.allows(url):
            assert Dataset(url).url == url
            path = os.path.normpath(_opened(url))
            assert path == "/data/in" or path.startswith("/data/in/")


def _opened(url: str) -> str:
    from workers.data.locate import local_path

    path = local_path(Dataset(url))
    assert path is not None
    return path


@pytest.mark.parametrize("prefix", ["data", "ftp://", "gopher:///", "simplecache::/data", "zip://x::/data", ""])
def test_prefixes_that_nobody_means_are_refused(prefix: str) -> None:
    with pytest.raises(DatasetError, match="cannot be allowed"):
        Fence([prefix])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:2800:21f::1", True), ("127.0.0.1", False), ("10.1.2.3", False), ("::1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:10.0.0.1", False), ("::ffff:93.184.215.14", True), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False), ("2002:a00:1::", False), ("nonsense", False), ("255.255.255.255", False),
    ],
)  # fmt: skip
def test_addresses_of_the_inside(address: str, public: bool) -> None:
    assert is_public(address) == public


def test_links_do_not_lead_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "secret.npy", np.arange(3.0))
    np.save(tmp_path / "in" / "x.npy", np.arange(3.0))
    (tmp_path / "in" / "link.npy").symlink_to(tmp_path / "secret.npy")
    (tmp_path / "in" / "inner.npy").symlink_to(tmp_path / "in" / "x.npy")
    taken = take(Dataset(str(tmp_path / "in" / "x.npy")))
    fenced(monkeypatch, str(tmp_path / "in"))
    for name in ("x.npy", "inner.npy"):
        assert open_source(Dataset(str(tmp_path / "in" / name))).whole().sum() == 3.0
    for name in ("link.npy", "l*.npy"):
        with pytest.raises(DatasetError, match="may not be read by this service"):
            open_source(Dataset(str(tmp_path / "in" / name)))
    (tmp_path / "in" / "x.npy").unlink()  # and put a link in its place after it was judged
    (tmp_path / "in" / "x.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(DatasetError, match="may not be read by this service"):
        open_source(taken).whole()


def test_redirections_are_judged(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = server.url("in")
    server.moved = {
        "in/near.npy": "/in/x.npy",
        "in/far.npy": "/out/x.npy",
        "in/away.npy": "http://169.254.169.254/x.npy",
    }
    fenced(monkeypatch, inside)
    for name in ("x.npy", "near.npy"):
        assert open_source(Dataset(f"{inside}/{name}")).whole().sum() == 3.0
    for name in ("far.npy", "away.npy"):
        with pytest.raises(DatasetError, match="leads to where this service may not read"):
            open_source(Dataset(f"{inside}/{name}"))
    assert {name for name, _, _ in server.served} == {"in/x.npy"}


def test_names_of_inner_addresses_are_not_reached(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.server_address[1]
    fenced(monkeypatch, "http://")  # any host, but nobody has named these
    real = socket.getaddrinfo

    def lying(host: Any, *given: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == "data.example" else host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lying)
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "data.example", "[::ffff:127.0.0.1]"):
        with pytest.raises(DatasetError, match="may not (be )?read"):
            open_source(Dataset(f"http://{host}:{port}/in/x.npy"))
    assert server.served == []
    fenced(monkeypatch, f"http://data.example:{port}")  # this one the operator has named
    assert open_source(Dataset(f"http://data.example:{port}/in/x.npy")).whole().sum() == 3.0


def test_a_service_keeps_to_it(tmp_path: Path, server: RangeServer) -> None:
    graph = gi.Graph({"y": gi.sum(gi.input("x", ("n",)))})
    inside = server.url("in")
    server.moved = {"in/far.npy": "/out/x.npy"}
    with serving(tmp_path, "--workers", 0, "--allow-data", inside) as served, connect(served.url) as client:
        assert client.submit(graph, {"x": gi.dataset(f"{inside}/x.npy")}).result(WAIT)["y"] == 3.0
        for ask in (client.submit, client.plan):
            with pytest.raises(DatasetError, match="may not read"):
                ask(graph, {"x": gi.dataset(f"{inside}/far.npy")})
    assert {name for name, _, _ in server.served} == {"in/x.npy"}
