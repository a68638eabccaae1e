"""What surrounds every route: errors become problem documents, answers are counted."""

import logging
import time
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graphir.errors import GraphError
from scheduler.api.audit import Audit
from scheduler.api.metrics import Metrics
from scheduler.api.problems import document, problem
from scheduler.telemetry import span

_LOG = logging.getLogger("gradfleet.requests")
POLLED = ("/healthz", "/readyz", "/metrics")
"""Routes that machines ask all the time; their answers are logged at level debug only."""


def add_handlers(app: FastAPI) -> None:
    """Answer errors of all kinds with problem documents."""

    @app.exception_handler(GraphError)
    def ours(request: Request, error: GraphError) -> Response:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        kinds = ["BadRequest", "GraphError"]
        return document(
            422, kinds, f"{where[:200]}: {first['msg']}", "The request does not have the form it should have."
        )

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        said = f"{request.method[:20]} {request.url.path[:200]!r}: {error.detail}; /openapi.json lists what there is"
        kinds = ["NotFound" if error.status_code == 404 else "BadRequest", "GraphError"]
        answer = document(error.status_code, kinds, said, HTTPStatus(error.status_code).phrase)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def defect(request: Request, error: Exception) -> Response:
        return document(
            500, ["Defect", "GraphError"], "the service failed; its log says where. Please report it", "A defect."
        )


class Shell:
    """Counts answers, logs them, writes down who did what, and puts a span around each."""

    def __init__(self, app: ASGIApp, metrics: Metrics, audit: Audit) -> None:
        self._app, self._metrics, self._audit = app, metrics, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with span(f"HTTP {scope['method']}", _trace_headers(scope)) as made:
            begun, status = time.perf_counter(), 500

            async def counted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self._app(scope, receive, counted)
            finally:
                self._tell(scope, status, time.perf_counter() - begun, made)

    def _tell(self, scope: Scope, status: int, seconds: float, made: Any) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "none")  # not what was asked for, of which there is no end
        method = scope["method"] if route is not None else "none"
        self._metrics.answered(method, path, status, seconds)
        self._audit.answered(scope, status)
        job = scope.get("path_params", {}).get("id")
        about = {} if job is None else {"job": job[:64]}
        level = logging.DEBUG if path in POLLED else logging.INFO
        facts = {"method": method, "route": path, "status": status, "seconds": round(seconds, 6), **about}
        _LOG.log(level, "answered", extra=facts)
        if made is not None:
            made.update_name(f"{method} {path}")
            made.set_attribute("http.request.method", method)
            made.set_attribute("http.route", path)
            made.set_attribute("http.response.status_code", status)
            made.set_attributes({f"gradfleet.{name}": value for name, value in about.items()})


def _trace_headers(scope: Scope) -> dict[str, str]:
    """Those by which a caller tells of his trace (W3C Trace Context)."""
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name.startswith(b"trace")}
