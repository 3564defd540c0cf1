"""The database: SQLite for one host, Postgres for many; one transaction per request or step."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
import sqlalchemy.event
import sqlalchemy.exc
import structlog
from sqlalchemy.orm import Session

from app.errors import DatabaseUnavailable

log = structlog.get_logger()

_RETRY_SECONDS = 0.5

#: The first releases without the bug that may lose a checkpointed WAL (sqlite.org/wal.html, "WAL-reset bug").
_WAL_FIXED = ((3, 51, 3), (3, 50, 7), (3, 44, 6))


@contextmanager
def raising_problems() -> Iterator[None]:
    """Turn a database that does not answer into DatabaseUnavailable."""
    try:
        yield
    except sqlalchemy.exc.OperationalError as error:
        log.warning("database unavailable", error=str(error.orig))
        raise DatabaseUnavailable from error


class Database:
    """One pool of connections. `transaction()` is the only way in and holds the only commit."""

    def __init__(self, url: str, patience_seconds: float = 0) -> None:
        """Open the database. A worker is patient: it waits so long for one that does not answer, and keeps its work."""
        self.url = url
        self._patience_seconds = patience_seconds
        self.is_sqlite = url.startswith("sqlite")
        self._engine = sa.create_engine(url, pool_pre_ping=True, pool_size=16, max_overflow=16)
        if self.is_sqlite:
            sqlalchemy.event.listen(self._engine, "connect", _prepare_sqlite)
            sqlalchemy.event.listen(self._engine, "begin", _begin_immediately)
            _warn_of_old_sqlite()
        self._readers = self._engine.execution_options(writes=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Give a session that may write; commit at the end, roll back on any error.

        Raises DatabaseUnavailable when the database does not answer or stays locked.
        """
        with self._session(self._engine) as session:
            yield session
            session.commit()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a session that only reads; it waits for no writer. Raises DatabaseUnavailable."""
        with self._session(self._readers) as session:
            yield session

    @contextmanager
    def _session(self, engine: sa.Engine) -> Iterator[Session]:
        with raising_problems(), Session(engine, expire_on_commit=False) as session:
            self._begin(session)
            yield session

    def _begin(self, session: Session) -> None:
        until = time.monotonic() + self._patience_seconds
        while True:
            try:
                session.connection()
                return
            except sqlalchemy.exc.OperationalError:
                session.rollback()
                if time.monotonic() >= until:
                    raise
                time.sleep(_RETRY_SECONDS)

    def migration_connection(self) -> Any:
        """Return a connection in a transaction, as a context manager, for alembic."""
        return self._engine.begin()

    def close(self) -> None:
        self._engine.dispose()


def clock(session: Session) -> float:
    """Return the database's own time as seconds since 1970: hosts may disagree about theirs."""
    if session.get_bind().dialect.name == "sqlite":
        return session.scalar(sa.text("SELECT (julianday('now') - 2440587.5) * 86400.0"))
    return float(session.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")))


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions of its own; see _begin_immediately
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediately(connection: sa.Connection) -> None:
    # A deferred transaction that reads first and writes later fails at once when another writer came between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes", True) else "BEGIN")


def _warn_of_old_sqlite() -> None:
    version = sqlite3.sqlite_version_info
    if not any(version >= fixed and (version[:2] == fixed[:2] or fixed == _WAL_FIXED[0]) for fixed in _WAL_FIXED):
        log.warning("this SQLite has the WAL-reset bug; use 3.51.3, 3.50.7 or 3.44.6", sqlite=sqlite3.sqlite_version)
