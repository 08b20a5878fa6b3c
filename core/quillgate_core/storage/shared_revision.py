"""The revisions that cores poll to learn that something they hold in memory has changed. Must be bumped last."""

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from quillgate_core.storage.tables import shared_revisions


def bump_shared_revision(connection: Connection, name: str) -> None:
    """Makes the revision grow with the transaction; its row is locked until then, so do this last."""
    statement = insert(shared_revisions).values(name=name, revision=1)
    grown = {"revision": shared_revisions.c.revision + 1}
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=grown))


def read_shared_revision(connection: Connection, name: str) -> int:
    """Returns the revision, 0 before the first change."""
    statement = select(shared_revisions.c.revision).where(shared_revisions.c.name == name)
    revision: int | None = connection.execute(statement).scalar_one_or_none()
    return revision or 0
