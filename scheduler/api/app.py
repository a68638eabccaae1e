"""The routes. Each says who may call, reads what it is given within bounds, and leaves the rest to the desk."""

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from graphir.errors import LimitError
from scheduler.api import schemas
from scheduler.api.audit import FILE, Audit
from scheduler.api.auth import Caller, Door
from scheduler.api.desk import Desk, plan_facts
from scheduler.api.health import health_routes
from scheduler.api.metrics import Metrics
from scheduler.api.pages.routes import pages
from scheduler.api.problems import BadRequest, RequestRefused
from scheduler.api.shell import Shell, add_handlers
from scheduler.api.stream import Watch
from scheduler.job.seen import Record
from scheduler.job.spec import MAX_SPEC_BYTES, SpecError, parse
from scheduler.job.store import MAX_PAGE

_LOG = logging.getLogger("gradfleet.jobs")
T = TypeVar("T")
MAX_WAIT = 30.0
UPLOADS = 16
"""Uploads at one time; others wait, so that slow senders do not take the threads that answer everybody."""
SUBMISSIONS = 2
"""Submissions that are looked at at one time, in the order in which they came. More threads would not end sooner, since
they compute, and would keep the loop that answers waiting."""
STALL_SECONDS = 60.0
BLOCK = 1 << 20
_OFFSET = {"Upload-Offset": {"description": "bytes that have come", "schema": {"type": "integer"}}}
_PART_MEANS = "`bytes FIRST-LAST/TOTAL`: the rest of an upload that was cut, from Upload-Offset on"
_PART = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


_RANGES: dict[int | str, dict[str, Any]] = {
    200: {"content": _BYTES, "headers": {"ETag": {"schema": {"type": "string"}, "description": "the digest"}}},
    206: {"description": "the part that was asked for", "content": _BYTES},
}


class _File(FileResponse):
    chunk_size = BLOCK


class _Places:
    """Threads for so many calls at one time; others wait, first come first served."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._limiter: anyio.CapacityLimiter | None = None  # belongs to the running loop

    async def run(self, call: Callable[[], T]) -> T:
        """What the call gives, to its end even if nobody waits for it any more."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._count)
        return await anyio.to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=False)


def create_app(desk: Desk, *, close: Callable[[], None], accepts: bool = True) -> FastAPI:
    """The application. close: what ends the service when the application is shut down. accepts: else only its health is told."""
    watch, metrics = Watch(desk.service), Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watch.start()
        yield
        watch.close()
        await run_in_threadpool(close)

    app = FastAPI(
        title="Gradfleet", version=version("gradfleet"), lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Jobs of symbolic tensor graphs. Errors are problem documents (RFC 9457).",
    )  # fmt: skip
    app.state.watch = watch
    add_handlers(app)
    app.add_middleware(Shell, metrics=metrics, audit=Audit(desk.service.directory / FILE))
    door = Door(desk.access)
    for routes in (_blobs, _jobs, _outcomes, _plans) if accepts else ():
        app.include_router(routes(desk, door), responses=PROBLEMS)
    if accepts:
        app.include_router(_watching(desk, door, watch), responses=PROBLEMS)
        app.include_router(pages(desk, door))
    app.include_router(health_routes(desk, door, watch, metrics, PROBLEMS))
    return app


def _problem(said: str, **headers: str) -> dict[str, Any]:
    """How an error is described."""
    told = {
        name.replace("_", "-"): {"description": means, "schema": {"type": "string"}} for name, means in headers.items()
    }
    content = {"application/problem+json": {"schema": schemas.Problem.model_json_schema()}}
    return {"description": said, "content": content, **({"headers": told} if told else {})}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "401": _problem("no token, or one that is not valid", WWW_Authenticate="how to say who calls: Bearer"),
    "429": _problem("too much is waiting", Retry_After="seconds"),
    "503": _problem("it may work later", Retry_After="seconds"),
    "4XX": _problem("what was asked cannot be done; the document says why and what to do"),
    "5XX": _problem("the service cannot do it now"),
}


def _blobs(desk: Desk, door: Door) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["blobs"])
    reader, writer = Depends(door.needs("read")), Depends(door.needs("submit"))
    uploads = _Places(UPLOADS)

    @router.head(
        "/blobs/{digest}", summary="Whether you have sent this blob; if it was cut, 404 says in Upload-Offset how far it came",
        responses={404: {**PROBLEMS["4XX"], "headers": _OFFSET}},
    )  # fmt: skip
    def has(digest: str, caller: Annotated[Caller, reader]) -> Response:
        return Response(headers={"Content-Length": str(desk.has(caller.owner, digest)), "ETag": f'"{digest}"'})

    @router.get("/blobs/{digest}", summary="The bytes of a blob", response_class=_File, responses=_RANGES)
    def get(
        digest: str,
        caller: Annotated[Caller, reader],
        part: Annotated[str | None, Header(alias="Range", description="a part of it, as `bytes=FIRST-LAST`")] = None,
    ) -> Response:
        return _file(desk.blob(caller.owner, digest), digest)

    @router.put(
        "/blobs/{digest}", summary="Send the bytes that have this SHA-256", status_code=201,
        responses={
            204: {"description": "you had sent them already"},
            409: {**PROBLEMS["4XX"], "description": "so many bytes have not come yet", "headers": _OFFSET},
        },
        openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
    )  # fmt: skip
    async def put(
        digest: str,
        caller: Annotated[Caller, writer],
        request: Request,
        part: Annotated[str | None, Header(alias="Content-Range", max_length=100, description=_PART_MEANS)] = None,
    ) -> Response:
        begin, total = _part(part)
        receive = partial(desk.put, caller.owner, digest, _from_thread(_blocks(request)), begin=begin, total=total)
        new = await uploads.run(receive)
        return Response(status_code=201 if new else 204)

    return router


def _jobs(desk: Desk, door: Door) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["jobs"])
    reader, writer = Depends(door.needs("read")), Depends(door.needs("submit"))
    places = _Places(SUBMISSIONS)

    @router.post("/jobs", status_code=201, summary="Submit a job", openapi_extra=_body(schemas.Submission))
    async def submit(
        caller: Annotated[Caller, writer],
        body: Annotated[bytes, Depends(_json_body)],
        request: Request,
        key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=256)] = None,
    ) -> schemas.Accepted:
        id = await places.run(partial(_accepted, desk, caller.owner, body, key))
        request.state.audit = {"id": id}
        return schemas.Accepted(id=id)

    @router.get("/jobs", summary="Your jobs, the latest first")
    def jobs(
        caller: Annotated[Caller, reader],
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        before: Annotated[str | None, Query(max_length=64)] = None,
    ) -> schemas.JobList:
        found = desk.jobs(caller.owner, limit, before)
        follows = found[-1].id if len(found) == limit else None
        return schemas.JobList(jobs=[_view(record) for record in found], next=follows)

    @router.get("/jobs/{id}", summary="Where a job is")
    def job(id: str, caller: Annotated[Caller, reader]) -> schemas.JobView:
        return _view(desk.record(caller.owner, id))

    @router.delete("/jobs/{id}", summary="Stop a job; one that has ended stays as it is")
    def cancel(id: str, caller: Annotated[Caller, writer]) -> schemas.JobView:
        desk.service.cancel(desk.record(caller.owner, id).id)
        return _view(desk.record(caller.owner, id))

    return router


def _accepted(desk: Desk, owner: str, body: bytes, key: str | None) -> str:
    """The id of a job that is described by a body, and perhaps a key in a header."""
    asked = parse(body, schemas.Submission)
    if key is not None:
        if asked.key not in (None, key):
            raise SpecError("the header Idempotency-Key and the field key differ; send one of them")
        asked = asked.model_copy(update={"key": parse({"graph": asked.graph, "key": key}, schemas.Submission).key})
    id = desk.submit(owner, asked)
    _LOG.info("accepted", extra={"job": id, "owner": owner})
    return id


def _outcomes(desk: Desk, door: Door) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["jobs"])
    reader = Depends(door.needs("read"))

    @router.get("/jobs/{id}/feeds", summary="What the inputs of a job were given")
    def feeds(id: str, caller: Annotated[Caller, reader]) -> dict[str, Any]:
        return desk.service.feeds(desk.record(caller.owner, id).id)

    @router.get(
        "/jobs/{id}/result", summary="The outputs of a job that succeeded, as a safetensors file",
        response_class=_File, responses=_RANGES,
    )  # fmt: skip
    def result(id: str, caller: Annotated[Caller, reader]) -> Response:
        found = desk.result(caller.owner, id)
        if isinstance(found, Path):
            return _file(found, str(desk.record(caller.owner, id).job.result))
        return Response(found, media_type="application/octet-stream")

    @router.get("/jobs/{id}/timeline", summary="The steps of a job so far as a Chrome trace")
    def timeline(id: str, caller: Annotated[Caller, reader]) -> dict[str, Any]:
        return desk.timeline(caller.owner, id)

    return router


def _watching(desk: Desk, door: Door, watch: Watch) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["jobs"])
    reader = Depends(door.needs("read"))

    @router.get(
        "/jobs/{id}/events", summary="What happens to a job: server-sent events, or JSON for those who accept only that",
        response_class=StreamingResponse,
        responses={200: {"model": schemas.EventList, "content": {"text/event-stream": {"schema": {"type": "object"}}}}},
    )  # fmt: skip
    async def events(
        id: str,
        caller: Annotated[Caller, reader],
        accept: Annotated[str, Header()] = "text/event-stream",
        last: Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=2**31 - 1)] = None,
        after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
        wait: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0,
    ) -> Response:
        record = await run_in_threadpool(desk.record, caller.owner, id)
        watch.check_room()
        if accept.split(";")[0].strip() == "application/json":
            return JSONResponse({"events": await watch.some(record.id, record.head, after, min(wait, MAX_WAIT))})
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        began = after if last is None else last
        return StreamingResponse(
            watch.stream(record.id, record.head, began), media_type="text/event-stream", headers=headers
        )

    return router


def _plans(desk: Desk, door: Door) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["plans"])
    reader, writer = Depends(door.needs("read")), Depends(door.needs("submit"))

    @router.get("/jobs/{id}/plan", summary="How a job is cut and run, and why")
    def job_plan(id: str, caller: Annotated[Caller, reader]) -> schemas.PlanView:
        return schemas.PlanView(**plan_facts(desk.service.job_plan(desk.record(caller.owner, id).id)))

    @router.post("/plans", summary="Explain a job without running it", openapi_extra=_body(schemas.PlanRequest))
    def plan(caller: Annotated[Caller, writer], body: Annotated[bytes, Depends(_json_body)]) -> schemas.PlanView:
        return schemas.PlanView(**plan_facts(desk.plan(caller.owner, parse(body, schemas.PlanRequest))))

    return router


def _view(record: Record) -> schemas.JobView:
    job = record.job
    error = None if job.error is None else {name: getattr(job.error, name) for name in job.error.__slots__}
    return schemas.JobView(
        id=record.id, name=record.spec.name, status=job.status.value, step=job.step, steps=job.steps,
        workers=job.workers, asked=job.asked, fingerprint=job.fingerprint, created=record.created,
        updated=record.updated, error=error,
    )  # fmt: skip


def _file(path: Path, digest: str) -> Response:
    return _File(path, media_type="application/octet-stream", headers={"ETag": f'"{digest}"'})


def _part(text: str | None) -> tuple[int, int | None]:
    """Where the bytes of a body begin, and how many there are in all."""
    if text is None:
        return 0, None
    match = _PART.fullmatch(text.strip())
    begin, last, total = map(int, match.groups()) if match else (1, 0, 0)
    if not begin <= last == total - 1:
        raise BadRequest(
            f"Content-Range {text[:100]!r} should be `bytes FIRST-LAST/TOTAL` and go to the end; send all that is left"
        )
    return begin, total


async def _json_body(request: Request) -> bytes:
    """The body of a request, which says that it is JSON: a page in a browser cannot send that to us unasked."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise RequestRefused("the body should be JSON; send it with Content-Type: application/json", 415)
    body = bytearray()
    async for block in _blocks(request):
        body += block
        if len(body) > MAX_SPEC_BYTES:
            raise LimitError(f"the body has more than {MAX_SPEC_BYTES} bytes, which is the limit; put data into blobs")
    return bytes(body)


def _from_thread(blocks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The blocks, for a thread that was begun by the loop in which they come."""
    while block := anyio.from_thread.run(anext, blocks, b""):
        yield block


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """The body in blocks of some size; of one that is cut, all that came. Who sends nothing for long keeps nobody waiting."""
    stream, block, cut = request.stream(), bytearray(), None
    while cut is None:
        try:
            with anyio.fail_after(STALL_SECONDS):
                piece = await anext(stream, b"")
        except ClientDisconnect:
            cut = "the connection was closed before the whole body had come; send the rest"
        except TimeoutError:
            cut = f"nothing came for {STALL_SECONDS:g} s; send the rest again"
        else:
            if not piece:
                break
            block += piece
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)
    if cut is not None:
        raise BadRequest(cut)


def _body(model: type[Any]) -> dict[str, Any]:
    """A body that is described but read by us."""
    schema = model.model_json_schema(ref_template=f"#/components/schemas/{model.__name__}__{{model}}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions in their places; none of ours contains itself."""
    parts: dict[str, Any] = schema.pop("$defs", {})

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return [place(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return place(parts[re.sub(r".*__", "", value["$ref"])])
        return {name: place(item) for name, item in value.items() if name != "discriminator"}

    found: dict[str, Any] = place(schema)
    return found
