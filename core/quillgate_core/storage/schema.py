"""Brings the database to the schema of this release, and refuses one that a newer release has changed.

Migrations live in `migrations/versions`; they run programmatically, all pending ones in one transaction under an
advisory lock, so any number of processes may start at once. Nothing else in the service may change the schema.
"""

from typing import Final

from sqlalchemy import Connection, Engine, text

from quillgate_core.storage.engine import database_errors

HEAD: Final = "0005"
"""The revision of the newest migration."""

# Any constant that nobody else uses: "QG" and "schema" in ASCII.
_ADVISORY_LOCK_ID = 0x5147736368656D61
_LOCK_WAIT_MS = 60_000


def migrate(engine: Engine) -> None:
    """Apply every migration that the database lacks; waits up to a minute for another process that does the same.

    Raises StartupError if the database has a revision that this release does not know, and changes nothing then.
    """
    with database_errors(), engine.begin() as connection:
        if _is_current(connection):
            return
        # Most starts need no Alembic, which costs each process 10 MB and a twentieth of a second.
        from quillgate_core.storage.upgrade import upgrade

        connection.execute(text(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {_LOCK_WAIT_MS}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _ADVISORY_LOCK_ID})
        upgrade(connection)


def _is_current(connection: Connection) -> bool:
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
        return False
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD]
