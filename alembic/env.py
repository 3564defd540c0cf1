"""Alembic's entry: migrations run at start (`app.db.migrate`), on the connection that it hands over."""

from alembic import context

from app.db.rows import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
