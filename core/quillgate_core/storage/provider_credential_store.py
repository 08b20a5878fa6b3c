"""Workspaces' provider keys in PostgreSQL, sealed. Only SQL: what is sealed how, and who may do what, others decide.

Locks are taken in one order: the workspace, its credentials, the shared revision.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, Select, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from quillgate_core.errors import ProviderCredentialNotFound, WorkspaceNotFound
from quillgate_core.provider_credential import (
    CredentialSet,
    EverySet,
    NewProviderCredential,
    ProviderCredential,
    RewrapStep,
    Unrotated,
)
from quillgate_core.sealing import Sealed
from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.shared_revision import bump_shared_revision, read_shared_revision
from quillgate_core.storage.tables import provider_credentials, workspaces

SHARED_REVISION: Final = "provider_credentials"
_columns = provider_credentials.c


class PostgresProviderCredentialStore:
    """A ProviderCredentialStore on an engine; raises Overloaded when the database is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, credential: NewProviderCredential) -> ProviderCredential:
        """Keep a key, in place of the one before with the same provider. Raises WorkspaceNotFound."""
        values = _values(credential) | {"create_time": func.clock_timestamp()}
        statement = (
            insert(provider_credentials)
            .values(values)
            .on_conflict_do_update(index_elements=["workspace_id", "provider"], set_=values)
            .returning(provider_credentials)
        )
        with database_errors(), self._engine.begin() as connection:
            _bump_workspace(connection, credential.workspace_id)
            row = connection.execute(statement).one()
            bump_shared_revision(connection, SHARED_REVISION)
        return _credential(row)

    def list(self, workspace_id: str) -> tuple[ProviderCredential, ...]:
        """Return a workspace's credentials by provider. Raises WorkspaceNotFound."""
        statement = _of_workspace(workspace_id).order_by(_columns.provider)
        with database_errors(), self._engine.connect() as connection:
            found = tuple(_credential(row) for row in connection.execute(statement))
            if not found:
                _require_workspace(connection, workspace_id)
        return found

    def get(self, workspace_id: str, provider: str) -> ProviderCredential:
        """Return a credential. Raises WorkspaceNotFound or ProviderCredentialNotFound."""
        statement = _of_workspace(workspace_id).where(_columns.provider == provider)
        with database_errors(), self._engine.connect() as connection:
            row = connection.execute(statement).one_or_none()
            if row is None:
                _require_workspace(connection, workspace_id)
                raise ProviderCredentialNotFound(provider)
        return _credential(row)

    def delete(self, workspace_id: str, provider: str) -> None:
        """Forget a credential. Raises WorkspaceNotFound or ProviderCredentialNotFound."""
        own = _columns.workspace_id == workspace_id
        statement = delete(provider_credentials).where(own, _columns.provider == provider)
        with database_errors(), self._engine.begin() as connection:
            _bump_workspace(connection, workspace_id)
            if not connection.execute(statement).rowcount:
                raise ProviderCredentialNotFound(provider)  # which undoes the bump
            bump_shared_revision(connection, SHARED_REVISION)

    def revision(self) -> int:
        """Return the shared revision: it is another one after every change."""
        with database_errors(), self._engine.connect() as connection:
            return read_shared_revision(connection, SHARED_REVISION)

    def every(self) -> EverySet:
        """Return the credentials of all workspaces; one statement, so that sets and revisions fit together."""
        owners = workspaces.outerjoin(provider_credentials)
        statement = (
            select(workspaces.c.workspace_id.label("owner_id"), workspaces.c.credential_revision, provider_credentials)
            .select_from(owners)
            .where(workspaces.c.credential_revision > 0)
            .order_by(workspaces.c.workspace_id, _columns.provider)
        )
        with database_errors(), self._engine.connect() as connection:
            revision = read_shared_revision(connection, SHARED_REVISION)
            rows = connection.execute(statement).all()
        return EverySet(
            revision,
            {owner_id: _set(list(group)) for owner_id, group in groupby(rows, lambda row: row.owner_id)},
        )

    def rewrap(
        self,
        master_key_ids: Sequence[str],
        rewrap: Callable[[ProviderCredential], Sealed | None],
        *,
        limit: int,
        after: str,
    ) -> RewrapStep:
        """Let `rewrap` seal anew a batch of credentials in one transaction; see ProviderCredentialStore."""
        batch = (
            select(provider_credentials)
            .where(_columns.master_key_id.in_(master_key_ids), _columns.credential_id > after)
            .order_by(_columns.credential_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with database_errors(), self._engine.begin() as connection:
            seen = [_credential(row) for row in connection.execute(batch)]
            rewrapped = sum(_rewrap(connection, credential, rewrap(credential)) for credential in seen)
            if rewrapped:
                bump_shared_revision(connection, SHARED_REVISION)
        return RewrapStep(len(seen), rewrapped, seen[-1].credential_id if seen else after)

    def unrotated(self, *, current_id: str, known_ids: Sequence[str]) -> Unrotated:
        """Count what other master keys than the current one wrapped, and of those what none of the known ones did."""
        is_lost = _columns.master_key_id.not_in(known_ids)
        statement = select(func.count(), func.count().filter(is_lost)).where(_columns.master_key_id != current_id)
        with database_errors(), self._engine.connect() as connection:
            remaining, lost = connection.execute(statement).one()
        return Unrotated(remaining, lost)


def has_provider_credentials(engine: Engine) -> bool:
    """Tell whether anything is sealed in the database."""
    with database_errors(), engine.connect() as connection:
        return bool(connection.execute(select(exists(select(_columns.credential_id)))).scalar_one())


def _of_workspace(workspace_id: str) -> Select[Any]:
    return select(provider_credentials).where(_columns.workspace_id == workspace_id)


def _bump_workspace(connection: Connection, workspace_id: str) -> None:
    statement = (
        update(workspaces)
        .where(workspaces.c.workspace_id == workspace_id)
        .values(credential_revision=workspaces.c.credential_revision + 1)
    )
    if not connection.execute(statement).rowcount:
        raise WorkspaceNotFound(workspace_id)


def _require_workspace(connection: Connection, workspace_id: str) -> None:
    statement = select(workspaces.c.workspace_id).where(workspaces.c.workspace_id == workspace_id)
    if connection.execute(statement).first() is None:
        raise WorkspaceNotFound(workspace_id)


def _rewrap(connection: Connection, credential: ProviderCredential, sealed: Sealed | None) -> bool:
    if sealed is None:
        return False
    wrapping = {"wrapped_data_key": sealed.wrapped_data_key, "master_key_id": sealed.master_key_id}
    own = _columns.credential_id == credential.credential_id
    connection.execute(update(provider_credentials).where(own).values(wrapping))
    return True


def _set(rows: Sequence[Row[Any]]) -> CredentialSet:
    """A workspace whose last key was deleted has one row without a credential."""
    credentials = tuple(_credential(row) for row in rows if row.credential_id is not None)
    return CredentialSet(rows[0].credential_revision, credentials)


def _values(credential: NewProviderCredential) -> dict[str, Any]:
    sealed = credential.sealed
    return {
        "credential_id": credential.credential_id,
        "workspace_id": credential.workspace_id,
        "provider": credential.provider,
        "base_url": credential.base_url,
        "last4": credential.last4,
        "allow_fallback": credential.allow_fallback,
        "ciphertext": sealed.ciphertext,
        "wrapped_data_key": sealed.wrapped_data_key,
        "master_key_id": sealed.master_key_id,
    }


def _credential(row: Row[Any]) -> ProviderCredential:
    return ProviderCredential(
        credential_id=row.credential_id,
        workspace_id=row.workspace_id,
        provider=row.provider,
        base_url=row.base_url,
        last4=row.last4,
        allow_fallback=row.allow_fallback,
        sealed=Sealed(row.ciphertext, row.wrapped_data_key, row.master_key_id),
        create_time=row.create_time,
    )
