"""The workspaces in PostgreSQL. Only SQL: who may do what is decided by `workspaces.py`."""

from dataclasses import fields
from typing import Any

from sqlalchemy import Engine, Row, func, insert, select, tuple_, update

from quillgate_core.page import PageStart
from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.tables import workspaces
from quillgate_core.unchanged import UNCHANGED
from quillgate_core.workspaces import AtAllowance, Workspace, WorkspaceChanges

_NOW = func.clock_timestamp()
_COLUMNS = tuple(workspaces.c[field.name] for field in fields(Workspace))


class PostgresWorkspaceStore:
    """A WorkspaceStore on an engine; raises Overloaded when the database is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def insert(
        self,
        workspace_id: str,
        *,
        name: str,
        daily_message_allowance: int | None,
        monthly_message_allowance: int | None,
        at_allowance: AtAllowance,
        store_responses: bool,
    ) -> Workspace:
        """Add a workspace; both times are the database's."""
        values = {
            "workspace_id": workspace_id,
            "name": name,
            "daily_message_allowance": daily_message_allowance,
            "monthly_message_allowance": monthly_message_allowance,
            "at_allowance": at_allowance,
            "store_responses": store_responses,
        }
        statement = insert(workspaces).values(values).returning(*_COLUMNS)
        with database_errors(), self._engine.begin() as connection:
            return _workspace(connection.execute(statement).one())

    def get(self, workspace_id: str) -> Workspace | None:
        """Return the workspace, None if there is none."""
        statement = select(*_COLUMNS).where(workspaces.c.workspace_id == workspace_id)
        with database_errors(), self._engine.connect() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else _workspace(row)

    def list(self, *, limit: int, after: PageStart | None) -> tuple[Workspace, ...]:
        """Return at most `limit` workspaces in order of creation."""
        place = tuple_(workspaces.c.create_time, workspaces.c.workspace_id)
        statement = select(*_COLUMNS).order_by(workspaces.c.create_time, workspaces.c.workspace_id).limit(limit)
        if after is not None:
            statement = statement.where(place > tuple_(after.create_time, after.entry_id))
        with database_errors(), self._engine.connect() as connection:
            return tuple(_workspace(row) for row in connection.execute(statement))

    def update(self, workspace_id: str, changes: WorkspaceChanges) -> Workspace | None:
        """Change the workspace and return it, None if there is none; the time of a first disabling stays."""
        given = {field.name: getattr(changes, field.name) for field in fields(changes)}
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not UNCHANGED}
        if "disabled" in values:
            values["disable_time"] = func.coalesce(workspaces.c.disable_time, _NOW) if values.pop("disabled") else None
        values["update_time"] = _NOW
        statement = (
            update(workspaces).where(workspaces.c.workspace_id == workspace_id).values(values).returning(*_COLUMNS)
        )
        with database_errors(), self._engine.begin() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else _workspace(row)


def _workspace(row: Row[Any]) -> Workspace:
    return Workspace(**row._mapping)
