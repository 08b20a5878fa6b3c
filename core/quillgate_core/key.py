"""A key as the service knows it, what may be written about it, and the contract of the store that keeps it.

Values and an interface only: the rules are in `keys.py`, the SQL is in `storage/key_store.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Protocol

from quillgate_core.page import PageStart
from quillgate_core.unchanged import UNCHANGED, Unchanged


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much a key may use, beside its workspace's allowance; None is no limit, 0 admits nothing."""

    daily_messages: int | None = None
    """Messages per UTC day."""
    monthly_messages: int | None = None
    """Messages per UTC month."""
    requests_per_minute: int | None = None
    """Requests in any 60 seconds."""
    tokens_per_minute: int | None = None
    """LLM tokens of the requests of any 60 seconds."""
    concurrent_requests: int | None = None
    """Requests that run at the same time."""


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class KeyLimitChanges:
    """Which limits to change; what is not given stays, None takes a limit away."""

    daily_messages: int | Unchanged | None = UNCHANGED
    monthly_messages: int | Unchanged | None = UNCHANGED
    requests_per_minute: int | Unchanged | None = UNCHANGED
    tokens_per_minute: int | Unchanged | None = UNCHANGED
    concurrent_requests: int | Unchanged | None = UNCHANGED

    def given(self) -> dict[str, int | None]:
        """Return the limits to change by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not UNCHANGED}


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored, without any secret."""

    key_id: str
    workspace_id: str
    name: str
    last4: str
    """The last four characters of its newest secret."""
    scopes: tuple[str, ...]
    allowed_models: tuple[str, ...]
    """Empty: every model."""
    revision: int
    """Grows with every change, so that whoever remembers the key notices."""
    create_time: datetime
    expire_time: datetime | None
    last_used_time: datetime | None
    revoke_time: datetime | None
    limits: KeyLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What to change; what is not given stays. An `expire_time` of None takes the expiry away."""

    name: str | Unchanged = UNCHANGED
    scopes: Sequence[str] | Unchanged = UNCHANGED
    allowed_models: Sequence[str] | Unchanged = UNCHANGED
    expire_time: datetime | Unchanged | None = UNCHANGED
    limits: KeyLimitChanges = KeyLimitChanges()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to store; its times are the database's."""

    key_id: str
    workspace_id: str
    name: str
    scopes: tuple[str, ...]
    allowed_models: tuple[str, ...] = ()
    expire_time: datetime | None = None
    limits: KeyLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret to store: all that is kept of it."""

    digest: bytes
    last4: str


@dataclass(frozen=True, slots=True)
class KeyEdit:
    """A key as it shall be, and for a rotation its new secret and when all older secrets end at the latest."""

    key: Key
    secret: NewSecret | None = None
    older_expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A live secret's key, and when key or secret end (None: never), as of `now` by the database clock."""

    key: Key
    expire_time: datetime | None
    now: datetime


class KeyStore(Protocol):
    """Where keys are kept. A `workspace_id` of None means any workspace, for `platform.admin` only."""

    def now(self) -> datetime:
        """Return the database's time."""

    def find(self, digest: bytes) -> Credential | None:
        """Return the credential, None unless secret and key are known, not revoked and not expired."""

    def insert(self, key: NewKey, secret: NewSecret) -> Key:
        """Add a key. Raises WorkspaceNotFound."""

    def get(self, key_id: str, *, workspace_id: str | None) -> Key | None:
        """Return the key, None if there is none in the workspace."""

    def list(self, workspace_id: str, *, limit: int, after: PageStart | None, include_revoked: bool) -> tuple[Key, ...]:
        """Return at most `limit` keys in order of creation. Raises WorkspaceNotFound."""

    def edit(
        self, key_id: str, *, workspace_id: str | None, edit: Callable[[Key, datetime], KeyEdit | None]
    ) -> Key | None:
        """Let `edit` decide on the locked key at the database's time, write its answer as the next revision.

        Returns the key as it is then (unchanged if `edit` returns None), or None if there is none in the workspace.
        What `edit` raises goes through and nothing is changed.
        """

    def write_last_used(self, ages_s: Mapping[str, float]) -> None:
        """Record that each key was used so many seconds ago, in one statement; never moves a time back."""

    def bootstrap(self, workspace_name: str, key: NewKey, secret: NewSecret) -> bool:
        """Add the workspace and the key if there is no key at all, and tell whether; safe from several processes."""
