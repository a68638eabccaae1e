"""Databases of every release that there was: found again, upgraded once, and left alone if they are newer or somebody else's."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from graphir.errors import ServiceUnavailable
from scheduler.job.events import Finished, StepDone
from scheduler.job.migrations import MARK, SchemaTooNew, prepare_schema, upgrade
from scheduler.job.state import Status, replay
from scheduler.job.store import Store
from scheduler.job.tables import HEAD, StoreError, metadata
from tests.test_job_store import RESULT, ROOT, digest_of, file_of, journal, raw, spec


def write_v1(connection: Connection) -> None:
    """What the first release wrote, in the words of either database."""
    script = (ROOT / "tests" / "golden" / "jobs_v1.sql").read_text()
    statements = [
        part.strip() for part in script.split(";\n") if part.strip() not in ("", "BEGIN TRANSACTION", "COMMIT")
    ]
    if connection.dialect.name == "postgresql":  # where events must find their jobs
        statements = [each.replace("DOUBLE", "DOUBLE PRECISION") for each in statements]
        statements.sort(key=lambda each: "events" in each.partition("(")[0])
    for statement in statements:
        connection.exec_driver_sql(statement)


def mark(connection: Connection) -> str:
    return str(connection.execute(text(f"SELECT version_num FROM {MARK}")).scalar_one())


def test_a_database_is_found_again(url: str) -> None:
    with Store(url, durable=True) as store:
        job = store.submit(spec(), 1.0)
    with Store(url) as store:
        assert [record.id for record in store.jobs()] == [job]
    with raw(url) as database:
        assert mark(database) == HEAD
        if url.startswith("sqlite"):
            assert database.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


def test_an_older_database_is_brought_up_to_date(url: str) -> None:
    with raw(url) as database:
        write_v1(database)
    with Store(url) as store:
        running, ended = store.jobs()
        assert (ended.job.status, ended.job.result, ended.spec.name) == (Status.SUCCEEDED, RESULT, "ended")
        assert all(replay(record.spec, journal(store, record.id)) == record.job for record in (running, ended))
        done = [StepDone(3.0, 1, 1), StepDone(4.0, 2, 1), Finished(5.0, 1, digest_of(b"small"))]
        store.append(running.id, done, values={digest_of(b"small"): b"small"})
    with Store(url) as store:
        assert store.value(digest_of(b"small")) == b"small"
        assert store.unfinished() == []
    with raw(url) as database:
        assert mark(database) == HEAD
        assert not inspect(database).has_table("gradfleet_schema")


def differences(connection: Connection) -> list[object]:
    """How the database differs from the schema that the tables describe."""
    ours = {"version_table": MARK, "compare_type": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=ours), metadata))


@pytest.mark.parametrize("begun", ["by nobody", "by the first release"])
def test_revisions_lead_to_the_schema(url: str, begun: str) -> None:
    with raw(url) as database:
        if begun == "by the first release":
            write_v1(database)
            prepare_schema(database, url)
        else:
            upgrade(database)
        assert differences(database) == []
        assert mark(database) == HEAD


def test_alembic_is_loaded_only_where_it_is_needed(url: str) -> None:
    code = (
        "import sys; from scheduler.job.store import Store; Store(sys.argv[1]).close(); print('alembic' in sys.modules)"
    )
    with raw(url) as database:
        write_v1(database)
    said = [
        subprocess.run(
            [sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True
        ).stdout
        for _ in range(2)
    ]
    assert said == ["True\n", "False\n"]


def test_processes_that_open_an_old_database_at_once_upgrade_it_once(url: str) -> None:
    with raw(url) as database:
        write_v1(database)
    barrier = threading.Barrier(6)

    def count(_: int) -> int:
        barrier.wait()
        with Store(url) as own:
            return len(own.jobs())

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(count, range(6))) == [2] * 6


def test_a_newer_schema_is_refused_and_left_alone(url: str) -> None:
    Store(url).close()
    with raw(url) as database:
        database.execute(text(f"UPDATE {MARK} SET version_num = '9999'"))
        database.execute(text("DROP TABLE events"))
    with pytest.raises(SchemaTooNew, match=f"has schema 9999, this release knows up to {HEAD}"):
        Store(url)
    with raw(url) as database:
        assert set(inspect(database).get_table_names()) == {MARK, *metadata.tables} - {"events"}


def test_somebody_else_s_database_is_refused(url: str) -> None:
    with raw(url) as database:
        database.execute(text("CREATE TABLE jobs (payroll TEXT)"))
    with pytest.raises(StoreError, match="has a table 'jobs' that is not ours"):
        Store(url)


def test_what_is_no_database(sqlite: str, tmp_path: Path) -> None:
    file_of(sqlite).parent.mkdir()
    file_of(sqlite).write_bytes(b"plain text, and not a database at all" * 100)
    with pytest.raises(ServiceUnavailable, match="file is not a database"):
        Store(sqlite)
    with pytest.raises(ServiceUnavailable, match="unable to open"):
        Store(f"sqlite:///{tmp_path}")
    for wrong in (
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        f"sqlite:///{sqlite[10:]}/below.db",
        "nosql://x",
        "mysql://x/y",
    ):
        with pytest.raises(StoreError):
            Store(wrong)
