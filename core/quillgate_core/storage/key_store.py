"""The keys and the digests of their secrets in PostgreSQL. Only SQL: who may do what is decided by `keys.py`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    tuple_,
    update,
)

from quillgate_core.errors import WorkspaceNotFound
from quillgate_core.key import Credential, Key, KeyEdit, KeyLimits, NewKey, NewSecret
from quillgate_core.page import PageStart
from quillgate_core.storage.engine import database_errors, single_statements
from quillgate_core.storage.tables import key_secrets, keys, workspaces

# Any constant that nobody else uses: "QG" and "bootst" in ASCII.
_BOOTSTRAP_LOCK_ID = 0x5147626F6F747374
_NOW = func.clock_timestamp()
_LIMITS = tuple(field.name for field in fields(KeyLimits))

_newest = key_secrets.alias("newest")
_newest_last4 = (
    select(_newest.c.last4)
    .where(_newest.c.key_id == keys.c.key_id)
    .order_by(_newest.c.create_time.desc(), _newest.c.digest)
    .limit(1)
    .scalar_subquery()
    .label("last4")
)

# Made once, as whoever lists models or reads usage waits for this.
_end = func.least(keys.c.expire_time, key_secrets.c.expire_time).label("credential_expire_time")
_FIND = (
    select(keys, _newest_last4, _end, _NOW.label("now"))
    .join(key_secrets, key_secrets.c.key_id == keys.c.key_id)
    .where(key_secrets.c.digest == bindparam("digest"), keys.c.revoke_time.is_(None), or_(_end.is_(None), _end > _NOW))
)

_WRITE_LAST_USED = text(
    """
    WITH used AS (SELECT * FROM unnest(CAST(:key_ids AS text[]), CAST(:ages_s AS float8[])) AS u (key_id, age_s)),
    locked AS (SELECT key_id FROM keys WHERE key_id = ANY (:key_ids) ORDER BY key_id FOR NO KEY UPDATE)
    UPDATE keys
    SET last_used_time = greatest(keys.last_used_time, statement_timestamp() - make_interval(secs => used.age_s))
    FROM used JOIN locked USING (key_id)
    WHERE keys.key_id = used.key_id
    """
)


class PostgresKeyStore:
    """A KeyStore on an engine; raises Overloaded when the database is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._single = single_statements(engine)

    def now(self) -> datetime:
        """Return the database's time."""
        with database_errors(), self._engine.connect() as connection:
            return _database_time(connection)

    def find(self, digest: bytes) -> Credential | None:
        """Return the credential, None unless secret and key are known, not revoked and not expired."""
        with database_errors(), self._single.connect() as connection:
            row = connection.execute(_FIND, {"digest": digest}).one_or_none()
        if row is None:
            return None
        return Credential(_key(row), row.credential_expire_time, row.now)

    def insert(self, key: NewKey, secret: NewSecret) -> Key:
        """Add a key. Raises WorkspaceNotFound."""
        with database_errors(), self._engine.begin() as connection:
            _require_workspace(connection, key.workspace_id)
            return _insert(connection, key, secret)

    def get(self, key_id: str, *, workspace_id: str | None) -> Key | None:
        """Return the key, None if there is none in the workspace."""
        with database_errors(), self._engine.connect() as connection:
            row = connection.execute(_by_id(key_id, workspace_id)).one_or_none()
        return None if row is None else _key(row)

    def list(self, workspace_id: str, *, limit: int, after: PageStart | None, include_revoked: bool) -> tuple[Key, ...]:
        """Return at most `limit` keys in order of creation. Raises WorkspaceNotFound."""
        statement = (
            select(keys, _newest_last4)
            .where(keys.c.workspace_id == workspace_id)
            .order_by(keys.c.create_time, keys.c.key_id)
            .limit(limit)
        )
        if after is not None:
            place = tuple_(keys.c.create_time, keys.c.key_id)
            statement = statement.where(place > tuple_(after.create_time, after.entry_id))
        if not include_revoked:
            statement = statement.where(keys.c.revoke_time.is_(None))
        with database_errors(), self._engine.connect() as connection:
            found = tuple(_key(row) for row in connection.execute(statement))
            if not found:
                _require_workspace(connection, workspace_id)
        return found

    def edit(
        self, key_id: str, *, workspace_id: str | None, edit: Callable[[Key, datetime], KeyEdit | None]
    ) -> Key | None:
        """Let `edit` decide on the locked key, and write its answer as the next revision; see KeyStore."""
        locked = _by_id(key_id, workspace_id).with_for_update(of=keys, key_share=True)
        with database_errors(), self._engine.begin() as connection:
            row = connection.execute(locked).one_or_none()
            if row is None:
                return None
            answer = edit(_key(row), _database_time(connection))
            if answer is None:
                return _key(row)
            _write(connection, answer)
            return _key(connection.execute(_by_id(key_id, workspace_id)).one())

    def write_last_used(self, ages_s: Mapping[str, float]) -> None:
        """Record that each key was used so many seconds ago; rows are locked in order, as replicas do it at once."""
        parameters = {"key_ids": list(ages_s), "ages_s": list(ages_s.values())}
        with database_errors(), self._engine.begin() as connection:
            connection.execute(_WRITE_LAST_USED, parameters)

    def bootstrap(self, workspace_name: str, key: NewKey, secret: NewSecret) -> bool:
        """Add the workspace and the key if there is no key at all, under an advisory lock."""
        with database_errors(), self._engine.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_BOOTSTRAP_LOCK_ID)))
            if connection.execute(select(keys.c.key_id).limit(1)).first() is not None:
                return False
            connection.execute(insert(workspaces).values(workspace_id=key.workspace_id, name=workspace_name))
            _insert(connection, key, secret)
            return True


def _by_id(key_id: str, workspace_id: str | None) -> Select[Any]:
    statement = select(keys, _newest_last4).where(keys.c.key_id == key_id)
    return statement if workspace_id is None else statement.where(keys.c.workspace_id == workspace_id)


def _insert(connection: Connection, key: NewKey, secret: NewSecret) -> Key:
    values = asdict(key) | {"scopes": list(key.scopes), "allowed_models": list(key.allowed_models)}
    values |= values.pop("limits")
    connection.execute(insert(keys).values(values))
    connection.execute(insert(key_secrets).values(digest=secret.digest, key_id=key.key_id, last4=secret.last4))
    return _key(connection.execute(_by_id(key.key_id, key.workspace_id)).one())


def _write(connection: Connection, edit: KeyEdit) -> None:
    key = edit.key
    if edit.secret is not None:
        _replace_secrets(connection, key.key_id, edit.secret, edit.older_expire_time)
    connection.execute(
        update(keys)
        .where(keys.c.key_id == key.key_id)
        .values(
            name=key.name,
            scopes=list(key.scopes),
            allowed_models=list(key.allowed_models),
            expire_time=key.expire_time,
            revoke_time=key.revoke_time,
            revision=key.revision + 1,
            **asdict(key.limits),
        )
    )


def _replace_secrets(
    connection: Connection, key_id: str, secret: NewSecret, older_expire_time: datetime | None
) -> None:
    """Drop secrets that have ended, let the others end by `older_expire_time`, and add the new one."""
    own = key_secrets.c.key_id == key_id
    connection.execute(delete(key_secrets).where(own, key_secrets.c.expire_time <= _NOW))
    end = func.least(key_secrets.c.expire_time, older_expire_time)
    connection.execute(update(key_secrets).where(own).values(expire_time=end))
    connection.execute(insert(key_secrets).values(digest=secret.digest, key_id=key_id, last4=secret.last4))


def _require_workspace(connection: Connection, workspace_id: str) -> None:
    statement = select(workspaces.c.workspace_id).where(workspaces.c.workspace_id == workspace_id)
    if connection.execute(statement).first() is None:
        raise WorkspaceNotFound(workspace_id)


def _database_time(connection: Connection) -> datetime:
    now: datetime = connection.execute(select(_NOW)).scalar_one()
    return now


def _key(row: Row[Any]) -> Key:
    return Key(
        key_id=row.key_id,
        workspace_id=row.workspace_id,
        name=row.name,
        last4=row.last4,
        scopes=tuple(row.scopes),
        allowed_models=tuple(row.allowed_models),
        revision=row.revision,
        create_time=row.create_time,
        expire_time=row.expire_time,
        last_used_time=row.last_used_time,
        revoke_time=row.revoke_time,
        limits=KeyLimits(**{name: getattr(row, name) for name in _LIMITS}),
    )
