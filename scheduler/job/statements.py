"""The statements of the store, made once, since making one takes longer than executing it."""

from sqlalchemy import bindparam, delete, insert, or_, select, update

from scheduler.job.state import Status
from scheduler.job.tables import events, jobs, runners, small_values

JOB = select(jobs).where(jobs.c.id == bindparam("job"))
LOCKED = JOB.with_for_update()
EVENTS = (
    select(events).where(events.c.job == bindparam("job"), events.c.seq > bindparam("after")).order_by(events.c.seq)
)
ADVANCE = update(jobs).where(jobs.c.id == bindparam("known_id"), jobs.c.seq == bindparam("known_seq"))
# A job is free if its runner is gone. Who has lost it finds another one there and writes nothing any more.
_MINE = jobs.c.runner == bindparam("me")
_FREE = or_(jobs.c.runner.is_(None), jobs.c.runner.not_in(select(runners.c.id)))
ADVANCE_MINE, ADVANCE_TAKEN = ADVANCE.where(_MINE), ADVANCE.where(or_(_MINE, _FREE))
TAKEN = JOB.with_for_update(skip_locked=True)
UNFINISHED = jobs.c.status.in_([status.value for status in Status if not status.terminal])
TO_RUN = select(jobs.c.id).where(UNFINISHED, or_(_MINE, _FREE)).order_by(jobs.c.id)
INSERT_JOB, INSERT_EVENT = insert(jobs), insert(events)
VALUE = select(small_values.c.data).where(small_values.c.digest == bindparam("value"))
DROP = delete(small_values).where(small_values.c.digest == bindparam("value"))
