"""Cursor paging, newest first: a cursor is the id of the last row seen."""

from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.errors import RequestProblem

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page:
    """Which rows a list shows: at most `limit` after the row with id `after`."""

    limit: int = 50
    after: str | None = None


def page_from_rows(session: Session, kind: Any, query: sa.Select[Any], page: Page) -> tuple[list[Any], str | None]:
    """Return the rows of one page and the cursor of the next, None at the end."""
    if page.after is not None:
        last = session.get(kind, page.after)
        if last is None:
            raise RequestProblem(reason="this cursor is unknown; start again without one")
        query = query.where(sa.tuple_(kind.created_at, kind.id) < (last.created_at, last.id))
    query = query.order_by(kind.created_at.desc(), kind.id.desc()).limit(page.limit + 1)
    rows = list(session.scalars(query))
    more = len(rows) > page.limit
    return rows[: page.limit], rows[page.limit - 1].id if more else None
