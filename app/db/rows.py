"""The tables. Keys and digests are lowercase sha256 hex; ids are opaque (`mdl_...`); times are aware UTC."""

import secrets
import string
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_ALPHABET = string.digits + string.ascii_lowercase
LIVE_STATES = ("queued", "running")


def new_id(kind: str) -> str:
    """Return a fresh opaque id such as `job_4k2...`: 24 random letters and digits."""
    return f"{kind}_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


class Utc(sa.TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite forgets the zone, so it is given back here."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: sa.JSON, list[Any]: sa.JSON, datetime: Utc}  # noqa: RUF012 (declared so by SQLAlchemy)


class NameRow(Base):
    """What a name points to: its last upload."""

    __tablename__ = "names"
    kind: Mapped[str] = mapped_column(sa.String(16), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(100), primary_key=True)
    target_id: Mapped[str] = mapped_column(sa.String(40))


class ModelRow(Base):
    """An uploaded ONNX file, or one with its external data: `files` = [{name, sha256, size}], the .onnx first."""

    __tablename__ = "models"
    __table_args__ = (sa.UniqueConstraint("name", "digest", name="uq_models_name_digest"),)
    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(100), index=True)
    digest: Mapped[str] = mapped_column(sa.String(64), index=True)
    files: Mapped[list[Any]]
    facts: Mapped[dict[str, Any]]
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=_now)


class DatasetRow(Base):
    """An uploaded set of images; `listing` is the digest of its listing, which names every file and its pack."""

    __tablename__ = "datasets"
    __table_args__ = (sa.UniqueConstraint("name", "digest", name="uq_datasets_name_digest"),)
    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(100), index=True)
    digest: Mapped[str] = mapped_column(sa.String(64), index=True)
    listing: Mapped[str] = mapped_column(sa.String(64))
    packs: Mapped[list[Any]]
    images: Mapped[int]
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    labels: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    ignored: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=_now)


class ObservationRow(Base):
    """The histograms of one model on one dataset, under their key; `facts` says from what, for the reason of a miss."""

    __tablename__ = "observations"
    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    model_name: Mapped[str] = mapped_column(sa.String(100), index=True)
    facts: Mapped[dict[str, Any]]
    body: Mapped[str] = mapped_column(sa.String(64))
    report: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=_now)


class TableRow(Base):
    """A calibration table; `body` is the digest of its JSON. Two computed bodies of one key stand side by side."""

    __tablename__ = "tables"
    __table_args__ = (sa.UniqueConstraint("key", "origin", "body", name="uq_tables_key_origin_body"),)
    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(64), index=True)
    origin: Mapped[str] = mapped_column(sa.String(16))
    method: Mapped[str] = mapped_column(sa.String(40))
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"), index=True)
    observation_key: Mapped[str | None] = mapped_column(sa.String(64))
    body: Mapped[str] = mapped_column(sa.String(64))
    facts: Mapped[dict[str, Any]]
    nondeterministic: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=_now, index=True)


class QuantizedRow(Base):
    """A Q/DQ model made from a model and a table, under the key of both and the quantize spec."""

    __tablename__ = "quantized"
    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    body: Mapped[str] = mapped_column(sa.String(64))
    report: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=_now)


class EngineRow(Base):
    """A built engine; `plan` is the digest of its bytes."""

    __tablename__ = "engines"
    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(64), unique=True)
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), index=True)
    table_id: Mapped[str | None] = mapped_column(sa.ForeignKey("tables.id"), index=True)
    backend: Mapped[str] = mapped_column(sa.String(32))
    precision: Mapped[str] = mapped_column(sa.String(8))
    plan: Mapped[str] = mapped_column(sa.String(64))
    plan_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=_now)


class ReportRow(Base):
    """What the judge measured of an engine, under its key."""

    __tablename__ = "reports"
    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    engine_id: Mapped[str] = mapped_column(sa.ForeignKey("engines.id"), index=True)
    report: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=_now)


class TimingCacheRow(Base):
    """What TensorRT measured of its kernels on one kind of machine, which `facts` name; `body` is the digest of it."""

    __tablename__ = "timing_caches"
    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    facts: Mapped[dict[str, Any]]
    body: Mapped[str] = mapped_column(sa.String(64))
    created_at: Mapped[datetime] = mapped_column(default=_now)


class JobRow(Base):
    """A job. `attempt` is the fence: it is raised at each start, and a worker writes only while it is its own."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(64), index=True)
    state: Mapped[str] = mapped_column(sa.String(16), index=True)
    stage: Mapped[str | None] = mapped_column(sa.String(16))
    progress_done: Mapped[int] = mapped_column(default=0)
    progress_total: Mapped[int | None]
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    queue: Mapped[str] = mapped_column(sa.String(64))
    priority: Mapped[int]
    resolved: Mapped[dict[str, Any]]
    wait_until: Mapped[datetime | None]
    worker_id: Mapped[str | None] = mapped_column(sa.String(100))
    error: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    warnings: Mapped[list[Any]] = mapped_column(default=list)
    cache: Mapped[dict[str, Any]]
    table_id: Mapped[str | None] = mapped_column(sa.String(40))
    engine_id: Mapped[str | None] = mapped_column(sa.String(40))
    report_key: Mapped[str | None] = mapped_column(sa.String(64))
    created_at: Mapped[datetime] = mapped_column(default=_now, index=True)
    stage_started_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


#: Single flight: at most one live job of a key.
sa.Index(
    "uq_jobs_live_key",
    JobRow.key,
    unique=True,
    sqlite_where=JobRow.state.in_(LIVE_STATES),
    postgresql_where=JobRow.state.in_(LIVE_STATES),
)


class JobEventRow(Base):
    """One line of a job's story: kind is stage, progress, log or done."""

    __tablename__ = "job_events"
    number: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id"), index=True)
    kind: Mapped[str] = mapped_column(sa.String(16))
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=_now)


class ClaimRow(Base):
    """A step in flight: another job that needs the same key waits for it instead of repeating it."""

    __tablename__ = "claims"
    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(sa.String(40))
    attempt: Mapped[int]


class WorkerRow(Base):
    """A worker process; `beat` is the database's clock at its last heartbeat, in seconds since 1970."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(sa.String(100), primary_key=True)
    queues: Mapped[list[Any]]
    facts: Mapped[dict[str, Any]]
    beat: Mapped[float]
    started_at: Mapped[datetime] = mapped_column(default=_now)
