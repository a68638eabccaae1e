"""The page's routes: `/`, `/jobs/{id}`, the parts of them that change, and the form that takes a token.

A browser gets HTML for errors too. Parts are asked for again every second or so, with a tag of what is shown: what has not changed
is not sent, and a page goes on by itself when the service was down meanwhile.
"""

import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, RedirectResponse, Response

from graphir import draw, lanes, plot
from graphir.errors import GraphError, Unauthorized
from graphir.partition import palette
from scheduler.api.auth import Caller, Door
from scheduler.api.desk import Desk
from scheduler.api.pages import views
from scheduler.api.pages.job import add_files, add_job
from scheduler.api.pages.render import HEADERS, STATIC, TYPES, Pages, asset
from scheduler.api.pages.visit import check_origin, forget, local, remember, seen_by, visitor
from scheduler.api.problems import BadRequest, Forbidden, NotFound, status_of
from scheduler.job.state import Status

LISTED = 50
"""Jobs on one page."""
MAX_FORM = 4096
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def pages(desk: Desk, door: Door) -> APIRouter:
    """All routes of the page."""
    made = Pages([draw.STYLE, palette.STYLE, plot.STYLE, lanes.STYLE])
    router = APIRouter(include_in_schema=False, route_class=_route(made))
    _add_entrance(router, door, made)
    _add_jobs(router, desk, door, made)
    add_job(router, desk, door, made)
    add_files(router, desk, door)
    return router


def _route(made: Pages) -> type[APIRoute]:
    class Page(APIRoute):
        """A route whose errors are pages, too; who has no token is led to the form."""

        def get_route_handler(self) -> Handler:
            handler = super().get_route_handler()

            async def answered(request: Request) -> Response:
                try:
                    return await handler(request)
                except Unauthorized as error:
                    return _refused(made, request, error)
                except GraphError as error:
                    return _failed(made, status_of(error), str(error))
                except HTTPException as error:
                    return _failed(made, error.status_code, str(error.detail))

            return answered

    return Page


def _failed(made: Pages, status: int, detail: str) -> Response:
    return made.answer("problem.html", status=status, title=HTTPStatus(status).phrase, detail=detail)


def _refused(made: Pages, request: Request, error: Unauthorized) -> Response:
    if isinstance(error, Forbidden):
        return _failed(made, status_of(error), str(error))
    if "hx-request" in request.headers:  # a part of a page that was left open; the whole is to go to the form
        return Response(status_code=204, headers={"HX-Refresh": "true", **HEADERS})
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(target, safe='')}", 303, HEADERS)


def _add_entrance(router: APIRouter, door: Door, made: Pages) -> None:
    """The form for tokens, and files that all may have."""

    @router.get("/login")
    def form(next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
        return made.answer("login.html", next=local(next), wrong="")

    @router.post("/login")
    async def enter(request: Request) -> Response:
        check_origin(request)
        fields = await _form(request)
        token, target = fields.get("token", "").strip(), local(fields.get("next", "/"))
        try:
            door.admit("read", request, token)
        except Unauthorized as error:
            return made.answer("login.html", status=status_of(error), next=target, wrong=str(error))
        answer = RedirectResponse(target, 303, HEADERS)
        remember(answer, request, token)
        return answer

    @router.post("/logout")
    def leave(request: Request) -> Response:
        check_origin(request)
        answer = RedirectResponse("/login", 303, HEADERS)
        forget(answer, request)
        return answer

    @router.get("/static/{version}/{name}")
    def static(version: str, name: str) -> Response:
        path = STATIC / name
        if name not in {each.name for each in STATIC.iterdir()} or asset(name) != f"/static/{version}/{name}":
            raise NotFound(f"there is no file {name[:100]!r} of this version; load the page anew")
        headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)


def _add_jobs(router: APIRouter, desk: Desk, door: Door, made: Pages) -> None:
    reader = Depends(visitor(door, "read"))

    def listed(request: Request, caller: Caller, state: str, before: str | None) -> dict[str, Any]:
        if state not in ("", *Status):
            raise BadRequest(f"{state[:40]!r} is no state of jobs; there are {', '.join(Status)}")
        now, counts = time.time(), desk.service.store.counts(caller.owner)
        found = desk.jobs(caller.owner, LISTED + 1, before, state or None)
        rows = [views.row(record, now) for record in found[:LISTED]]
        older = rows[-1].id if len(found) > LISTED else None
        return {
            "rows": rows, "now": now, "state": state, "before": before, "older": older, "counts": counts,
            "filters": views.filters(counts, state), "summary": views.summary(counts), "title": views.title(rows),
            **seen_by(request, caller),
        }  # fmt: skip

    @router.get("/")
    def jobs(
        request: Request,
        caller: Annotated[Caller, reader],
        state: str = "",
        before: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        return made.answer("jobs.html", seen="", said="", **listed(request, caller, state, before))

    @router.get("/jobs")
    def part(
        request: Request,
        caller: Annotated[Caller, reader],
        state: str = "",
        before: Annotated[str | None, Query(max_length=64)] = None,
        seen: Annotated[str, Query(max_length=64)] = "",
        said: Annotated[str, Query(max_length=400)] = "",
    ) -> Response:
        return made.news("jobs_part.html", seen, said=said, **listed(request, caller, state, before))


async def _form(request: Request) -> dict[str, str]:
    """The fields of a little form."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_FORM:
            raise BadRequest(f"the form has more than {MAX_FORM} bytes; a token is far shorter")
    return {name: values[-1] for name, values in parse_qs(body.decode("latin-1")).items()}
