"""The description of the HTTP interface is true: requests made from it by schemathesis, and every route, error and header in it."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import graphir as gi
from scheduler.api.app import create_app
from scheduler.api.desk import Desk
from scheduler.api.rules import Rules
from scheduler.job.access import SCOPES, Access
from scheduler.local import EmbeddedService

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance,
]  # fmt: skip


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, str, EmbeddedService]]:
    directory = tmp_path_factory.mktemp("served")
    service = EmbeddedService(directory=directory, workers=0)
    token = Access(service.store).create("ann", SCOPES, time.time(), None, os.urandom)
    yield create_app(Desk(service, Rules(), time.time), close=lambda: None), token, service
    service.close()


def test_what_is_described_holds(app: tuple[FastAPI, str, EmbeddedService]) -> None:
    made, token, service = app
    schema = schemathesis.openapi.from_asgi("/openapi.json", made)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 15
    x = gi.input("x", ("n",))
    job = service.submit(gi.Graph({"y": gi.sum(x)}), {"x": [1.0, 2.0]}, {}, owner="ann")
    answered: dict[str, set[int]] = {}

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        operation = data.draw(st.sampled_from(operations))
        case = data.draw(operation.as_strategy())
        if "id" in (case.path_parameters or {}) and data.draw(st.booleans()):
            case.path_parameters["id"] = job
        if "wait" in (case.query or {}):
            case.query["wait"] = 0
        headers = {"Authorization": f"Bearer {token}"} if data.draw(st.integers(0, 9)) else {}
        answer = case.call(headers=headers)
        case.validate_response(answer, checks=CHECKS)
        answered.setdefault(operation.label, set()).add(answer.status_code)

    ask()
    assert len(answered) == len(operations)
    assert {401, 404, 200} <= set().union(*answered.values())


def test_every_route_says_what_it_needs_and_gives(app: tuple[FastAPI, str, EmbeddedService]) -> None:
    paths: dict[str, dict[str, Any]] = app[0].openapi()["paths"]
    public = {"/healthz", "/readyz"}
    for path, operations in paths.items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            assert operation["summary"], place
            assert any(status.startswith("2") for status in operation["responses"]), place
            if path not in public:
                assert operation["security"], place
                problem = operation["responses"]["4XX"]["content"]["application/problem+json"]["schema"]
                assert {"type", "title", "status", "detail", "kinds"} <= set(problem["properties"]), place
            if method in ("put", "post"):
                assert operation["requestBody"]["required"], place
    assert "Upload-Offset" in paths["/v1/blobs/{digest}"]["head"]["responses"]["404"]["headers"]
    assert "WWW-Authenticate" in paths["/v1/jobs"]["get"]["responses"]["401"]["headers"]
    for status in ("429", "503"):
        assert "Retry-After" in paths["/v1/jobs"]["post"]["responses"][status]["headers"]
    named = {each["name"] for each in paths["/v1/blobs/{digest}"]["put"]["parameters"]}
    assert {"digest", "Content-Range"} <= named
    assert "Range" in {each["name"] for each in paths["/v1/blobs/{digest}"]["get"]["parameters"]}


def test_routes_that_are_not_described_are_those_of_the_page(app: tuple[FastAPI, str, EmbeddedService]) -> None:
    described = set(app[0].openapi()["paths"])
    hidden = {route.path for route in app[0].routes if hasattr(route, "path")} - described
    assert all(not path.startswith("/v1") for path in hidden)
    assert "/openapi.json" in hidden
