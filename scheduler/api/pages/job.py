"""The routes of one job's page: where it is, what it computes, its graph, its plan, and what may be taken away."""

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import FileResponse, RedirectResponse, Response

from graphir.errors import GraphError
from scheduler.api.auth import Caller, Door
from scheduler.api.desk import Desk
from scheduler.api.pages import views
from scheduler.api.pages.known import Known
from scheduler.api.pages.render import HEADERS, Pages
from scheduler.api.pages.visit import check_origin, seen_by, visitor
from scheduler.job.seen import Record

MAX_OPEN = 2000
"""Characters that may name open steps."""


class _Shown:
    """What a job's page shows, for the templates."""

    def __init__(self, desk: Desk) -> None:
        self.known = Known(desk.service)

    def live(self, request: Request, caller: Caller, record: Record) -> dict[str, Any]:
        """What changes while the job runs, but for its graph."""
        now, story = time.time(), self.known.story(record.id)
        return {
            "job": views.row(record, now), "facts": views.facts(record, now), "error": record.job.error, "now": now,
            "curves": story.curves(record.job.steps), "lanes": story.lanes(), "moments": views.moments(story, record.created),
            "may_cancel": "submit" in caller.scopes, **seen_by(request, caller),
        }  # fmt: skip

    def graph(self, record: Record, opened: frozenset[int] | None) -> dict[str, Any]:
        """The picture of its plan with these steps open, or why there is none."""
        picture, wrong = None, ""
        try:
            picture = self.known.picture(record.id, opened)
        except GraphError as error:
            wrong = str(error)
        return {
            "graph_wrong": wrong,
            "graph_open": opened,
            "graph_svg": picture.live(*self.known.work(record)) if picture else "",
            "graph_live": not record.job.status.terminal,
            "graph_id": record.id,
        }


def add_job(router: APIRouter, desk: Desk, door: Door, made: Pages) -> None:
    """The routes."""
    reader, writer = Depends(visitor(door, "read")), Depends(visitor(door, "submit"))
    shown = _Shown(desk)

    @router.get("/jobs/{id}")
    def page(id: str, request: Request, caller: Annotated[Caller, reader], open: Opened = None) -> Response:
        record = desk.record(caller.owner, id)
        graph = shown.graph(record, _numbers(open))
        text = shown.known.plan(id).to_text() if graph["graph_svg"] else graph["graph_wrong"]
        given = {**shown.live(request, caller, record), **graph}
        return made.answer("job.html", seen="", said="", plan=text, options=views.options(record), **given)

    @router.get("/jobs/{id}/live")
    def changed(
        id: str,
        request: Request,
        caller: Annotated[Caller, reader],
        seen: Annotated[str, Query(max_length=64)] = "",
        said: Annotated[str, Query(max_length=64)] = "",
    ) -> Response:
        return made.news("job_live.html", seen, said=said, **shown.live(request, caller, desk.record(caller.owner, id)))

    @router.get("/jobs/{id}/graph")
    def graph(
        id: str,
        caller: Annotated[Caller, reader],
        open: Opened = None,
        seen: Annotated[str, Query(max_length=64)] = "",
    ) -> Response:
        return made.news("job_graph.html", seen, **shown.graph(desk.record(caller.owner, id), _numbers(open)))

    @router.post("/jobs/{id}/cancel")
    def cancel(id: str, request: Request, caller: Annotated[Caller, writer]) -> Response:
        check_origin(request)
        desk.service.cancel(desk.record(caller.owner, id).id)
        if "hx-request" not in request.headers:
            return RedirectResponse(f"/jobs/{id}", 303, HEADERS)
        return made.news("job_live.html", "", said="", **shown.live(request, caller, desk.record(caller.owner, id)))


def add_files(router: APIRouter, desk: Desk, door: Door) -> None:
    """What may be taken away."""
    reader = Depends(visitor(door, "read"))

    @router.get("/jobs/{id}/timeline")
    def timeline(id: str, caller: Annotated[Caller, reader]) -> Response:
        return Response(json.dumps(desk.timeline(caller.owner, id)), 200, _saved(id, "trace.json"), "application/json")

    @router.get("/jobs/{id}/result")
    def result(id: str, caller: Annotated[Caller, reader]) -> Response:
        found = desk.result(caller.owner, id)
        headers = _saved(id, "safetensors")
        if isinstance(found, bytes):
            return Response(found, 200, headers, "application/octet-stream")
        return FileResponse(found, headers=headers, media_type="application/octet-stream")


Opened = Annotated[str | None, Query(max_length=MAX_OPEN)]


def _numbers(text: str | None) -> frozenset[int] | None:
    """The steps that an address names as open; None if it names none, and the page chooses."""
    if text is None:
        return None
    return frozenset(int(part) for part in text.split(",") if part.isascii() and part.isdigit() and len(part) < 7)


def _saved(id: str, kind: str) -> dict[str, str]:
    """Headers of what a browser saves as a file."""
    return {**HEADERS, "Content-Disposition": f'attachment; filename="{id}.{kind}"', "Cache-Control": "no-store"}
