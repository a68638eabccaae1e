"""What surrounds every route: errors become problem documents, answers are counted."""

import logging
import time
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graphir.errors import GraphError
from scheduler.api.metrics import Metrics
from scheduler.api.problems import document, problem

_LOG = logging.getLogger(__name__)


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
    """Counts answers and logs defects."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "none")  # not what was asked for, of which there is no end
            method = scope["method"] if route is not None else "none"
            self._metrics.answered(method, path, status, time.perf_counter() - begun)
