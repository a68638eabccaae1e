"""The database schema, one for SQLite and PostgreSQL, its version, and how an engine is opened.

The journal (`events`) is the truth; `jobs.state` and the columns beside it repeat what replaying it
gives, written in the same transaction. Job ids are 26 lower-case letters and digits and sort by time of
submission. SQLite runs in WAL mode; every writing transaction takes the write lock at its start, so it
waits instead of failing half-way. What a client was promised is synchronised to disk, and with it all that was written
before; reports of work are not, but for checkpoints, for what a power cut takes of them is computed again.
"""

from collections.abc import Callable, Mapping
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from graphir.errors import GraphError

SCHEMA = 3
BUSY_SECONDS = 30
WRITES, PROMISES = "gradfleet_writes", "gradfleet_promises"

metadata = MetaData()

schema_version = Table("gradfleet_schema", metadata, Column("version", Integer, primary_key=True))

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
    Column("seq", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    UniqueConstraint("owner", "key", name="jobs_owner_key"),
    Index("jobs_status", "status", "id"),
    Index("jobs_owner", "owner", "id"),
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

# From each older version to the next one, in the transaction that opens the database.
UPGRADES: Mapping[int, Callable[[Connection], None]] = {
    1: small_values.create,
    2: partial(metadata.create_all, tables=[tokens, holdings]),
}


class StoreError(GraphError):
    """A job database cannot be used as asked."""


class SchemaTooNew(StoreError):
    """A newer release of Gradfleet has written this database."""


def insert_new_value(dialect: str) -> postgresql.Insert | sqlite.Insert:
    """The statement that inserts a small value unless it is there, in the words of the dialect."""
    if dialect == "postgresql":
        return postgresql.insert(small_values).on_conflict_do_nothing()
    return sqlite.insert(small_values).on_conflict_do_nothing()


def open_engine(url: str, *, durable: bool) -> Engine:
    """An engine for the URL, with the settings that the store relies on."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError(f"{url!r} is not a database URL; use for example sqlite:////path/jobs.db") from None
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed)
    try:
        engine = create_engine(parsed, json_serializer=partial(dumps, allow_nan=False, separators=(",", ":")))
    except (ImportError, ArgumentError) as error:
        text = parsed.render_as_string()
        raise StoreError(f"cannot open database {text}: {error}; install its driver or change it") from None
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine, durable=durable)
    return engine


def _check_file(url: URL) -> None:
    path = url.database
    if not path or path == ":memory:" or "mode=memory" in path:
        raise StoreError("a job database in memory cannot be shared by threads; give a file instead")
    try:
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the directory of {path}: {error.strerror}; choose another") from None


def _prepare_sqlite(engine: Engine, *, durable: bool) -> None:
    def connected(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver starts no transaction by itself; `begun` does
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        writes, level = options.get(WRITES, False), "FULL" if durable and options.get(PROMISES, False) else "NORMAL"
        if writes and connection.info.get("synchronous") != level:
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            connection.info["synchronous"] = level
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


def prepare_schema(connection: Connection, where: str) -> None:
    """Make the tables of a new database, bring those of an old one up to date, refuse a newer one."""
    present = set(inspect(connection).get_table_names())
    if schema_version.name not in present:
        foreign = sorted(present & set(metadata.tables))
        if foreign:
            raise StoreError(f"{where} has a table {foreign[0]!r} that is not ours; use a database of its own")
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=SCHEMA))
        return
    version = connection.execute(select(schema_version.c.version)).scalar_one()
    if version > SCHEMA:
        raise SchemaTooNew(
            f"{where} has schema {version}, this release knows up to {SCHEMA}; upgrade Gradfleet, or use "
            "another database"
        )
    for older in range(version, SCHEMA):
        UPGRADES[older](connection)
    if version < SCHEMA:
        connection.execute(schema_version.update().values(version=SCHEMA))
