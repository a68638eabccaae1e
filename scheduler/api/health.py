"""Whether what jobs need can be used: the database, storage, and Ray where this process runs jobs.

Asked by machines all the time, so what was found is told again for a moment, and storage is written at most so often.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from graphir.errors import GraphError, ServiceUnavailable
from scheduler import telemetry
from scheduler.api import schemas
from scheduler.api.auth import Caller, Door
from scheduler.api.desk import Desk
from scheduler.api.metrics import MEDIA_TYPE, Metrics, Sample
from scheduler.api.stream import Watch
from scheduler.local import EmbeddedService

KEEP_SECONDS = 2.0
PROBE = b"gradfleet can write here"


class Health:
    """Looks after the parts of a service. May be used by several threads."""

    def __init__(self, service: EmbeddedService, now: Callable[[], float] = time.monotonic) -> None:
        self._service, self._now = service, now
        self._lock = threading.Lock()
        self._found: Mapping[str, str] = {}
        self._until = float("-inf")

    def problems(self) -> Mapping[str, str]:
        """What each part says is wrong; empty where nothing is."""
        with self._lock:
            if self._now() >= self._until:
                self._found = {name: _wrong(look) for name, look in self._parts().items()}
                self._until = self._now() + KEEP_SECONDS
            return self._found

    def _parts(self) -> Mapping[str, Callable[[], object]]:
        service = self._service
        return {
            "database": lambda: service.store.jobs(1),
            "storage": lambda: service.values.blobs.put_stream([PROBE]),
            "ray": service.check_workers,
        }


def _wrong(look: Callable[[], object]) -> str:
    try:
        look()
    except (GraphError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def health_routes(
    desk: Desk, door: Door, watch: Watch, metrics: Metrics, problems: dict[int | str, dict[str, Any]]
) -> APIRouter:
    """What machines ask: whether the process answers, whether it can be used, and figures."""
    router, health = APIRouter(tags=["service"]), Health(desk.service)

    @router.get("/healthz", summary="The process answers")
    async def alive() -> schemas.Health:
        return schemas.Health(status="ok")

    @router.get("/readyz", summary="Database, storage and Ray can be used", responses={503: problems["5XX"]})
    def ready() -> schemas.Health:
        watch.check_room()
        told = [f"{name} cannot be used: {problem}" for name, problem in health.problems().items() if problem]
        if told:
            raise ServiceUnavailable("; ".join(told))
        return schemas.Health(status="ok")

    @router.get(
        "/metrics", summary="Figures for Prometheus", responses={200: {"content": {"text/plain": {}}}, **problems}
    )
    def figures(caller: Annotated[Caller, Depends(door.needs("metrics"))]) -> Response:
        service, found = desk.service, health.problems()
        jobs = {} if found["database"] else service.store.counts()
        there, asked = service.workers_there
        sample = Sample(jobs, watch.watchers, telemetry.counted(), there, asked, found)
        return Response(metrics.text(sample), media_type=MEDIA_TYPE)

    return router
