"""Alembic's entry point: runs on the connection, and inside the transaction, that `schema.migrate` hands over."""

from alembic import context

from quillgate_core.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
