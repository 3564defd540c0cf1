"""Bring the database to the newest schema."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from app.db.database import Database

#: Serialises migrations of many hosts on one Postgres; any constant will do.
_ADVISORY_LOCK = 0x656E6769


def migrate(database: Database) -> None:
    """Apply every migration that is missing, in one transaction; hosts that start together wait for each other."""
    with database.migration_connection() as connection:
        if not database.is_sqlite:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: object) -> Config:
    """Return alembic's configuration for an open connection; the scripts lie in the wheel or beside `app`."""
    config = Config()
    config.set_main_option("script_location", str(_scripts()))
    config.attributes["connection"] = connection
    return config


def _scripts() -> Path:
    package = Path(__file__).parent.parent
    packaged = package / "_alembic"
    return packaged if packaged.is_dir() else package.parent / "alembic"
