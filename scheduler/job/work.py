"""Which work a job is, so that equal work is done once: what the result's bits depend on, and nothing else."""

import hashlib
import json

from scheduler.job.spec import DatasetFeed, JobSpec

_BESIDE = {"name", "key", "deadline", "retries", "priority", "checkpoint_every", "fresh"}


def work_of(spec: JobSpec) -> str | None:
    """The digest of the work, or None if data may be others without anybody noticing."""
    for feed in spec.feeds.values():
        if isinstance(feed, DatasetFeed) and (
            feed.snapshot is None or not all(each.tag for each in feed.snapshot.files)
        ):
            return None
    facts = spec.model_dump(mode="json", exclude=_BESIDE)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
