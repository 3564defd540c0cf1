"""The clock that DBOS stamps its rows with on Python 3.12 and newer, with whatever SQLite there is."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from app.db.subseconds import teach_subseconds


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    teach_subseconds()
    teach_subseconds()  # by every part of a process that opens the queue
    opened = sa.create_engine(f"sqlite:///{tmp_path}/queue.db")
    yield opened
    opened.dispose()


def test_it_has_milliseconds_also_as_the_default_of_a_column(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (n INTEGER, at INTEGER NOT NULL DEFAULT (unixepoch('subsec') * 1000))"))
        began = time.time()
        for n in range(2):
            connection.execute(sa.text("INSERT INTO t (n) VALUES (:n)"), {"n": n})
            time.sleep(0.02)
        first, second = connection.scalars(sa.text("SELECT at FROM t ORDER BY n"))
        whole = connection.scalar(sa.text("SELECT unixepoch()"))
    assert first == pytest.approx(1000 * began, abs=500)
    assert 15 <= second - first < 500
    assert isinstance(whole, int)
    assert whole == pytest.approx(began, abs=2)


def test_what_it_does_not_know_is_no_wrong_time(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT unixepoch('now', 'subsec')")) == pytest.approx(time.time(), abs=2)
        try:
            answer = connection.scalar(sa.text("SELECT unixepoch('2026-11-24 00:00:00')"))
        except OperationalError:
            return
    assert answer == 1795478400
