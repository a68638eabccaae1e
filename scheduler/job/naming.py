"""Whoever names a value in the database looks, in the same transaction, whether it is still there.

Values that nothing names are removed in transactions of their own during which nobody names any (`retention`), so what was
there when it was named stays. A value may be removed between being put and being named, if nothing named it for long:
then it is put again, and named again.
"""

from collections.abc import Callable, Iterable, Sequence, Set

from sqlalchemy import Connection, bindparam, select

from scheduler.job.events import Checkpointed, Event, Finished, Found
from scheduler.job.spec import ArrayFeed, JobSpec
from scheduler.job.tables import StoreError, small_values

Kept = Callable[[str], bool]
"""Whether a value is among the blobs."""
_LITTLE = select(small_values.c.digest).where(small_values.c.digest == bindparam("one"))


class ValueGone(StoreError):
    """Values that are to be named were removed meanwhile."""

    def __init__(self, digests: Sequence[str]) -> None:
        super().__init__(f"value {digests[0]} was removed before it was named; put it again")
        self.digests = tuple(digests)


def named_by(spec: JobSpec) -> set[str]:
    """The values that a job names."""
    return {spec.graph} | {feed.blob for feed in spec.feeds.values() if isinstance(feed, ArrayFeed)}


def named_in(happened: Iterable[Event]) -> set[str]:
    """The values that events name."""
    found = set()
    for event in happened:
        match event:
            case Checkpointed(blob=digest) | Finished(result=digest) | Found(result=digest):
                found.add(digest)
            case _:
                pass
    return found


def check_named(connection: Connection, named: Set[str], kept: Kept | None) -> None:
    """ValueGone unless each of them is there. kept: None where nobody removes any."""
    if kept is None:
        return
    missing = [
        digest
        for digest in sorted(named)
        if not kept(digest) and connection.execute(_LITTLE, {"one": digest}).one_or_none() is None
    ]
    if missing:
        raise ValueGone(missing)
