"""Models and datasets: names, versions, pages."""

from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.db.pages import Page, page_from_rows
from app.db.rows import DatasetRow, ModelRow, NameRow, new_id
from app.errors import NotFound

Upload = TypeVar("Upload", ModelRow, DatasetRow)
_KINDS = {ModelRow: ("model", "mdl"), DatasetRow: ("dataset", "dst")}


def save_upload(session: Session, row: Upload) -> tuple[Upload, bool]:
    """Store the row, or find the one of the same name and digest; the name points to it. Returns (row, was new)."""
    kind = type(row)
    known = session.scalar(sa.select(kind).where(kind.name == row.name, kind.digest == row.digest))
    if known is None:
        row.id = new_id(_KINDS[kind][1])
        session.add(row)
        session.flush()
    found = known or row
    session.merge(NameRow(kind=_KINDS[kind][0], name=found.name, target_id=found.id))
    return found, known is None


def find_upload(session: Session, kind: type[Upload], reference: str) -> Upload | None:
    """Return the row with that id, or the one that the name points to now."""
    by_id = session.get(kind, reference)
    if by_id is not None:
        return by_id
    name = session.get(NameRow, (_KINDS[kind][0], reference))
    return session.get(kind, name.target_id) if name else None


def get_upload(session: Session, kind: type[Upload], reference: str) -> Upload:
    """Return what `find_upload` finds. Raises NotFound."""
    row = find_upload(session, kind, reference)
    if row is None:
        raise NotFound(kind=_KINDS[kind][0], name=reference)
    return row


def list_uploads(session: Session, kind: type[Upload], page: Page) -> tuple[list[Upload], str | None]:
    """Return one page of rows, newest first, and the cursor of the next."""
    return page_from_rows(session, kind, sa.select(kind), page)


def lock_name(session: Session, kind: type[Any], name: str) -> str | None:
    """Return the id that a name points to, and hold the name until the transaction ends."""
    row = session.get(NameRow, (_KINDS[kind][0], name), with_for_update=True)
    return row.target_id if row else None


def current_digest(session: Session, kind: type[Any], name: str) -> str | None:
    """Return the digest that a name points to now."""
    row = find_upload(session, kind, name)
    return row.digest if row else None
