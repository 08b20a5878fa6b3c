"""Runs the migrations with Alembic. Apart from `schema.py`, so that a start with nothing to migrate does without it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from quillgate_core.storage.startup import StartupError


def upgrade(connection: Connection) -> None:
    """Apply every migration that the database lacks, in the connection's transaction.

    Raises StartupError if the database has a revision that this release does not know, and changes nothing then.
    """
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
