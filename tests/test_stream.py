"""However many watch jobs, the store is asked a few times a second, and each journal is read once for all of them."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from graphir.errors import QueueFull
from scheduler.api import stream
from scheduler.api.stream import LOOK_SECONDS, Watch
from scheduler.job.events import Finished, Started, StepDone
from scheduler.job.spec import JobSpec
from scheduler.job.store import Store
from scheduler.local import EmbeddedService

WATCHERS, JOBS, WAIT = 10_000, 25, 100.0


class Counted:
    """A service's store and events, counted."""

    def __init__(self, service: EmbeddedService, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heads = self.reads = 0
        heads, events = service.store.heads, service.events

        def counted_heads(ids: Any) -> Any:
            self.heads += 1
            return heads(ids)

        def counted_events(*given: Any) -> Any:
            self.reads += 1
            return events(*given)

        monkeypatch.setattr(service.store, "heads", counted_heads)
        monkeypatch.setattr(service, "events", counted_events)


def test_ten_thousand_subscribers_cost_a_few_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = EmbeddedService(directory=tmp_path, runs=False)
    counted = Counted(service, monkeypatch)
    spec = JobSpec.model_validate({"graph": "a" * 64})
    with Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as other:  # as another process would
        jobs = [other.submit(spec, 1.0 + k) for k in range(JOBS)]
        heads = {id: other.job(id).head for id in jobs}

        async def watched() -> list[Any]:
            watch = Watch(service)
            watch.start()
            begun = time.monotonic()
            asked = [watch.some(jobs[k % JOBS], heads[jobs[k % JOBS]], 0, WAIT) for k in range(WATCHERS)]
            tasks = [asyncio.create_task(each) for each in asked]
            while watch.watchers < WATCHERS:
                await asyncio.sleep(0.01)
            with pytest.raises(QueueFull):
                watch.check_room()
            await asyncio.sleep(4 * LOOK_SECONDS)  # they wait, and nobody reads for them
            assert counted.reads == 0
            for id in jobs:
                await asyncio.to_thread(other.append, id, [Started(2.0, "r")])
            found = await asyncio.gather(*tasks)
            assert counted.heads <= (time.monotonic() - begun) / LOOK_SECONDS + 2
            assert watch.watchers == 0
            watch.close()
            return found

        found = asyncio.run(watched())
    service.close()
    assert all([event["type"] for event in each] == ["started"] for each in found)
    assert counted.reads <= 2 * JOBS


def test_streams_tell_all_from_any_number_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when there is more than is kept at hand, whoever comes late, and with other jobs beside."""
    monkeypatch.setattr(stream, "KEPT", 5)
    service = EmbeddedService(directory=tmp_path, runs=False)
    steps = 40
    spec = JobSpec.model_validate({"graph": "a" * 64, "steps": steps})
    with Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as other:
        id, beside = other.submit(spec, 1.0), other.submit(spec, 1.5)
        other.append(id, [Started(2.0, "r")])
        other.append(beside, [Started(2.0, "r")])
        told = threading.Event()

        def write() -> None:
            for step in range(steps):
                other.append(id, [StepDone(3.0, step, 1)])
                if step % 8 == 7:
                    told.wait(0.3)
            other.append(id, [Finished(4.0, 1, "c" * 64)])

        async def followed(watch: Watch, after: int) -> list[int]:
            seen = []
            async for part in watch.stream(id, other.job(id).head, after):
                if part.startswith(b"id: "):
                    seen.append(int(part.split(b"\n")[0].removeprefix(b"id: ")))
            assert part == b'event: end\ndata: {"status": "succeeded"}\n\n'
            return seen

        async def all_of_them() -> list[list[int]]:
            watch = Watch(service)
            watch.start()
            writing = asyncio.create_task(asyncio.to_thread(write))
            first = [asyncio.create_task(followed(watch, after)) for after in (0, 1, 20)]
            await asyncio.sleep(0.5)
            first += [asyncio.create_task(followed(watch, after)) for after in (0, 17)]
            found = await asyncio.gather(*first)
            await writing
            found.append(await followed(watch, steps))
            watch.close()
            return list(found)

        found = asyncio.run(all_of_them())
    service.close()
    assert found == [list(range(after + 1, steps + 3)) for after in (0, 1, 20, 0, 17, steps)]
