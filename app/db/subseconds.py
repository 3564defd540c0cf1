"""`unixepoch('subsec')` for SQLite before 3.42 (Debian 12's is 3.40), which answers NULL.

DBOS stamps its rows with it on Python 3.12 and newer, and cannot start without.
"""

import sqlite3
import time

import sqlalchemy as sa
import sqlalchemy.event

_FIRST_WITH_SUBSEC = (3, 42)


def teach_subseconds() -> None:
    """Give the function to every SQLite connection that this process opens from now on, where SQLite lacks it."""
    is_lacking = sqlite3.sqlite_version_info < _FIRST_WITH_SUBSEC
    if is_lacking and not sqlalchemy.event.contains(sa.Engine, "connect", _add_unixepoch):
        sqlalchemy.event.listen(sa.Engine, "connect", _add_unixepoch)


def _add_unixepoch(connection: object, _record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.create_function("unixepoch", -1, _unixepoch)


def _unixepoch(*words: str) -> float:
    if set(words) - {"now", "subsec", "subsecond"}:
        raise ValueError(f"unixepoch{words} is not known here")
    return int(time.time() * 1000) / 1000 if {"subsec", "subsecond"} & set(words) else int(time.time())
