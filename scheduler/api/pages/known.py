"""What the page keeps of jobs, so that looking again is quick: their stories as far as they were read, plans and pictures. Bounded."""

import threading
from collections.abc import Collection, Mapping

from graphir.partition.live import LivePicture
from graphir.partition.plan import Plan
from graphir.story import Story
from scheduler.job.seen import Record
from scheduler.local import EmbeddedService
from workers.recent import Recent

MAX_STORIES, MAX_PLANS, MAX_NODES, MAX_PICTURES = 128, 64, 500_000, 64
AT_ONCE = 20_000
"""Most events that are read for one look; a long job's story comes in several."""


class Known:
    """Of one service. May be used by several threads."""

    def __init__(self, service: EmbeddedService) -> None:
        self._service = service
        self._stories: Recent[str, tuple[Story, threading.Lock]] = Recent(MAX_STORIES)
        self._plans: Recent[str, Plan] = Recent(MAX_PLANS, MAX_NODES, lambda plan: len(plan.graph))
        self._pictures: Recent[tuple[str, frozenset[int] | None], LivePicture] = Recent(MAX_PICTURES)
        self._lock = threading.Lock()

    def story(self, id: str) -> Story:
        """What has happened to a job, as far as it was read."""
        with self._lock:
            story, lock = self._stories.get(id) or (Story(), threading.Lock())
            self._stories.put(id, (story, lock))
        with lock:
            enough = story.seq + AT_ONCE
            while story.seq < enough and (found := self._service.events(id, story.seq)):
                story.take(found)
        return story

    def work(self, record: Record) -> tuple[Mapping[int, float], Collection[int]]:
        """The share of the time that each step of a job's plan took, and the steps that are under way."""
        spans = self.story(record.id).spans
        return spans.shares(), () if record.job.status.terminal else spans.latest

    def plan(self, id: str) -> Plan:
        """The plan of a job."""
        return self._plans.made(id, lambda: self._service.job_plan(id))

    def picture(self, id: str, opened: frozenset[int] | None) -> LivePicture:
        """The picture of a job's plan with these steps open."""

        def make() -> LivePicture:
            return LivePicture(self.plan(id), opened, lambda steps: f"/jobs/{id}?open={_listed(steps)}#graph")

        return self._pictures.made((id, opened), make)


def _listed(steps: frozenset[int]) -> str:
    return ",".join(map(str, sorted(steps)))
