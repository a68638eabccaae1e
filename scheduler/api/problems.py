"""Errors as problem documents (RFC 9457), one status for each class.

`kinds` names the class and its bases, so that a client raises the same error, or the nearest base that it knows.
"""

import json
from collections.abc import Mapping

from starlette.responses import Response

from graphir.errors import (
    DatasetUnavailable,
    GraphError,
    JobCancelled,
    JobFailed,
    LimitError,
    QueueFull,
    ServiceUnavailable,
    Unauthorized,
)
from scheduler.job.blobs import BlobCorrupt, BlobMissing, BlobWriteFailed
from scheduler.job.naming import ValueGone
from scheduler.job.store import KeyReused, UnknownJob
from scheduler.job.tables import StoreError
from scheduler.job.uploads import UploadGap, UploadShort

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = "1"


class Forbidden(Unauthorized):
    """The caller's token does not have the scope that is needed."""


class NotFound(GraphError):
    """There is nothing of this name that the caller may see."""


class NotReady(GraphError):
    """The job has not come so far."""


class BadRequest(GraphError):
    """The request cannot be read."""


class RequestRefused(GraphError):
    """The method, the media type or the host does not fit; `status` says which."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


STATUS: Mapping[type[GraphError], int] = {
    BadRequest: 400,
    Forbidden: 403,
    Unauthorized: 401,
    NotFound: 404,
    UnknownJob: 404,
    BlobMissing: 404,
    NotReady: 409,
    JobCancelled: 409,
    JobFailed: 409,
    UploadGap: 409,
    UploadShort: 400,
    ValueGone: 503,
    KeyReused: 422,
    QueueFull: 429,
    LimitError: 413,
    BlobCorrupt: 500,
    BlobWriteFailed: 507,
    DatasetUnavailable: 503,
    ServiceUnavailable: 503,
    StoreError: 500,
    GraphError: 422,
}
"""The nearest class of an error says its status: what is not told apart is a description that cannot be processed."""


def status_of(error: GraphError) -> int:
    """The status of the nearest class."""
    if isinstance(error, RequestRefused):
        return error.status
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(error: GraphError) -> Response:
    """The answer that tells of an error."""
    names = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, GraphError)]
    answer = document(status_of(error), names, str(error), (type(error).__doc__ or "").split("\n")[0])
    answer.headers.update(getattr(error, "headers", {}))
    return answer


def document(status: int, kinds: list[str], detail: str, title: str) -> Response:
    """A problem document. Text is ASCII with escapes, since what came from outside may not be text at all."""
    body = {"type": f"urn:gradfleet:{kinds[0]}", "title": title, "status": status, "detail": detail, "kinds": kinds}
    headers = {"Cache-Control": "no-store"}
    if status in (429, 503):
        headers["Retry-After"] = RETRY_SECONDS
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(json.dumps(body), status, headers, MEDIA_TYPE)
