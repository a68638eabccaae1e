"""A user's jobs of one status, and those of one work, are found without looking at his others."""

from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """To this revision."""
    op.create_index("jobs_owner_status", "jobs", ["owner", "status", "id"])
    op.drop_index("jobs_work", "jobs")
    op.create_index("jobs_work", "jobs", ["owner", "work", "status", "id"])
