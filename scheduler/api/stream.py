"""Events of jobs to those who watch: server-sent, or as JSON to those who ask and wait.

One thread waits for the service; all who watch are woken by one pulse, so none of them costs a thread, and there are at most
`MAX_WATCHERS`. Who watches asks the journal by number, so nothing is missed, whoever is started anew.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from starlette.concurrency import run_in_threadpool

from graphir.errors import QueueFull, ServiceUnavailable
from scheduler.limits import MAX_WATCHERS
from scheduler.local import EmbeddedService

LOOK_SECONDS = 0.5
"""How often to look for what other processes have written."""
REST_SECONDS = 0.02
"""At most so often those who watch are woken."""
BEAT_SECONDS = 15.0
"""After this time without events a stream gets a comment, so that nobody between takes it for dead."""


class Watch:
    """Those who watch jobs of one service."""

    def __init__(self, service: EmbeddedService) -> None:
        self._service = service
        self._closed = threading.Event()
        self.watchers = 0

    def start(self) -> None:
        """Begin to wait for the service; called in the event loop."""
        self._loop, self._pulse = asyncio.get_running_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._wait, name="gradfleet-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all streams soon; called in the event loop."""
        self._closed.set()
        self._beat()

    def stop_soon(self) -> None:
        """The same, from a handler of signals."""
        self._closed.set()
        self._loop.call_soon_threadsafe(self._beat)

    async def some(self, id: str, after: int, wait: float) -> list[dict[str, Any]]:
        """Events after a number, as soon as there are any, or none after so many seconds."""
        deadline = time.monotonic() + wait
        with self._watching():
            while True:
                pulse = self._pulse
                found = await self._read(id, after)
                left = deadline - time.monotonic()
                if found or left <= 0 or self._closed.is_set():
                    return found
                await _wait_for(pulse, left)

    async def stream(self, id: str, after: int) -> AsyncIterator[bytes]:
        """All events after a number as server-sent ones, until the job has ended."""
        with self._watching():
            yield b"retry: 1000\n\n"
            told = time.monotonic()
            while not self._closed.is_set():
                pulse = self._pulse
                status = await run_in_threadpool(self._service.status, id)
                while found := await self._read(id, after):
                    for event in found:
                        after, told = event["seq"], time.monotonic()
                        yield f"id: {after}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
                if status["status"] not in ("queued", "running"):  # as it was before the last events were read
                    yield f"event: end\ndata: {json.dumps({'status': status['status']})}\n\n".encode()
                    return
                if time.monotonic() - told > BEAT_SECONDS:
                    told = time.monotonic()
                    yield b": still here\n\n"
                await _wait_for(pulse, BEAT_SECONDS)

    async def _read(self, id: str, after: int) -> list[dict[str, Any]]:
        return await run_in_threadpool(self._service.events, id, after, 0.0)

    def check_room(self) -> None:
        """QueueFull if too many watch."""
        if self._closed.is_set():
            raise ServiceUnavailable("the service is being stopped; ask again soon")
        if self.watchers >= MAX_WATCHERS:
            raise QueueFull(f"{self.watchers} watch jobs, the limit; ask again later")

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self.check_room()
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1

    def _wait(self) -> None:
        known = 0
        while not self._closed.wait(REST_SECONDS):
            known = self._service.await_change(known, LOOK_SECONDS)
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._beat)

    def _beat(self) -> None:
        before, self._pulse = self._pulse, asyncio.Event()
        before.set()


async def _wait_for(pulse: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await pulse.wait()
