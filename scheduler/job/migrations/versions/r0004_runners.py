"""Which process has a job, and which work a job is, so that equal work is found."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """To this revision."""
    op.add_column("jobs", sa.Column("runner", sa.String(64)))
    op.add_column("jobs", sa.Column("work", sa.String(64)))
    op.create_index("jobs_work", "jobs", ["owner", "work"])
    op.create_table(
        "runners",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("process", sa.String(256), nullable=False),
        sa.Column("started", sa.Double, nullable=False),
    )
