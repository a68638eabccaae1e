"""Blobs elsewhere: in memory, in a folder that fsspec writes, and behind a server that answers like S3."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

import graphir as gi
from graphir.client import connect
from graphir.errors import ServiceUnavailable
from scheduler.job import objects
from scheduler.job.blobs import BlobCorrupt, BlobMismatch, BlobMissing, Blobs
from scheduler.job.objects import ObjectBlobs, open_blobs
from scheduler.job.retention import Keep, Retention
from scheduler.job.store import Store
from scheduler.job.values import Values
from tests.jobs import WAIT
from tests.served import ENVIRONMENT, serving
from tests.test_blobs import sha256

DATA = np.random.default_rng(0).bytes((3 << 20) + 5)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
            patch.setitem(ENVIRONMENT, name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another server
        fsspec.filesystem("s3").mkdir("blobs-of-tests")
        yield "s3://blobs-of-tests/below"
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return f"memory://{tmp_path.name}"
        case "local":
            return f"local://{tmp_path}/elsewhere"
        case _:
            return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def raw(blobs: ObjectBlobs, digest: str) -> str:
    return f"{blobs._root}/{digest[:2]}/{digest[2:]}"


def test_put_get_list_and_drop(url: str, tmp_path: Path) -> None:
    blobs = ObjectBlobs(url, tmp_path / "cache")
    (tmp_path / "file").write_bytes(DATA)
    assert blobs.put(DATA) == blobs.put(tmp_path / "file") == blobs.put_stream([DATA[:7], DATA[7:]]) == sha256(DATA)
    empty = blobs.put(b"")
    elsewhere = ObjectBlobs(url, tmp_path / "other cache")  # another machine
    assert bytes(elsewhere.view(sha256(DATA))) == DATA
    assert elsewhere.get(empty) == b""
    assert {(each.digest, each.bytes) for each in elsewhere.listed()} == {(sha256(DATA), len(DATA)), (empty, 0)}
    with pytest.raises(BlobMismatch):
        blobs.put_stream([b"x"], expect=sha256(b"y"))
    elsewhere.drop(sha256(DATA))
    assert not blobs.has(sha256(DATA))
    with pytest.raises(BlobMissing, match=sha256(b"never")):
        blobs.view(sha256(b"never"))
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []


def test_damage_is_found_named_and_repaired(url: str, tmp_path: Path) -> None:
    digest = ObjectBlobs(url, tmp_path / "cache").put(DATA)
    blobs = ObjectBlobs(url, tmp_path / "other")
    for damaged in (DATA[:-1] + bytes([DATA[-1] ^ 1]), DATA[:-1], b""):
        blobs._fs.pipe_file(raw(blobs, digest), damaged)
        for read in (blobs.get, blobs.path, blobs.view):
            with pytest.raises(BlobCorrupt, match=digest) as caught:
                read(digest)
            assert url in str(caught.value)
    blobs.put(DATA)
    assert ObjectBlobs(url, tmp_path / "third").get(digest) == DATA


def test_a_damaged_file_of_the_cache_is_fetched_again(url: str, tmp_path: Path) -> None:
    blobs = ObjectBlobs(url, tmp_path / "cache")
    path = blobs.path(blobs.put(DATA))
    path.chmod(0o600)
    path.write_bytes(b"other")
    assert blobs.get(sha256(DATA)) == DATA


def test_the_cache_lets_go_of_what_was_not_used_for_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "REST_SECONDS", -1.0)
    blobs = ObjectBlobs(f"memory://{tmp_path.name}", tmp_path / "cache", cache_bytes=3 << 20)
    names = [blobs.put(bytes([k]) * (1 << 20)) for k in range(3)]
    for age, name in enumerate(names):
        os.utime(blobs.path(name), (1000.0 - age, 1000.0))
    names.append(blobs.put(b"x" * (1 << 20)))
    here = {each.digest for each in Blobs(tmp_path / "cache").listed()}
    assert names[-1] in here
    assert names[2] not in here
    assert sum(each.bytes for each in Blobs(tmp_path / "cache").listed()) <= 3 << 20
    for k, name in enumerate(names[:3]):
        assert blobs.get(name) == bytes([k]) * (1 << 20)


def test_what_is_put_again_becomes_young_and_what_is_old_is_removed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = ObjectBlobs(url, tmp_path / "cache")
    old, again = blobs.put(b"old"), blobs.put(b"again")
    born = {each.digest: each.put for each in blobs.listed()}
    monkeypatch.setattr(objects, "YOUNG_SECONDS", -10.0)  # as if some time had passed
    blobs.put(b"again")
    after = {each.digest: each.put for each in blobs.listed()}
    assert after[old] == born[old]
    assert after[again] >= born[again]
    assert blobs.remove([old, again, sha256(b"never")], min(born.values()) - 1) == []
    assert sorted(blobs.remove([old, again], max(after.values()) + 1)) == sorted([old, again])
    assert list(blobs.listed()) == []
    with Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as store:
        blobs.put(b"x" * 100_000)
        assert Retention(store, Values(store, blobs), Keep(uploads=-60.0)).collect(max(after.values()) + 60).blobs == 1


def test_storage_that_does_not_answer_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="nonsense"):
        open_blobs("nonsense://x/y", tmp_path, durable=True)
    blobs = ObjectBlobs(f"memory://{tmp_path.name}", tmp_path / "cache")

    def broken(*given: object, **more: object) -> None:
        raise TimeoutError("nobody there")

    blobs._fs = type("Broken", (), {"info": broken, "find": broken, "protocol": "memory"})()
    for ask in (lambda: blobs.put(b"x"), lambda: blobs.has(sha256(b"x")), lambda: list(blobs.listed())):
        with pytest.raises(ServiceUnavailable, match="nobody there"):
            ask()


def test_folders_keep_the_short_way(tmp_path: Path) -> None:
    for storage in (None, str(tmp_path), f"file://{tmp_path}", f"FILE://localhost{tmp_path}"):
        assert isinstance(open_blobs(storage, tmp_path, durable=True), Blobs)


def test_a_service_on_object_storage(s3: str, tmp_path: Path) -> None:
    rows = np.arange(200_000.0).reshape(-1, 8)
    x = gi.input("x", ("n", 8))
    graph = gi.Graph({"y": x * 2.0})
    storage = f"{s3}/served"
    with (
        serving(tmp_path / "one", "--workers", 0, "--storage", storage) as served,
        connect(served.url) as client,
    ):
        job = client.submit(graph, {"x": rows})
        np.testing.assert_array_equal(job.result(WAIT)["y"], rows * 2.0)
        assert not (tmp_path / "one" / "blobs").exists()
        cache = tmp_path / "one" / "cache"
        served.kill()
        for path in [path for path in cache.rglob("*") if path.is_file()]:
            path.unlink()  # the machine is lost, but for its database
        served.start()
        np.testing.assert_array_equal(client.job(job.id).result(WAIT)["y"], rows * 2.0)
        (feed,) = [each["blob"] for each in client.job(job.id).feeds().values()]
        blobs = ObjectBlobs(storage, tmp_path / "looking")
        blobs._fs.pipe_file(raw(blobs, feed), b"damaged")
        for path in [path for path in cache.rglob("*") if path.is_file()]:
            path.unlink()
        with pytest.raises(gi.GraphError, match=feed):
            client.submit(gi.Graph({"y": x * 3.0}), {"x": rows}).result(WAIT)
