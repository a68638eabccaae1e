"""What alembic runs: the revisions, on the connection and in the transaction of whoever opens the database."""

from alembic import context

from scheduler.job.migrations import MARK
from scheduler.job.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=MARK,
    transactional_ddl=True,
)
context.run_migrations()
