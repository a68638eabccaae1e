"""Who may do what: every route that the service describes is tried without a token, with a wrong scope, and by another user."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.client import connect
from graphir.errors import LimitError, QueueFull, Unauthorized
from scheduler.job.access import SCOPES, Access
from scheduler.job.store import Store
from scheduler.job.tables import StoreError
from tests.jobs import WAIT, until
from tests.served import Served, gradfleet, serving
from tests.test_service import logistic, train

PUBLIC = {"/healthz", "/readyz"}
OWN = re.compile(r"\{(id|digest)\}")
METHODS = ("get", "put", "post", "delete", "head", "patch")


def token(directory: Path, owner: str, *scopes: str) -> str:
    with Store(f"sqlite:///{directory / 'jobs.sqlite'}") as store:
        return Access(store).create(owner, scopes or ("read", "submit"), time.time(), None, os.urandom)


@dataclass(repr=False)
class World:
    """A service with two users, the first of which has a job, and a blob that only he knows."""

    served: Served
    ann: str
    bob: str
    scoped: dict[str, str]
    job: str
    blob: str
    routes: list[tuple[str, str]]

    def call(self, method: str, path: str, key: str | None, **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(method, self.served.url + path, headers=headers, timeout=WAIT, trust_env=False, **given)

    def path(self, template: str) -> str:
        return template.replace("{id}", self.job).replace("{digest}", self.blob)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("served")
    ann, bob = token(directory, "ann"), token(directory, "bob")
    scoped = {scope: token(directory, "ann", scope) for scope in SCOPES}
    with serving(directory, "--workers", 0) as served, connect(served.url, token=ann) as client:
        job = train(client, steps=2)
        job.result(WAIT)
        data = b"what only ann knows" * 100
        blob = hashlib.sha256(data).hexdigest()
        client.service._put(blob, memoryview(data))  # type: ignore[attr-defined]
        paths = httpx.get(f"{served.url}/openapi.json", timeout=WAIT, trust_env=False).json()["paths"]
        routes = [(method, path) for path, on in paths.items() for method in on]
        yield World(served, ann, bob, scoped, job.id, blob, routes)


def test_the_description_has_every_route(world: World) -> None:
    described = {(method.upper(), path) for method, path in world.routes}
    assert {
        ("HEAD", "/v1/blobs/{digest}"), ("PUT", "/v1/blobs/{digest}"), ("GET", "/v1/blobs/{digest}"),
        ("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("GET", "/v1/jobs/{id}"), ("DELETE", "/v1/jobs/{id}"),
        ("GET", "/v1/jobs/{id}/events"), ("GET", "/v1/jobs/{id}/result"), ("GET", "/v1/jobs/{id}/plan"),
        ("GET", "/v1/jobs/{id}/timeline"), ("POST", "/v1/plans"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"),
    } <= described  # fmt: skip
    assert all(method in METHODS for method, _ in world.routes)


def test_no_route_answers_without_a_token(world: World) -> None:
    wrong = [None, "x", "gf_0123456789abcdef_" + "0" * 64, world.ann[:-1] + ("0" if world.ann[-1] != "0" else "1")]
    for method, template in world.routes:
        if template in PUBLIC:
            assert world.call(method, template, None).status_code == 200
            continue
        for key in wrong:
            answer = world.call(method, world.path(template), key)
            assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, "Bearer"), (method, template)


def test_each_route_wants_one_scope(world: World) -> None:
    for method, template in world.routes:
        if template in PUBLIC:
            continue
        found = {
            scope: world.call(method, world.path(template), key).status_code for scope, key in world.scoped.items()
        }
        assert sorted(status == 403 for status in found.values()) == [False, True, True], (method, template, found)


def test_two_users_do_not_see_each_other(world: World) -> None:
    for method, template in world.routes:
        if not OWN.search(template):
            continue
        if (method, template) == ("put", "/v1/blobs/{digest}"):
            continue  # sending bytes needs no knowledge of another's
        unknown = template.replace("{id}", world.job[:-1] + "0").replace("{digest}", "0" * 64)
        theirs, none = (world.call(method, path, world.bob) for path in (world.path(template), unknown))
        assert theirs.status_code == none.status_code == 404, (method, template)
        hidden = [
            re.sub(f"{world.job}|{world.blob}|{world.job[:-1]}0|0{{64}}", "", each.text) for each in (theirs, none)
        ]
        assert hidden[0] == hidden[1], (method, template)
    assert world.call("get", "/v1/jobs", world.bob).json() == {"jobs": [], "next": None}
    assert world.call("get", f"/v1/jobs/{world.job}", world.ann).json()["status"] == "succeeded"


def test_knowing_the_name_of_a_blob_does_not_give_its_bytes(world: World) -> None:
    graph = gi.Graph({"y": gi.input("x", ("n", 8)) * 1.0})
    with connect(world.served.url, token=world.bob) as client:
        made = client.submit(graph, {"x": np.zeros((2000, 8))})
        made.result(WAIT)
        name = made.feeds()["x"]["blob"]
        spec = {"dtype": "float64", "shape": [2000, 8], "kind": "array"}
        digest, data = next(iter(client.service._graphs.values()))  # type: ignore[attr-defined]
        client.service._put(digest, memoryview(data))  # type: ignore[attr-defined]
        for blob, status in ((name, 201), (world.blob, 404)):
            body = {"graph": digest, "feeds": {"x": {**spec, "blob": blob}}}
            assert world.call("post", "/v1/jobs", world.bob, json=body).status_code == status
        key = client.submit(logistic(), _feeds(), key="one").id
    with connect(world.served.url, token=world.ann) as client:
        assert client.submit(logistic(), _feeds(), key="one").id != key


def test_who_did_what_is_written_down(world: World, tmp_path: Path) -> None:
    path = world.served.directory / "audit.jsonl"
    before = len(path.read_text().splitlines())
    odd = "x" * 500 + quote('\n\u2028"')
    calls = [
        ("put", "/v1/blobs/" + hashlib.sha256(b"audited").hexdigest(), world.ann, {"content": b"audited"}),
        ("get", f"/v1/jobs/{world.job}/result", world.ann, {}), ("get", f"/v1/jobs/{world.job}", world.ann, {}),
        ("delete", f"/v1/jobs/{world.job}", world.bob, {}), ("get", "/v1/jobs", None, {}),
        ("delete", f"/v1/jobs/{odd}", world.ann, {}), ("delete", f"/v1/jobs/{world.job}", world.scoped["read"], {}),
    ]  # fmt: skip
    for method, place, key, body in calls:
        world.call(method, place, key, **body)
    with connect(world.served.url, token=world.ann) as client:
        made = client.submit(logistic(), _feeds(), key="audited")
    until(lambda: made.id in path.read_text())  # it is written after the answer
    written = path.read_text()
    lines = [json.loads(line) for line in written.splitlines()[before:]]
    found = [(line["what"], line["who"], line["status"], line.get("id")) for line in lines if "PUT" not in line["what"]]
    assert found == [
        ("GET /v1/jobs/{id}/result", "ann", 200, world.job), ("DELETE /v1/jobs/{id}", "bob", 404, world.job),
        ("GET /v1/jobs", None, 401, None), ("DELETE /v1/jobs/{id}", "ann", 404, ("x" * 500)[:200]),
        ("DELETE /v1/jobs/{id}", "ann", 403, world.job), ("POST /v1/jobs", "ann", 201, made.id),
    ]  # fmt: skip
    assert lines[0]["digest"] == hashlib.sha256(b"audited").hexdigest()
    assert {line["where"] for line in lines} == {"127.0.0.1"}
    assert lines[0]["token"] == world.ann.split("_")[1]
    assert abs(lines[0]["time"] - time.time()) < 600
    assert all(key.split("_")[2] not in written for key in (world.ann, world.bob))
    assert path.stat().st_mode & 0o077 == 0
    path.rename(world.served.directory / "audit.1")  # as those do who put logs away
    world.call("get", "/v1/jobs", None)
    until(path.exists)
    assert len(path.read_text().splitlines()) == 1
    gradfleet("token", "create", "dora", "--directory", tmp_path)
    gradfleet("token", "revoke", "dora", "--directory", tmp_path)
    told = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["what"], line.get("owner") or line.get("which")) for line in told] == [
        ("token create", "dora"), ("token revoke", "dora"),
    ]  # fmt: skip


def _feeds() -> dict[str, Any]:
    return {"x": np.ones((3, 8)), "t": np.ones(3), "w": np.zeros(8), "b": 0.0}


def test_a_client_without_a_token_is_told(world: World) -> None:
    for key in (None, "nonsense"):
        with connect(world.served.url, token=key) as client, pytest.raises(Unauthorized, match="token"):
            client.jobs()


def test_tokens_are_listed_revoked_and_nowhere_kept(tmp_path: Path) -> None:
    made = gradfleet("token", "create", "carol", "--directory", tmp_path).stdout.strip()
    with serving(tmp_path, "--workers", 0) as served, connect(served.url, token=made) as client:
        assert client.jobs() == []
        listed = gradfleet("token", "list", "--directory", tmp_path, "--json")
        (fact,) = json.loads(listed.stdout)
        assert (fact["owner"], fact["scopes"], fact["valid"]) == ("carol", ["read", "submit"], True)
        assert made not in listed.stdout
        secret = made.split("_")[-1]
        assert all(secret.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert gradfleet("token", "revoke", "carol", "--directory", tmp_path).returncode == 0
        with pytest.raises(Unauthorized, match="revoked"):
            client.jobs()
        with connect(served.url) as other, pytest.raises(Unauthorized):  # it does not become open again
            other.jobs()
    assert gradfleet("token", "revoke", "carol", "--directory", tmp_path).returncode == 2


def test_it_is_not_bound_where_others_can_reach_it_without_tokens(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        done = gradfleet("serve", "--host", host, "--port", 0, "--workers", 0, "--directory", tmp_path)
        assert done.returncode == 2
        assert "there are no tokens" in done.stderr


def test_quotas_are_of_one_user(tmp_path: Path) -> None:
    keys = [token(tmp_path, name) for name in ("ann", "bob")]
    rules = ("--quota-jobs", 2, "--quota-bytes", 200_000)
    with serving(tmp_path, "--workers", 0, *rules) as served:
        for key in keys:
            with connect(served.url, token=key) as client:
                jobs = [train(client, steps=10**6) for _ in range(2)]
                with pytest.raises(QueueFull, match="you have 2 jobs"):
                    train(client)
                for job in jobs:
                    job.cancel()
                    list(job.events())
                with pytest.raises(LimitError):
                    client.submit(logistic(), {**_feeds(), "x": np.ones((10_000, 8)), "t": np.ones(10_000)})
                train(client, steps=1).result(WAIT)


def test_nodes_and_memory_have_quotas(tmp_path: Path) -> None:
    key = token(tmp_path, "ann")
    x = gi.input("x", ("n", "m"))
    with (
        serving(tmp_path, "--workers", 0, "--quota-nodes", 20, "--memory", 4 << 20) as served,
        connect(served.url, token=key) as client,
    ):
        small, long = x * 2.0, x
        for _ in range(20):
            long = long * 2.0 + 1.0
        with pytest.raises(LimitError, match="nodes"):
            client.submit(gi.Graph({"y": long}), {"x": np.ones((2, 2))})
        with pytest.raises(LimitError, match="memory|bytes"):
            client.submit(gi.Graph({"y": gi.linalg.inv(x @ x.T)}), {"x": np.ones((1000, 1000))})
        assert client.submit(gi.Graph({"y": small}), {"x": np.ones((2, 2))}).result(WAIT)["y"].sum() == 8.0


def test_tokens_expire(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as store:
        access = Access(store)
        made = access.create("ann", ["read"], 100.0, 10.0, lambda count: b"\x07" * count)
        assert access.check(made, 109.0).owner == "ann"
        with pytest.raises(Unauthorized, match="expired"):
            access.check(made, 110.0)
        for owner, scopes in (("", ["read"]), ("a b", ["read"]), ("ann", []), ("ann", ["all"])):
            with pytest.raises(StoreError):
                access.create(owner, scopes, 0.0, None, lambda count: bytes(count))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "graph", "feeds", "fetch", "cut", "chunk", "carry", "steps", "batch", "shuffle", "parts", "epochs", "backend",
    "checkpoint_every", "deadline", "retries", "priority", "name", "key", "workers",
]  # fmt: skip


@pytest.mark.parametrize("route", ["/v1/jobs", "/v1/plans"])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_hostile_descriptions_are_refused_with_a_problem(world: World, route: str, data: st.DataObject) -> None:
    body: Any = data.draw(st.binary() | JSON | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
    if isinstance(body, dict) and data.draw(st.booleans()):
        body = {"graph": world.blob, **body}  # a blob that is there, and no graph
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = world.call("post", route, world.ann, content=content)
    assert answer.status_code == 415
    headers = {"Authorization": f"Bearer {world.ann}", "Content-Type": "application/json"}
    answer = httpx.post(world.served.url + route, content=content, headers=headers, timeout=WAIT, trust_env=False)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["detail"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_hostile_paths_queries_and_headers_never_fail_it(world: World, data: st.DataObject) -> None:
    method, template = data.draw(st.sampled_from([route for route in world.routes if route[1] not in PUBLIC]))
    odd = st.text(st.characters(codec="utf-8"), max_size=80).map(lambda text: quote(text, safe=""))
    path = OWN.sub(lambda _: data.draw(odd | st.just(world.job) | st.just(world.blob)), template)
    if method == "delete" or path.count("/") != template.count("/") or "?" in path:
        return
    query = data.draw(
        st.dictionaries(st.sampled_from(["limit", "before", "after", "wait"]), st.text(max_size=20), max_size=3)
    )
    if "wait" in query:
        query["wait"] = query["wait"][:1]
    last = data.draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20))
    headers = {
        "Authorization": f"Bearer {world.ann}", "Accept": "application/json", "Range": f"bytes={last}".strip(),
        "Idempotency-Key": last.strip(), "Last-Event-ID": last.strip(),
    }  # fmt: skip
    answer = httpx.request(
        method, world.served.url + path, params=query, headers=headers, timeout=WAIT, trust_env=False
    )
    assert answer.status_code < 500, (method, path, query, last, answer.text)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_graphs_are_refused_with_a_problem(world: World, data: st.DataObject) -> None:
    whole = bytearray(gi.wire.dump(logistic()))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    sent = bytes(whole[: data.draw(st.integers(0, len(whole)))]) if data.draw(st.booleans()) else bytes(whole)
    digest = hashlib.sha256(sent).hexdigest()
    assert world.call("put", f"/v1/blobs/{digest}", world.ann, content=sent).status_code in (201, 204)
    answer = world.call("post", "/v1/plans", world.ann, json={"graph": digest, "feeds": {}})
    assert 400 <= answer.status_code < 500, answer.text
