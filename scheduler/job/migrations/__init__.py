"""The schema of a database, brought up to date: alembic's revisions in `versions`, one file each.

A new database is made as `tables` says and marked with the last revision; one that is up to date is recognised by its mark.
Neither needs alembic, which takes a while to load. All happens in the transaction of whoever opens the database, one at a time.
"""

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select, text

from scheduler.job.tables import HEAD, StoreError, metadata

HERE = Path(__file__).parent
MARK = "gradfleet_revision"
_mark = Table(MARK, MetaData(), Column("version_num", String(32), primary_key=True))
_BEFORE = "gradfleet_schema"
"""What held the number of the schema, 1 to 3, before there were revisions."""
_LOCK = 0x67726164


class SchemaTooNew(StoreError):
    """A newer release of Gradfleet has written this database."""


def prepare_schema(connection: Connection, where: str) -> None:
    """Make the tables of a new database, bring those of an old one up to date, refuse a newer one."""
    if connection.dialect.name == "postgresql":  # on SQLite the transaction has the write lock
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    present = set(inspect(connection).get_table_names())
    if MARK in present:
        revision = str(connection.execute(select(_mark.c.version_num)).scalar_one())
    elif _BEFORE in present:
        revision = _adopt(connection)
    else:
        foreign = sorted(present & set(metadata.tables))
        if foreign:
            raise StoreError(f"{where} has a table {foreign[0]!r} that is not ours; use a database of its own")
        metadata.create_all(connection)
        _set_mark(connection, HEAD)
        return
    if revision > HEAD:
        raise SchemaTooNew(
            f"{where} has schema {revision}, this release knows up to {HEAD}; upgrade Gradfleet, or use another database"
        )
    if revision < HEAD:
        upgrade(connection)


def upgrade(connection: Connection, to: str = "head") -> None:
    """Go through the revisions that this database has not seen, up to one."""
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    command.upgrade(config, to)


def _adopt(connection: Connection) -> str:
    """The revision of a database from before there were any."""
    number = connection.execute(text(f"SELECT version FROM {_BEFORE}")).scalar_one()
    connection.execute(text(f"DROP TABLE {_BEFORE}"))
    revision = f"{int(number):04}"
    _set_mark(connection, revision)
    return revision


def _set_mark(connection: Connection, revision: str) -> None:
    _mark.create(connection)
    connection.execute(insert(_mark).values(version_num=revision))
