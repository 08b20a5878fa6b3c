"""Brings the database to the schema of this release, and refuses one that a newer release has changed.

Migrations live in `migrations/versions`; they run programmatically, all pending ones in one transaction under an
advisory lock, so any number of processes may start at once. Nothing else in the service may change the schema.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.startup import StartupError

# Any constant that nobody else uses: "QG" and "schema" in ASCII.
_ADVISORY_LOCK_ID = 0x5147736368656D61
_LOCK_WAIT_MS = 60_000


def migrate(engine: Engine) -> None:
    """Apply every migration that the database lacks; waits up to a minute for another process that does the same.

    Raises StartupError if the database has a revision that this release does not know, and changes nothing then.
    """
    with database_errors(), engine.begin() as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {_LOCK_WAIT_MS}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _ADVISORY_LOCK_ID})
        config = _config(connection)
        _refuse_unknown_revision(connection, ScriptDirectory.from_config(config))
        command.upgrade(config, "head")


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    location = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", location.replace("%", "%%"))
    return config


def _refuse_unknown_revision(connection: Connection, scripts: ScriptDirectory) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise StartupError(
            f"The database's schema revision {', '.join(sorted(unknown))} is not known to this release of Quillgate: "
            "a newer release has changed it. Start that release, or restore a backup made before."
        )
