"""What those on call see of a real service: lines of JSON with job ids, OpenTelemetry spans, figures, health."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

import graphir as gi
from graphir.client import connect
from scheduler.api import tracing
from tests import served as running
from tests.postgres import Postgres
from tests.served import Served, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        spans: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                found = ExportTraceServiceRequest.FromString(body)
                spans.extend(s for r in found.resource_spans for scope in r.scope_spans for s in scope.spans)
                resources.extend(found.resource_spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.spans, self.resources = spans, resources = spans, []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a service did that ran two jobs, one of which failed, and was stopped."""

    done: str
    failed: str
    lines: list[dict[str, Any]]
    spans: list[Any]
    resources: list[Any]
    figures: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    collector, patch = Collector(), pytest.MonkeyPatch()
    patch.setitem(running.ENVIRONMENT, "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    x, at = gi.input("x", ("n",)), gi.input("at", (2,), "int64")
    with serving(tmp_path_factory.mktemp("served"), "--workers", 0) as served, connect(served.url) as client:
        done = client.submit(gi.Graph({"sum": gi.sum(x**2)}), {"x": np.arange(9.0)}, chunk={"n": 4})
        assert done.result(60)["sum"] == 204.0
        failed = client.submit(gi.Graph({"taken": gi.take(x, at)}), {"x": np.ones(3), "at": np.array([0, 9])})
        assert [event["type"] for event in failed.events()][-1] == "task_failed"
        header = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        assert httpx.get(f"{served.url}/v1/jobs/{done.id}", headers=header).status_code == 200
        assert httpx.get(f"{served.url}/v1/jobs/none").status_code == 404
        assert httpx.get(f"{served.url}/healthz").status_code == 200
        figures = httpx.get(f"{served.url}/metrics").text
        assert served.stop() == 0
        served.process.wait(60)
        said = served.said_to_the_end()
    patch.undo()
    lines = [json.loads(line) for line in said if not line.startswith("listening on")]
    yield Seen(done.id, failed.id, lines, collector.spans, collector.resources, figures)
    collector.shutdown()
    collector.server_close()


def test_each_line_is_json_with_time_level_and_what_happened(seen: Seen) -> None:
    assert len(seen.lines) > 6
    for line in seen.lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
        assert {"event", "level", "logger"} <= line.keys()


def test_lines_about_a_job_have_its_id(seen: Seen) -> None:
    told = {id: [line for line in seen.lines if line.get("job") == id] for id in (seen.done, seen.failed)}
    kinds = {id: [line["event"] for line in lines if line["logger"] == "gradfleet.jobs"] for id, lines in told.items()}
    for lines in kinds.values():
        lines.remove("accepted")  # by another thread, so before or after others
    assert kinds[seen.done] == ["started", "assembled", "finished", "ended"]
    assert kinds[seen.failed] == ["started", "assembled", "task_failed", "ended"]
    (failure,) = [line for line in told[seen.failed] if line["event"] == "task_failed"]
    assert failure["level"] == "warning"
    assert "9" in failure["error_message"]
    assert [line["status"] for line in told[seen.failed] if line["event"] == "ended"] == ["failed"]
    requests = [line for line in told[seen.done] if line["event"] == "answered"]
    assert {line["route"] for line in requests} >= {"/v1/jobs/{id}", "/v1/jobs/{id}/result"}


def test_what_machines_ask_all_the_time_is_not_logged(seen: Seen) -> None:
    routes = {line.get("route") for line in seen.lines}
    assert "/v1/jobs" in routes
    assert not routes & {"/healthz", "/metrics", "/readyz"}


def test_a_span_for_each_request_and_each_job_with_its_stages(seen: Seen) -> None:
    jobs = {attributes(span)["gradfleet.job"]: span for span in seen.spans if span.name == "job"}
    assert jobs.keys() == {seen.done, seen.failed}
    inside = [span for span in seen.spans if span.parent_span_id == jobs[seen.done].span_id]
    assert {"plan", "assemble", "RunStep"} <= {span.name for span in inside}
    for span in inside:
        assert attributes(span)["gradfleet.job"] == seen.done
        assert jobs[seen.done].start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= jobs[seen.done].end_time_unix_nano
    submitted = [span for span in seen.spans if span.name == "POST /v1/jobs"]
    assert [attributes(span)["http.response.status_code"] for span in submitted] == [201, 201]
    assert {"service.name"} <= {each.key for found in seen.resources for each in found.resource.attributes}


def test_a_callers_trace_goes_on(seen: Seen) -> None:
    (span,) = [span for span in seen.spans if span.trace_id.hex() == TRACE]
    assert span.name == "GET /v1/jobs/{id}"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert attributes(span)["gradfleet.job"] == seen.done


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_figures_are_named_and_typed_as_prometheus_asks(seen: Seen) -> None:
    families = list(text_string_to_metric_families(seen.figures))
    names = re.findall(r"^# TYPE (\S+) (\S+)$", seen.figures, re.MULTILINE)
    assert len(families) == len(names) == len({name for name, _ in names}) > 8
    for family, (name, kind) in zip(families, names, strict=True):
        assert family.type == kind
        assert family.documentation, name
        assert name.endswith("_total") is (kind == "counter")
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)(_|$)", name)
        kinds = {
            "counter": Counter,
            "gauge": Gauge,
            "histogram": Histogram,
        }  # whose own rules refuse bad names and labels
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        kinds[kind](name, family.documentation, sorted(labels), registry=CollectorRegistry())
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
    assert samples["gradfleet_jobs", ("status", "succeeded")] == 1
    assert samples["gradfleet_jobs", ("status", "failed")] == 1
    assert samples["gradfleet_job_events_total", ("type", "finished")] == 1
    assert samples["gradfleet_requests_total", ("method", "POST"), ("route", "/v1/jobs"), ("status", "201")] == 2
    assert {samples["gradfleet_usable", ("part", part)] for part in ("database", "storage", "ray")} == {1}
    assert samples["process_resident_memory_bytes",] > 2**20
    times = [value for (name, *_), value in samples.items() if name == "gradfleet_request_duration_seconds_bucket"]
    assert times == sorted(times)
    assert times[-1] == samples["gradfleet_request_duration_seconds_count",] > 0


def test_ready_says_which_part_cannot_be_used(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", 0) as served:
        assert httpx.get(f"{served.url}/readyz").json()["status"] == "ok"
        incoming = tmp_path / "blobs" / "incoming"
        incoming.rename(tmp_path / "away")
        incoming.write_text("a file where a folder should be")
        answer = until_it_is(served, 503)
        assert answer.headers["content-type"] == "application/problem+json"
        assert re.match("storage cannot be used: ", answer.json()["detail"])
        assert "database" not in answer.json()["detail"]
        usable = httpx.get(f"{served.url}/metrics").text
        assert 'gradfleet_usable{part="storage"} 0\n' in usable
        assert 'gradfleet_usable{part="database"} 1\n' in usable
        assert httpx.get(f"{served.url}/healthz").status_code == 200  # the process is well
        incoming.unlink()
        (tmp_path / "away").rename(incoming)
        until_it_is(served, 200)


def test_a_database_that_is_away_is_told_and_comes_back(tmp_path: Path, postgres: Postgres) -> None:
    with serving(tmp_path, "--role", "api", "--database", postgres.fresh()) as served:
        until_it_is(served, 200)
        postgres.kill()
        try:
            assert "database cannot be used: " in until_it_is(served, 503).json()["detail"]
            assert httpx.get(f"{served.url}/healthz").status_code == 200
        finally:
            postgres.start()
        until_it_is(served, 200)


def until_it_is(served: Served, status: int) -> httpx.Response:
    for _ in range(600):
        answer = httpx.get(f"{served.url}/readyz")
        if answer.status_code == status:
            return answer
        threading.Event().wait(0.1)
    raise AssertionError(f"it is {answer.status_code}: {answer.text}")


def test_a_ray_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with socket.socket() as held:  # bound, so that it is nobody else's, and nobody listens there
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with serving(tmp_path, "--workers", 1, "--ray-address", address) as served:
            assert (
                f"ray cannot be used: ServiceUnavailable: no Ray answers at {address}" in until_it_is(served, 503).text
            )


def test_no_exporter_is_loaded_unless_it_is_asked_for() -> None:
    script = """
import sys
from scheduler.api import app, tracing
tracing.start({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
print([name for name in sys.modules if name.startswith("opentelemetry.exporter.otlp")])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=running.ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_endpoint_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(gi.MissingExtraError, match="gradfleet\\[otel\\]"):
        tracing.start({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})


def test_the_document_names_the_figures_and_no_others(seen: Seen) -> None:
    told = (running.ROOT / "docs" / "observing.md").read_text()
    there = {name for name, _ in re.findall(r"^# TYPE (\S+) (\S+)$", seen.figures, re.MULTILINE)}
    named = set(re.findall(r"`?(gradfleet_[a-z_]+)", told))
    assert named == {name for name in there if name.startswith("gradfleet_")}
