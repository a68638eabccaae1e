"""The HTTP service as a real process: killed and started again, stopped, and what it answers to what is wrong."""

import base64
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import graphir as gi
from graphir import tensors, wire
from graphir.client import connect
from graphir.errors import ServiceUnavailable
from graphir.remote import RemoteService
from scheduler.job.store import Store
from tests.jobs import WAIT, bits, until
from tests.served import Served, gradfleet, serving
from tests.test_service import LONG, train


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--workers", 0) as found:
        yield found


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, trust_env=False, timeout=WAIT) as client:
        yield client


def send(http: httpx.Client, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    assert http.put(f"/v1/blobs/{digest}", content=data).status_code in (201, 204)
    return digest


def undisturbed(steps: int) -> dict[str, bytes]:
    with connect(workers=0) as inline:
        return bits(train(inline, steps=steps).result(WAIT))


def step_of(client: Any, id: str) -> int:
    return int(client.service.status(id)["step"])


def test_a_killed_server_loses_nothing_and_its_client_does_not_notice(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", 0) as served, connect(served.url) as client:
        job = train(client, steps=LONG, checkpoint_every=20, key="one")
        until(lambda: step_of(client, job.id) > 50)
        served.kill()
        served.start()
        again = train(client, steps=LONG, checkpoint_every=20, key="one")
        assert again.id == job.id
        assert bits(job.result(WAIT)) == undisturbed(LONG)
        events = list(job.events())
        assert "resumed" in {event["type"] for event in events}
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    with Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as store:
        assert [record.id for record in store.jobs()] == [job.id]


def test_sigterm_sets_jobs_aside_and_the_next_server_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", 0) as served, connect(served.url) as client:
        job = train(client, steps=LONG, checkpoint_every=20)
        until(lambda: step_of(client, job.id) > 50)
        with httpx.stream("GET", f"{served.url}/v1/jobs/{job.id}/events", timeout=WAIT, trust_env=False) as stream:
            assert stream.status_code == 200
            assert served.stop() == 0
        served.start()
        assert bits(job.result(WAIT)) == undisturbed(LONG)


def test_events_are_replayed_from_the_last_that_was_seen(served: Served, http: httpx.Client) -> None:
    with connect(served.url) as client:
        job = train(client, steps=5)
        job.result(WAIT)
        expected = list(job.events())
    for last in (0, 3):
        found = http.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": str(last)} if last else {})
        assert found.headers["content-type"].startswith("text/event-stream")
        frames = [
            dict(line.split(": ", 1) for line in frame.splitlines()) for frame in found.text.split("\n\n") if frame
        ]
        data = [(int(frame["id"]), json.loads(frame["data"])) for frame in frames if "id" in frame]
        assert data == [(event["seq"], event) for event in expected[last:]]
        assert (frames[-1]["event"], json.loads(frames[-1]["data"])) == ("end", {"status": "succeeded"})


def test_large_results_are_mapped_and_parts_can_be_asked_for(served: Served, http: httpx.Client) -> None:
    x = gi.input("x", ("n",))
    graph = gi.Graph({"y": x + 1.0})
    value = np.arange(9_000_000.0)
    with connect(served.url) as client:
        job = client.submit(graph, {"x": value})
        found = job.result(WAIT)["y"]
    np.testing.assert_array_equal(found, value + 1.0)
    assert not found.flags.owndata
    part = http.get(f"/v1/jobs/{job.id}/result", headers={"Range": "bytes=-16"})
    assert part.status_code == 206
    assert part.content == (value[-2:] + 1.0).tobytes()


def test_equal_bytes_are_sent_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    x = gi.input("x", ("n",))
    value = {"x": np.arange(300_000.0)}
    sent: list[str] = []
    call = httpx.Client.request

    def counted(self: httpx.Client, method: str, url: Any, **given: Any) -> httpx.Response:
        sent.append(method)
        return call(self, method, url, **given)

    monkeypatch.setattr(httpx.Client, "request", counted)
    graph = gi.Graph({"y": gi.sum(x)})
    for puts in (1, 0):  # the graph goes with the job; another client asks about the array
        with connect(served.url) as client:
            sent.clear()
            client.submit(graph, value)
            client.submit(graph, value)
            assert sent.count("PUT") == puts
            assert sent.count("POST") == 2


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "kind"),
    [
        ("GET", "/v1/nothing", None, 404, "NotFound"),
        ("PATCH", "/v1/jobs", None, 405, "BadRequest"),
        ("GET", "/v1/jobs/0000000000000000000000000a", None, 404, "UnknownJob"),
        ("GET", "/v1/jobs/..%2f..%2fetc", None, 404, "NotFound"),
        ("GET", "/v1/jobs?limit=0", None, 422, "BadRequest"),
        ("GET", "/v1/blobs/" + "0" * 64, None, 404, "BlobMissing"),
        ("PUT", "/v1/blobs/" + "0" * 64, b"other bytes", 422, "BlobMismatch"),
        ("PUT", "/v1/blobs/nothing", b"bytes", 404, "NotFound"),
        ("POST", "/v1/jobs", b"no json", 422, "SpecError"),
        ("POST", "/v1/jobs", b"[" * 100_000, 422, "SpecError"),
        ("POST", "/v1/jobs", b'{"graph": "\\ud800"}', 422, "SpecError"),
        ("POST", "/v1/jobs", b" " * 9_000_000, 413, "LimitError"),
        ("POST", "/v1/plans", b'{"graph": "%s"}' % (b"0" * 64), 404, "BlobMissing"),
    ],
)
def test_what_is_wrong_is_a_problem_document(
    http: httpx.Client, method: str, path: str, content: bytes | None, status: int, kind: str
) -> None:
    headers = {"Content-Type": "application/json"} if content is not None else {}
    answer = http.request(method, path, content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    document = answer.json()
    assert document["status"] == status
    assert document["kinds"][0] == kind
    assert document["type"] == f"urn:gradfleet:{kind}"
    assert document["detail"]


def test_arrays_must_be_what_they_are_said_to_be(http: httpx.Client) -> None:
    x = gi.input("x", ("n",), "bool")
    graph = send(http, gi.wire.dump(gi.Graph({"y": gi.logical_not(x)})))
    feed = {"kind": "array", "blob": send(http, b"\x00\x01\x02"), "dtype": "bool", "shape": [3]}
    for change, kind in (({}, "FormatError"), ({"shape": [4]}, "SpecError"), ({"dtype": "int8"}, "DTypeError")):
        body = {"graph": graph, "feeds": {"x": {**feed, **change}}}
        assert http.post("/v1/jobs", json=body).json()["kinds"][0] == kind
    body = {"graph": feed["blob"], "feeds": {}}
    assert http.post("/v1/jobs", json=body).json()["kinds"][0] == "FormatError"


def test_small_values_come_with_the_job_and_are_what_they_are_named(http: httpx.Client) -> None:
    graph, value = gi.Graph({"y": gi.input("x", ("n",)) + 1.0}), np.arange(3.0)
    sent = [wire.dump(graph), value.tobytes()]
    names = [hashlib.sha256(data).hexdigest() for data in sent]
    feed = {"kind": "array", "blob": names[1], "dtype": "float64", "shape": [3]}
    texts = [base64.b64encode(data).decode() for data in sent]
    for wrong, kind in ((texts[0], "BlobMismatch"), ("no base 64!", "SpecError"), ("A" * 10**5, "LimitError")):
        body = {"graph": names[0], "feeds": {"x": feed}, "values": {names[0]: texts[0], names[1]: wrong}}
        refused = http.post("/v1/jobs", json=body)
        assert refused.status_code in (413, 422)
        assert refused.json()["kinds"][0] == kind
    missing = http.post("/v1/jobs", json={"graph": names[0], "feeds": {"x": feed}, "values": {names[0]: texts[0]}})
    assert missing.json()["kinds"][0] == "BlobMissing"
    body = {"graph": names[0], "feeds": {"x": feed}, "values": dict(zip(names, texts, strict=True))}
    id = http.post("/v1/jobs", json=body).json()["id"]
    http.get(f"/v1/jobs/{id}/events", timeout=WAIT)  # until it ends
    found = tensors.read(http.get(f"/v1/jobs/{id}/result").content)
    np.testing.assert_array_equal(found["y"], value + 1.0)
    assert http.head(f"/v1/blobs/{names[1]}").status_code == 404  # which it never was


@pytest.mark.parametrize(
    "url", ["/etc/passwd", "etc.npy", "file:///etc/passwd", "http://127.0.0.1:1/x.npy", "s3://b/x.npy"]
)
def test_the_server_s_files_are_not_read(served: Served, url: str) -> None:
    graph = gi.Graph({"y": gi.sum(gi.input("x", ("n",)))})
    with connect(served.url) as client:
        for ask in (client.submit, client.plan):
            with pytest.raises(gi.DatasetError, match="may not be read by this service"):
                ask(graph, {"x": gi.dataset(url)})


def test_allowed_prefixes_cannot_be_left(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for place in (tmp_path / "x.npy", tmp_path / "in" / "x.npy", tmp_path / "inner.npy"):
        np.save(place, np.arange(3.0))
    graph = gi.Graph({"y": gi.sum(gi.input("x", ("n",)))})
    with (
        serving(tmp_path / "jobs", "--workers", 0, "--allow-data", tmp_path / "in") as served,
        connect(served.url) as client,
    ):
        assert client.submit(graph, {"x": gi.dataset(tmp_path / "in" / "x.npy")}).result(WAIT)["y"] == 3.0
        for url in (f"{tmp_path}/in/../x.npy", f"{tmp_path}/inner.npy", f"simplecache::{tmp_path}/in/x.npy"):
            with pytest.raises(gi.DatasetError, match="may not be read"):
                client.submit(graph, {"x": gi.dataset(url)})


def test_a_page_in_a_browser_cannot_reach_it(http: httpx.Client) -> None:
    assert http.get("/v1/jobs", headers={"Host": "evil.example"}).status_code == 421
    assert http.post("/v1/jobs", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


def test_health_metrics_and_description(served: Served, http: httpx.Client) -> None:
    assert http.get("/healthz").json() == http.get("/readyz").json() == {"status": "ok"}
    with connect(served.url) as client:
        train(client, steps=1).result(WAIT)
    lines = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert float(lines['gradfleet_jobs{status="succeeded"}']) >= 1
    assert float(lines['gradfleet_requests_total{method="POST",route="/v1/jobs",status="201"}']) >= 1
    paths = http.get("/openapi.json").json()["paths"]
    for path in ("/v1/blobs/{digest}", "/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/events", "/v1/jobs/{id}/result"):
        assert path in paths
    body = paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"graph", "feeds", "carry", "batch", "epochs"} <= body["properties"].keys()


def test_a_server_that_is_not_there_is_told_of_after_some_tries() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        service = RemoteService(f"http://127.0.0.1:{nobody.getsockname()[1]}", patience=0.3)
        with pytest.raises(ServiceUnavailable, match="does not answer"):
            service.jobs()
    for url in ("localhost:8000", "ftp://x", "http://"):
        with pytest.raises(ServiceUnavailable, match="cannot be connected to"):
            connect(url)


def test_a_port_that_is_taken_is_told_of(served: Served, tmp_path: Path) -> None:
    done = gradfleet("serve", "--directory", tmp_path, "--port", served.port, "--workers", 0)
    assert done.returncode == 2
    assert f"port {served.port}" in done.stderr
    assert os.listdir(tmp_path) == []
