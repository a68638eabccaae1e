"""Events of jobs to those who watch: server-sent, or as JSON to those who ask and wait.

One thread looks for all who watch, however many they are: it asks the store now and then how far the journals of all watched jobs
are, in one question, and reads what is new in each once. Only those who watch a job of which there is news are woken. Who watches
goes by numbers of the journal, so nothing is missed, whoever is started anew; what is not at hand any more is read for him.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from starlette.concurrency import run_in_threadpool

from graphir.errors import GraphError, QueueFull, ServiceUnavailable
from scheduler.job.seen import Head
from scheduler.limits import MAX_WATCHERS
from scheduler.local import EmbeddedService

LOOK_SECONDS = 0.25
"""How often to look for what other processes have written."""
REST_SECONDS, REST_FOR_EACH = 0.02, 2e-5
"""At most so often those who watch are woken, and less often if they watch many jobs."""
BEAT_SECONDS = 15.0
"""After this time without events a stream gets a comment, so that nobody between takes it for dead."""
KEPT = 512
"""Events of a watched job that are at hand."""
Found = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class _Watched:
    """A job that somebody watches, as far as it is known, and its last events. Used in the event loop only."""

    head: Head
    watchers: int = 0
    recent: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    pulse: asyncio.Event = field(default_factory=asyncio.Event)

    def after(self, seq: int) -> Found | None:
        """The events after a number, or None if they are not all at hand."""
        if seq >= self.head.seq:
            return ()
        if not self.recent or self.recent[0]["seq"] > seq + 1:
            return None
        return list(islice(self.recent, seq + 1 - self.recent[0]["seq"], None))

    def news(self, head: Head, found: Found) -> None:
        """The journal has come so far, with these events at its end."""
        if head.seq <= self.head.seq:
            return
        if not found or not self.recent or self.recent[-1]["seq"] + 1 != found[0]["seq"]:
            self.recent.clear()
        self.head = head
        self.recent.extend(found)
        before, self.pulse = self.pulse, asyncio.Event()
        before.set()


class Watch:
    """Those who watch jobs of one service."""

    def __init__(self, service: EmbeddedService) -> None:
        self._service = service
        self._closed = threading.Event()
        self._jobs: dict[str, _Watched] = {}
        self.watchers = 0

    def start(self) -> None:
        """Begin to look; called in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._look, name="gradfleet-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all streams soon; called in the event loop."""
        self._closed.set()
        for watched in self._jobs.values():
            watched.pulse.set()

    def stop_soon(self) -> None:
        """The same, from a handler of signals."""
        self._closed.set()
        self._loop.call_soon_threadsafe(self.close)

    async def some(self, id: str, head: Head, after: int, wait: float) -> Found:
        """Events after a number, as soon as there are any, or none after so many seconds. head: how far the job was a moment ago."""
        deadline = time.monotonic() + wait
        with self._watching(id, head) as watched:
            while True:
                pulse = watched.pulse
                found = await self._after(id, watched, after)
                left = deadline - time.monotonic()
                if found or left <= 0 or self._closed.is_set():
                    return found
                await _wait_for(pulse, left)

    async def stream(self, id: str, head: Head, after: int) -> AsyncIterator[bytes]:
        """All events after a number as server-sent ones, until the job has ended."""
        with self._watching(id, head) as watched:
            yield b"retry: 1000\n\n"
            told = time.monotonic()
            while not self._closed.is_set():
                pulse, head = watched.pulse, watched.head
                while found := await self._after(id, watched, after):
                    for event in found:
                        after, told = event["seq"], time.monotonic()
                        yield f"id: {after}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
                if head.ended and after >= head.seq:
                    yield f"event: end\ndata: {json.dumps({'status': head.status})}\n\n".encode()
                    return
                if time.monotonic() - told > BEAT_SECONDS:
                    told = time.monotonic()
                    yield b": still here\n\n"
                await _wait_for(pulse, BEAT_SECONDS)

    async def _after(self, id: str, watched: _Watched, after: int) -> Found:
        found = watched.after(after)
        return await run_in_threadpool(self._service.events, id, after, 0.0) if found is None else found

    def check_room(self) -> None:
        """QueueFull if too many watch."""
        if self._closed.is_set():
            raise ServiceUnavailable("the service is being stopped; ask again soon")
        if self.watchers >= MAX_WATCHERS:
            raise QueueFull(f"{self.watchers} watch jobs, the limit; ask again later")

    @contextmanager
    def _watching(self, id: str, head: Head) -> Iterator[_Watched]:
        self.check_room()
        watched = self._jobs.setdefault(id, _Watched(head))
        watched.news(head, ())
        watched.watchers, self.watchers = watched.watchers + 1, self.watchers + 1
        try:
            yield watched
        finally:
            watched.watchers, self.watchers = watched.watchers - 1, self.watchers - 1
            if not watched.watchers:
                self._jobs.pop(id, None)

    # ---- the thread that looks ----

    def _look(self) -> None:
        rung, asked = 0, 0.0
        while not self._closed.wait(REST_SECONDS + REST_FOR_EACH * len(self._jobs)):
            rung = self._service.await_change(rung, LOOK_SECONDS)
            known = {id: watched.head for id, watched in list(self._jobs.items()) if not watched.head.ended}
            heads = self._seen(known)
            if time.monotonic() >= asked + LOOK_SECONDS:
                asked = time.monotonic()
                with suppress(ServiceUnavailable):  # there is no database for now
                    heads = self._service.store.heads(list(known)) if known else {}
            for id, head in heads.items():
                if head.seq > known[id].seq:
                    self._fetch(id, known[id], head)

    def _seen(self, ids: Iterable[str]) -> dict[str, Head]:
        """How far jobs are that run in this process."""
        found = {id: self._service.store.seen.record(id) for id in ids}
        return {id: record.head for id, record in found.items() if record is not None}

    def _fetch(self, id: str, known: Head, head: Head) -> None:
        """Read what is new in a journal, and tell those who watch it."""
        with suppress(GraphError, RuntimeError):  # what is amiss they find themselves; or the loop has ended
            found = self._service.events(id, known.seq, 0.0)
            if found and found[-1]["seq"] < head.seq:
                head = replace(known, seq=found[-1]["seq"])
            self._loop.call_soon_threadsafe(self._tell, id, head, found)

    def _tell(self, id: str, head: Head, found: Found) -> None:
        watched = self._jobs.get(id)
        if watched is not None:
            watched.news(head, found)


async def _wait_for(pulse: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await pulse.wait()
