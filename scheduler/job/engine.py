"""How a database is opened: SQLite in WAL mode, or PostgreSQL by psycopg.

On SQLite a writing transaction takes the write lock at its start, so it waits instead of failing half-way. What a client was
promised is synchronised to disk, and with it all that was written before; reports of work are not, but for checkpoints, for what a
power cut takes of them is computed again. On PostgreSQL each commit is synchronised: there a killed server would take them too.
"""

from functools import partial
from json import dumps
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from scheduler.job.tables import StoreError

BUSY_SECONDS = 30
WAL_ATTEMPTS = 20
WRITES, PROMISES = "gradfleet_writes", "gradfleet_promises"
POOL, OVERFLOW = 10, 20
"""Connections to PostgreSQL that one process keeps, and how many more it may open for a while."""
IDLE_SECONDS = 10
"""A process that stands still in the midst of a transaction loses it then, and with it the locks that keep others from its jobs."""
_POSTGRES = ("postgresql", "postgres")


def open_engine(url: str, *, durable: bool) -> Engine:
    """An engine for the URL, with the settings that the store relies on."""
    parsed = _parsed(url)
    options: dict[str, Any] = {"json_serializer": partial(dumps, allow_nan=False, separators=(",", ":"))}
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed)
    else:
        idle = f"-c idle_in_transaction_session_timeout={IDLE_SECONDS * 1000}"
        limits = {"connect_timeout": 10, "application_name": "gradfleet", "keepalives_idle": 30, "options": idle}
        options |= {"pool_size": POOL, "max_overflow": OVERFLOW, "pool_timeout": BUSY_SECONDS}
        options |= {"connect_args": {name: value for name, value in limits.items() if name not in parsed.query}}
    try:
        engine = create_engine(parsed, **options)
    except (ImportError, ArgumentError) as error:
        text = parsed.render_as_string()
        raise StoreError(
            f"cannot open database {text}: {error}; for PostgreSQL `pip install 'gradfleet[postgres]'`, or change the URL"
        ) from None
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine, durable=durable)
    return engine


def options_for(engine: Engine, *, writes: bool, promises: bool) -> dict[str, Any]:
    """The execution options of a transaction. A lone question to PostgreSQL needs no BEGIN and COMMIT around it."""
    options: dict[str, Any] = {WRITES: writes, PROMISES: promises}
    if engine.dialect.name == "postgresql":
        options["isolation_level"] = "READ COMMITTED" if writes else "AUTOCOMMIT"
    return options


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError(
            f"{url.partition(':')[0]!r}... is not a database URL; use for example sqlite:////path/jobs.db or postgresql://user@host/name"
        ) from None
    kind = parsed.get_backend_name()
    if kind in _POSTGRES:
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise StoreError(
            f"{kind!r} databases are not supported; use sqlite:////path/jobs.db or postgresql://user@host/name"
        )
    return parsed


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
        for attempt in range(WAL_ATTEMPTS):
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
                break
            except connection.OperationalError:  # others change it too, for which SQLite does not wait by itself
                if attempt == WAL_ATTEMPTS - 1:
                    raise
                cursor.execute("BEGIN IMMEDIATE")  # which does wait, until they are done
                cursor.execute("COMMIT")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        writes, level = options.get(WRITES, False), "FULL" if durable and options.get(PROMISES, False) else "NORMAL"
        driver: Any = connection.connection.driver_connection
        if writes and connection.info.get("synchronous") != level:
            driver.execute(f"PRAGMA synchronous = {level}")
            connection.info["synchronous"] = level
        driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
