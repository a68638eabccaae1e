"""`gradfleet serve`: the application on a socket, until SIGTERM or SIGINT.

On a signal no more requests are taken, streams end, jobs stop before their next chunk, and the process exits; the next one
on the same directory goes on.
"""

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn

from graphir.errors import GraphError, ServiceUnavailable
from scheduler.api.app import create_app
from scheduler.api.auth import is_loopback
from scheduler.api.desk import Desk
from scheduler.api.rules import Rules
from scheduler.api.stream import Watch
from scheduler.api.sweeper import EVERY_SECONDS, Sweeper
from scheduler.driver.patience import patiently
from scheduler.job.retention import Keep
from scheduler.local import EmbeddedService
from scheduler.running import LEASE_SECONDS
from workers.data.fence import Fence

PORT = 8000
GRACE_SECONDS = 10
DATABASE_SECONDS = 60.0
SWITCH_SECONDS = 1e-3
"""After so long a thread that computes lets one that answers go on."""
_TCP = socket.IPPROTO_TCP
_KEEPALIVE = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (_TCP, socket.TCP_KEEPIDLE): 60,
    (_TCP, socket.TCP_KEEPINTVL): 15,
    (_TCP, socket.TCP_KEEPCNT): 4,
}
"""Connections whose other end has gone without a word end after two minutes; accepted ones have what the listener has."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class NotSafe(GraphError):
    """The service would be open to others without anything that keeps them out."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how to serve. port: None is 8000, and for a mere runner one that is free, which it needs for health only.

    role: "api" accepts jobs and never touches Ray, "runner" runs them, "all" does both.
    """

    directory: Path
    host: str = "127.0.0.1"
    port: int | None = None
    workers: int | None = None
    rules: Rules = field(default_factory=Rules)
    certificate: Path | None = None
    key: Path | None = None
    database: str | None = None
    ray_address: str | None = None
    role: str = "all"
    memory: int | None = None
    lease: float = LEASE_SECONDS
    storage: str | None = None
    keep: Keep = field(default_factory=Keep)
    sweep_seconds: float = EVERY_SECONDS


def serve(settings: Settings, tell: Callable[[str], None]) -> None:
    """Serve until a signal comes; `tell` gets the URL when requests are taken."""
    sys.setswitchinterval(SWITCH_SECONDS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each who watches has a socket
    Fence(settings.rules.data).raise_up()
    free = PORT if settings.role != "runner" else 0
    listener = _listen(settings.host, free if settings.port is None else settings.port)
    with closing(listener):
        service = open_service(settings)
        try:
            desk = Desk(service, settings.rules, time.time)
            if not is_loopback(settings.host) and desk.access.is_open():
                raise NotSafe(
                    f"{settings.host} can be reached by others, and there are no tokens; make one with `gradfleet token "
                    "create NAME`, or bind to 127.0.0.1"
                )
            sweeper = Sweeper(service.store, service.values, settings.keep, every=settings.sweep_seconds)

            def close() -> None:
                sweeper.close()
                service.close()

            app = create_app(desk, close=close, accepts=settings.role != "runner")
            sweeper.start()
        except BaseException:
            service.close()
            raise
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, proxy_headers=False, ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS, ssl_certfile=_text(settings.certificate), ssl_keyfile=_text(settings.key),
        )  # fmt: skip
        scheme = "http" if settings.certificate is None else "https"
        host, port = listener.getsockname()[:2]
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        _Server(config, app.state.watch, lambda: tell(url)).run([listener])


def open_service(settings: Settings) -> EmbeddedService:
    """The service; a database that does not answer is waited for, since it may be starting too."""
    until = time.monotonic() + DATABASE_SECONDS
    return patiently(
        lambda: EmbeddedService(
            directory=settings.directory, workers=settings.workers, database=settings.database,
            address=settings.ray_address, memory=settings.memory, runs=settings.role != "api", lease=settings.lease,
            storage=settings.storage,
        ),
        lambda: time.monotonic() > until,
    )  # fmt: skip


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, watch: Watch, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._watch, self._started = watch, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, and exit as one that has done what it was told."""
        before = {each: signal.signal(each, self.handle_exit) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def on_tick(self, counter: int) -> bool:
        """Ray, when it is started, replaces handlers below Python, by one that aborts; only this thread can set them again."""
        for each in _SIGNALS:
            signal.signal(each, self.handle_exit)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._watch.stop_soon()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        for option, value in _KEEPALIVE.items():
            listener.setsockopt(*option, value)
        return listener
    except (OSError, OverflowError) as error:
        raise ServiceUnavailable(f"cannot listen on {host} port {port}: {error}; choose another with --port") from None


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
