"""Keys without a database: a store that knows the secrets it was given, and counts how often it was asked."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Never

from quillgate_core.key import NO_LIMITS, Credential, Key, KeyEdit, KeyLimits, NewKey, NewSecret
from quillgate_core.key_format import new_key_id, new_secret, secret_digest
from quillgate_core.keys import Keys
from quillgate_core.page import PageStart
from quillgate_core.principal import INFERENCE

PEPPER = bytes(range(32))
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class FakeKeyRing:
    """A key store for authentication and looking up; `keys` is the use case on top of it."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes, Key] = {}
        self.finds = 0
        self.keys = Keys(self, pepper=PEPPER)

    def add(
        self,
        *scopes: str,
        workspace_id: str = "ws_1",
        models: tuple[str, ...] = (),
        expire_time: datetime | None = None,
        limits: KeyLimits = NO_LIMITS,
    ) -> tuple[Key, str]:
        """Make a key, with the scope `inference` unless told otherwise, and return it with its secret."""
        secret = new_secret()
        scopes = scopes or (INFERENCE,)
        key = Key(
            new_key_id(), workspace_id, "a key", secret[-4:], scopes, models, 1, NOW, expire_time, None, None, limits
        )
        self._by_digest[secret_digest(secret, PEPPER)] = key
        return key, secret

    def change(self, secret: str) -> None:
        """Give the key its next revision, as another replica would."""
        digest = secret_digest(secret, PEPPER)
        key = self._by_digest[digest]
        self._by_digest[digest] = replace(key, revision=key.revision + 1)

    def find(self, digest: bytes) -> Credential | None:
        """Return the key of a secret."""
        self.finds += 1
        key = self._by_digest.get(digest)
        return None if key is None else Credential(key, None, NOW)

    def now(self) -> datetime:
        return NOW

    def insert(self, key: NewKey, secret: NewSecret) -> Key:
        self._refuse()

    def get(self, key_id: str, *, workspace_id: str | None) -> Key | None:
        """Return a key of the workspace."""
        found = [key for key in self._by_digest.values() if key.key_id == key_id]
        return found[0] if found and workspace_id in (None, found[0].workspace_id) else None

    def list(self, workspace_id: str, *, limit: int, after: PageStart | None, include_revoked: bool) -> tuple[Key, ...]:
        self._refuse()

    def edit(
        self, key_id: str, *, workspace_id: str | None, edit: Callable[[Key, datetime], KeyEdit | None]
    ) -> Key | None:
        self._refuse()

    def write_last_used(self, ages_s: Mapping[str, float]) -> None:
        self._refuse()

    def bootstrap(self, workspace_name: str, key: NewKey, secret: NewSecret) -> bool:
        self._refuse()

    def _refuse(self) -> Never:
        raise AssertionError("this store only authenticates and looks up")
