"""Which processes run jobs, and which of them still live.

A runner is a row with a number, its beat, to which it adds while it lives. Others take one for dead when its beat has stood still
for the length of a lease by their own steady clock, while the database answered them; so no clock that jumps and no pause of the
database costs anybody a job. A dead one's row is removed if its beat is still the one that stood still: from then on its jobs are
free, and whoever takes one puts its name into the job's row, where each write of the former runner looks for its own.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from scheduler.job.store import Store
from scheduler.job.tables import runners

_BEAT = update(runners).where(runners.c.id == bindparam("me")).values(beat=runners.c.beat + 1)
_LEAVE = delete(runners).where(runners.c.id == bindparam("me"))
_BURY = _LEAVE.where(runners.c.beat == bindparam("stood"))
_OTHERS = select(runners.c.id, runners.c.beat, runners.c.process).where(runners.c.id != bindparam("me"))


@dataclass(frozen=True, slots=True)
class Other:
    """Another runner as the database has it. process: which process it is, in the words of `driver.process`."""

    id: str
    beat: int
    process: str


class Runners:
    """One runner among those of a database."""

    def __init__(self, store: Store, id: str, process: str) -> None:
        self._store, self.id, self._process = store, id, process

    def beat(self, now: float) -> None:
        """Show that this one lives; it comes, or comes again, if it is not there. now: only for people to read."""
        with self._store.transaction(writes=True) as connection:
            if connection.execute(_BEAT, {"me": self.id}).rowcount:
                return
        row = {"id": self.id, "beat": 0, "process": self._process, "started": now}
        with (
            suppress(IntegrityError),
            self._store.transaction(writes=True) as connection,
        ):  # a first try may have come through
            connection.execute(insert(runners), row)

    def leave(self) -> None:
        """End in order: its jobs are free."""
        with self._store.transaction(writes=True) as connection:
            connection.execute(_LEAVE, {"me": self.id})

    def others(self) -> list[Other]:
        """The other runners that are there."""
        with self._store.transaction() as connection:
            rows = connection.execute(_OTHERS, {"me": self.id}).all()
        return [Other(row.id, row.beat, row.process) for row in rows]

    def bury(self, other: Other) -> bool:
        """Remove a runner that is taken for dead, unless it has shown itself; its jobs are free then."""
        with self._store.transaction(writes=True) as connection:
            return bool(connection.execute(_BURY, {"me": other.id, "stood": other.beat}).rowcount)


class Vigil:
    """Watches the beats of others. Pure but for its own state: times, of a clock that does not jump, come from the caller."""

    def __init__(self, lease: float, is_gone: Callable[[str], bool]) -> None:
        """is_gone: whether a process is certainly not there any more, which saves waiting."""
        self._lease, self._is_gone = lease, is_gone
        self._since: dict[Other, float] = {}

    def dead(self, others: Iterable[Other], now: float) -> list[Other]:
        """Those that are dead, as seen now."""
        self._since = {other: self._since.get(other, now) for other in others}
        return [
            other for other, since in self._since.items() if now - since >= self._lease or self._is_gone(other.process)
        ]

    def forget(self) -> None:
        """The database did not answer: nobody could have shown himself, so all have their time again."""
        self._since.clear()
