"""What jobs computed: observations, tables, Q/DQ models, engines, reports, each under its key."""

from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.pages import Page, page_from_rows
from app.db.rows import EngineRow, ModelRow, ObservationRow, QuantizedRow, ReportRow, TableRow, TimingCacheRow, new_id
from app.errors import NotFound, TableNondeterministic

#: Two computed tables of one key whose scales differ by no more than this fraction are one table.
_TABLES_AGREE = 1e-5

Keyed = TypeVar("Keyed", ObservationRow, QuantizedRow, ReportRow, TimingCacheRow)


def find_by_key(session: Session, kind: type[Keyed], key: str) -> Keyed | None:
    """Return the observation, Q/DQ model, report or timing cache with that key."""
    return session.get(kind, key)


def save_by_key(session: Session, row: Keyed) -> None:
    """Store a result, in place of an earlier one of its key, whose bytes may be lost."""
    session.merge(row)


def recent_observations(session: Session, model_name: str) -> list[ObservationRow]:
    """Return the last twenty observations of any version of a model name, newest first."""
    named = sa.select(ObservationRow).where(ObservationRow.model_name == model_name)
    return list(session.scalars(named.order_by(ObservationRow.created_at.desc()).limit(20)))


def newest_observations(session: Session, model_digest: str, limit: int = 16) -> list[ObservationRow]:
    """Return the newest observations of a model's bytes, under whatever name, newest first."""
    own = sa.select(ObservationRow).where(ObservationRow.facts["model"].as_string() == model_digest)
    return list(session.scalars(own.order_by(ObservationRow.created_at.desc()).limit(limit)))


def find_table(session: Session, key: str) -> TableRow | None:
    """Return the computed table of a key, the first where two differ. Raises TableNondeterministic if they disagree."""
    computed = sa.select(TableRow).where(TableRow.key == key, TableRow.origin == "computed")
    row = session.scalar(computed.order_by(TableRow.created_at, TableRow.id).limit(1))
    if row is not None and row.facts.get("disagreement", 0.0) > _TABLES_AGREE:
        raise TableNondeterministic
    return row


def find_imported_table(session: Session, model_digest: str, equalizer: str | None) -> TableRow | None:
    """Return the table that was imported last for a model, under whatever name; filled up ones (derived) count as well.

    Only one of the model with weights equalized in this way (None: as they are) will do.
    """
    models = sa.select(ModelRow.id).where(ModelRow.digest == model_digest)
    imported = sa.select(TableRow).where(TableRow.model_id.in_(models), TableRow.origin.in_(("imported", "derived")))
    fitting = imported.where(TableRow.facts["equalizer"].as_string().is_not_distinct_from(equalizer))
    return session.scalar(fitting.order_by(TableRow.created_at.desc(), TableRow.id).limit(1))


def note_disagreement(session: Session, row: TableRow, drift: float) -> None:
    """Write on every table of this key by how much the bodies differ, as a fraction."""
    for other in session.scalars(sa.select(TableRow).where(TableRow.key == row.key, TableRow.origin == row.origin)):
        other.facts = other.facts | {"disagreement": max(drift, other.facts.get("disagreement", 0.0))}


def find_tables_of_observation(session: Session, observation_key: str) -> list[TableRow]:
    """Return the tables derived from one observation, newest first."""
    derived = sa.select(TableRow).where(TableRow.observation_key == observation_key)
    return list(session.scalars(derived.order_by(TableRow.created_at.desc())))


def tables_of_key(session: Session, key: str) -> list[TableRow]:
    """Return all computed tables of a key, the first one first."""
    computed = sa.select(TableRow).where(TableRow.key == key, TableRow.origin == "computed")
    return list(session.scalars(computed.order_by(TableRow.created_at, TableRow.id)))


def save_table(session: Session, row: TableRow) -> TableRow:
    """Store a table and return its row.

    The same key and body is the same table. A second body of one key is kept beside the first, and both are marked
    nondeterministic: see `note_disagreement` and `find_table`.
    """
    others = list(session.scalars(sa.select(TableRow).where(TableRow.key == row.key, TableRow.origin == row.origin)))
    for other in others:
        if other.body == row.body:
            return other
    row.id = new_id("tbl")
    row.nondeterministic = bool(others)
    for other in others:
        other.nondeterministic = True
    session.add(row)
    session.flush()
    return row


def save_imported_table(session: Session, row: TableRow) -> TableRow:
    """Store a table that came from outside and return its row; one that is known is the last one from now on."""
    try:
        with session.begin_nested():
            saved = save_table(session, row)
    except IntegrityError:  # another import of the very same came first, and was not to be seen yet
        saved = save_table(session, row)
    saved.created_at = datetime.now(UTC)
    return saved


def get_table(session: Session, table_id: str) -> TableRow:
    """Return the table. Raises NotFound."""
    row = session.get(TableRow, table_id)
    if row is None:
        raise NotFound(kind="table", name=table_id)
    return row


def list_tables(
    session: Session, page: Page, model_ids: list[str] | None, dataset_ids: list[str] | None
) -> tuple[list[TableRow], str | None]:
    """Return one page of tables, newest first, of some models and datasets, and the cursor of the next."""
    query = sa.select(TableRow)
    if model_ids is not None:
        query = query.where(TableRow.model_id.in_(model_ids))
    if dataset_ids is not None:
        query = query.where(TableRow.dataset_id.in_(dataset_ids))
    return page_from_rows(session, TableRow, query, page)


def ids_of_name(session: Session, kind: Any, name: str) -> list[str]:
    """Return the ids of all versions of a name, or the id itself."""
    return list(session.scalars(sa.select(kind.id).where(sa.or_(kind.name == name, kind.id == name))))


def find_engine(session: Session, key: str) -> EngineRow | None:
    """Return the engine with that key."""
    return session.scalar(sa.select(EngineRow).where(EngineRow.key == key))


def save_engine(session: Session, row: EngineRow) -> EngineRow:
    """Store an engine and return its row; one that was built anew, because its plan was lost, keeps its id."""
    known = find_engine(session, row.key)
    if known is not None:
        known.plan, known.plan_bytes, known.facts = row.plan, row.plan_bytes, row.facts
        return known
    row.id = new_id("eng")
    session.add(row)
    session.flush()
    return row


def get_engine(session: Session, engine_id: str) -> EngineRow:
    """Return the engine. Raises NotFound."""
    row = session.get(EngineRow, engine_id)
    if row is None:
        raise NotFound(kind="engine", name=engine_id)
    return row


def list_engines(session: Session, page: Page) -> tuple[list[EngineRow], str | None]:
    """Return one page of engines, newest first, and the cursor of the next."""
    return page_from_rows(session, EngineRow, sa.select(EngineRow), page)


def latest_report(session: Session, engine_id: str) -> ReportRow | None:
    """Return what the judge said last of an engine."""
    about = sa.select(ReportRow).where(ReportRow.engine_id == engine_id)
    return session.scalar(about.order_by(ReportRow.created_at.desc()).limit(1))
