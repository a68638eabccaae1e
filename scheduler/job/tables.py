"""The database schema, one for SQLite and PostgreSQL.

The journal (`events`) is the truth; `jobs.state` and the columns beside it repeat what replaying it
gives, written in the same transaction. Job ids are 26 lower-case letters and digits and sort by time of
submission. How a database of an earlier release becomes one like this is said in `migrations`.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql, sqlite

from graphir.errors import GraphError, ServiceUnavailable

HEAD = "0005"
"""The revision of this schema, the last one in `migrations/versions`."""

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("name", Text),
    Column("key", Text),
    Column("spec", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("state", JSON, nullable=False),
    Column("result", String(64)),
    Column("runner", String(64)),
    Column("work", String(64)),
    Column("seq", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    UniqueConstraint("owner", "key", name="jobs_owner_key"),
    Index("jobs_status", "status", "id"),
    Index("jobs_owner", "owner", "id"),
    Index("jobs_owner_status", "owner", "status", "id"),
    Index("jobs_work", "owner", "work", "status", "id"),
)

events = Table(
    "events",
    metadata,
    Column("job", String(26), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("type", String(32), nullable=False),
    Column("payload", JSON, nullable=False),
)

# Feeds, graphs and results of little size, by the SHA-256 of their bytes; large ones are blobs.
small_values = Table(
    "small_values",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

# Processes that run jobs. `jobs.runner` names the one that has a job; one that is not here any more has none. A living one
# adds to `beat`, and others judge by that and their own clocks whether it lives: no time of day takes part.
runners = Table(
    "runners",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("beat", BigInteger, nullable=False),
    Column("process", String(256), nullable=False),
    Column("started", Double, nullable=False),
)

# Who may use the service: the token itself is nowhere, only the SHA-256 of its secret part.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("secret", String(64), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
)

# Whose blobs there are: who knows the name of a blob has it only after sending its bytes.
holdings = Table(
    "holdings",
    metadata,
    Column("owner", String(128), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Double, nullable=False),
)


class StoreError(GraphError):
    """A job database cannot be used as asked."""


class DatabaseUnavailable(ServiceUnavailable):
    """The job database does not answer, or not as a database should."""


def insert_new_value(dialect: str, table: Table = small_values) -> postgresql.Insert | sqlite.Insert:
    """The statement that inserts a row, such as a small value, unless it is there, in the words of the dialect."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()
