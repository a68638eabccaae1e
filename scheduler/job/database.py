"""One database, opened and with its schema up to date, and transactions on it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Self

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, TimeoutError

from scheduler.job.engine import open_engine, options_for
from scheduler.job.migrations import prepare_schema
from scheduler.job.tables import DatabaseUnavailable
from scheduler.job.turnstile import Turnstile


class Database:
    """A database by URL. May be used by several threads; several processes may open one."""

    def __init__(self, url: str, *, durable: bool = True) -> None:
        self._engine = open_engine(url, durable=durable)
        self._engines = {
            (writes, promises): self._engine.execution_options(
                **options_for(self._engine, writes=writes, promises=promises)
            )
            for writes in (False, True)
            for promises in (False, True)
        }
        self.dialect, self._turns = self._engine.dialect.name, Turnstile()
        self.where = self._engine.url.render_as_string(hide_password=True)
        try:
            with self.transaction(writes=True) as connection:
                prepare_schema(connection, self.where)
        except BaseException:  # whatever went wrong, the connections must not stay open
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; no other thread may use them meanwhile."""
        self._engine.dispose()

    def _turn(self, writes: bool, promises: bool) -> AbstractContextManager[None]:
        """While it writes. SQLite has one writer at a time, and what was promised to somebody goes before reports."""
        return self._turns.turn(first=promises) if writes and self.dialect == "sqlite" else nullcontext()

    @contextmanager
    def transaction(self, *, writes: bool = False, promises: bool = False) -> Iterator[Connection]:
        """A transaction that is kept if nothing is raised. promises: it outlives a power cut."""
        try:
            with self._turn(writes, promises), self._engines[writes, promises].begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (DBAPIError, TimeoutError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise DatabaseUnavailable(
                f"the job database {self.where} does not work: {cause}; check the file or the server"
            ) from error
