"""The developer keys: making, changing, rotating and revoking them, and finding out who presents one.

Enforces who may manage which key. Knows no SQL and no gRPC; the composition root passes the store. A secret leaves
this module once, when it is made, and is never stored: only its digest is.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta

from quillgate_core import grants
from quillgate_core.errors import InvalidRequest, KeyInvalid, KeyNotFound, KeyRevoked, QuillgateError
from quillgate_core.key import NO_LIMITS, Credential, Key, KeyChanges, KeyEdit, KeyLimits, KeyStore, NewKey, NewSecret
from quillgate_core.key_format import (
    is_key_id,
    is_well_formed,
    new_key_id,
    new_secret,
    new_workspace_id,
    secret_digest,
    secret_fingerprint,
)
from quillgate_core.last_used import LastUsedTimes
from quillgate_core.names import check_name
from quillgate_core.page import PageStart, check_page_size, parse_page_token
from quillgate_core.principal import INFERENCE, KEYS_MANAGE, SCOPES, USAGE_READ, Principal
from quillgate_core.principal_cache import PrincipalCache
from quillgate_core.unchanged import UNCHANGED

__all__ = ["DEFAULT_SCOPES", "MAX_OVERLAP_S", "Key", "KeyChanges", "Keys", "Principal"]

DEFAULT_SCOPES = (INFERENCE, USAGE_READ)
MAX_OVERLAP_S = 7 * 24 * 3600
CACHE_CAPACITY = 4_096
CACHE_MAX_AGE_S = 30.0
_LAST_USED_CAPACITY = 10_000


class Keys:
    """Authenticates secrets, and manages keys on behalf of a caller."""

    def __init__(
        self,
        store: KeyStore,
        *,
        pepper: bytes,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._fingerprint_key = secrets.token_bytes(32)
        self._cache = PrincipalCache(capacity=CACHE_CAPACITY, max_age_s=CACHE_MAX_AGE_S, monotonic=monotonic)
        self._last_used = LastUsedTimes(capacity=_LAST_USED_CAPACITY, monotonic=monotonic)

    def authenticate(self, secret: str) -> Principal:
        """Return who presents the secret, fresh from the database; a malformed one costs no query.

        Raises KeyInvalid, with one message for malformed, unknown, revoked and expired.
        """
        if not is_well_formed(secret):
            raise KeyInvalid
        digest = secret_digest(secret, self._pepper)
        credential = self._store.find(digest)
        if credential is None:
            raise KeyInvalid
        principal = _principal(credential)
        end = credential.expire_time
        fingerprint = secret_fingerprint(secret, self._fingerprint_key)
        self._cache.put(fingerprint, principal, valid_s=None if end is None else (end - credential.now).total_seconds())
        return principal

    def authenticate_cached(self, secret: str) -> Principal | None:
        """Return who presented the secret to this process within the last 30 s, without any I/O; None: ask afresh.

        The key may have changed since: use it only where the reservation checks `key_revision` again.
        """
        return self._cache.get(secret_fingerprint(secret, self._fingerprint_key))

    def forget(self, key_id: str) -> None:
        """Drop the key from the cache, for whoever learned that it has changed."""
        self._cache.forget(key_id)

    def touch(self, key_id: str) -> None:
        """Note that the key is used now; `flush_last_used` writes it down."""
        self._last_used.note(key_id)

    def flush_last_used(self) -> None:
        """Write down all noted uses in one statement. Raises Overloaded, and keeps the notes, if that fails."""
        ages_s = self._last_used.take()
        if not ages_s:
            return
        try:
            self._store.write_last_used(ages_s)
        except QuillgateError:
            self._last_used.put_back(ages_s)
            raise

    def create(
        self,
        principal: Principal,
        *,
        name: str,
        scopes: Sequence[str],
        workspace_id: str = "",
        allowed_models: Sequence[str] = (),
        expire_time: datetime | None = None,
        limits: KeyLimits = NO_LIMITS,
    ) -> tuple[Key, str]:
        """Make a key and return it with its secret, which is shown only here.

        Where the caller has an allow-list or a limit or ends some day, a key without its own gets the caller's.
        Raises InvalidRequest, ScopeMissing, ModelNotAllowed or WorkspaceNotFound.
        """
        principal.require(KEYS_MANAGE)
        key = NewKey(
            key_id=new_key_id(),
            workspace_id=principal.workspace(workspace_id),
            name=check_name(name, param="name"),
            scopes=grants.check_scopes(scopes),
            allowed_models=grants.check_models(allowed_models) or principal.allowed_models,
            expire_time=expire_time or principal.expire_time,
            limits=grants.inherit_limits(principal, grants.check_limits(limits)),
        )
        grants.refuse_more_scopes(principal, key.scopes)
        grants.refuse_more_models(principal, key.allowed_models)
        grants.refuse_higher_limits(principal, asdict(key.limits))
        grants.refuse_later_expiry(principal, key.expire_time, param="expire_time")
        grants.check_future(key.expire_time, self._store.now())
        secret, new = self._new_secret()
        return self._store.insert(key, new), secret

    def get(self, principal: Principal, key_id: str) -> Key:
        """Return a key that the caller may manage. Raises ScopeMissing or KeyNotFound."""
        principal.require(KEYS_MANAGE)
        return _found(key_id, self._store.get(_possible(key_id), workspace_id=_reach(principal)))

    def own(self, principal: Principal) -> Key:
        """Return the caller's own key, whatever it may do. Raises KeyNotFound if it is gone."""
        return _found(principal.key_id, self._store.get(principal.key_id, workspace_id=principal.workspace_id))

    def list(
        self,
        principal: Principal,
        *,
        workspace_id: str = "",
        page_size: int = 0,
        page_token: str = "",
        include_revoked: bool = False,
    ) -> tuple[tuple[Key, ...], str]:
        """Return a page of a workspace's keys, oldest first, and the next page's token, empty at the end.

        `page_size` 0 means 100. Raises InvalidRequest, ScopeMissing or WorkspaceNotFound.
        """
        principal.require(KEYS_MANAGE)
        workspace_id = principal.workspace(workspace_id)
        limit = check_page_size(page_size)
        after = parse_page_token(page_token)
        found = self._store.list(workspace_id, limit=limit + 1, after=after, include_revoked=include_revoked)
        page = found[:limit]
        return page, PageStart(page[-1].create_time, page[-1].key_id).token() if len(found) > limit else ""

    def update(self, principal: Principal, key_id: str, *, changes: KeyChanges) -> Key:
        """Change a key from the next request on, on every replica.

        Raises InvalidRequest, ScopeMissing (also for a key that has more scopes than the caller), ModelNotAllowed,
        KeyNotFound or KeyRevoked.
        """
        principal.require(KEYS_MANAGE)
        if changes == KeyChanges():
            raise InvalidRequest("Nothing to change was named.", param="update_mask")

        def edit(key: Key, now: datetime) -> KeyEdit:
            grants.refuse_more_scopes(principal, key.scopes)
            _refuse_revoked(key)
            return KeyEdit(_changed(principal, key, changes, now))

        return self._edit(principal, key_id, edit)

    def rotate(self, principal: Principal, key_id: str, *, overlap_s: int) -> tuple[Key, str]:
        """Give a key a new secret, shown only here; its older ones work `overlap_s` (0 to 7 days) longer at most.

        The caller gets a working secret, so the key must grant nothing that the caller lacks: neither scopes, nor
        models, nor higher limits, nor a later end. Raises InvalidRequest, ScopeMissing, ModelNotAllowed, KeyNotFound
        or KeyRevoked.
        """
        principal.require(KEYS_MANAGE)
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise InvalidRequest("The overlap must be between 0 and 7 days.", param="overlap")
        secret, new = self._new_secret()

        def edit(key: Key, now: datetime) -> KeyEdit:
            grants.refuse_more_scopes(principal, key.scopes)
            _refuse_revoked(key)
            grants.refuse_more_models(principal, key.allowed_models)
            grants.refuse_higher_limits(principal, asdict(key.limits), param="key_id")
            grants.refuse_later_expiry(principal, key.expire_time, param="key_id")
            return KeyEdit(key, new, now + timedelta(seconds=overlap_s))

        return self._edit(principal, key_id, edit), secret

    def revoke(self, principal: Principal, key_id: str) -> Key:
        """End a key for good; again, it changes nothing. Raises ScopeMissing (see update) or KeyNotFound."""
        principal.require(KEYS_MANAGE)

        def edit(key: Key, now: datetime) -> KeyEdit | None:
            grants.refuse_more_scopes(principal, key.scopes)
            return None if key.revoke_time else KeyEdit(replace(key, revoke_time=now))

        return self._edit(principal, key_id, edit)

    def introspect(self, principal: Principal, presented_secret: str) -> Key | None:
        """Return the key of a secret that somebody presented elsewhere, None if it does not work or is not ours to see.

        Raises ScopeMissing.
        """
        principal.require(KEYS_MANAGE)
        if not is_well_formed(presented_secret):
            return None
        credential = self._store.find(secret_digest(presented_secret, self._pepper))
        if credential is None or _reach(principal) not in (None, credential.key.workspace_id):
            return None
        return credential.key

    def bootstrap(self) -> str | None:
        """At the very first start make the workspace "default" and a key with all scopes, and return its secret.

        Later, and on all replicas but one, returns None.
        """
        secret, new = self._new_secret()
        key = NewKey(key_id=new_key_id(), workspace_id=new_workspace_id(), name="first admin key", scopes=SCOPES)
        return secret if self._store.bootstrap("default", key, new) else None

    def _new_secret(self) -> tuple[str, NewSecret]:
        secret = new_secret()
        return secret, NewSecret(secret_digest(secret, self._pepper), secret[-4:])

    def _edit(self, principal: Principal, key_id: str, edit: Callable[[Key, datetime], KeyEdit | None]) -> Key:
        key = self._store.edit(_possible(key_id), workspace_id=_reach(principal), edit=edit)
        self._cache.forget(key_id)
        return _found(key_id, key)


def _principal(credential: Credential) -> Principal:
    key = credential.key
    return Principal(
        key_id=key.key_id,
        key_revision=key.revision,
        workspace_id=key.workspace_id,
        scopes=frozenset(key.scopes),
        allowed_models=key.allowed_models,
        expire_time=credential.expire_time,
        limits=key.limits,
    )


def _reach(principal: Principal) -> str | None:
    """Return the workspace whose keys the caller may see, None for all."""
    return None if principal.is_platform_admin else principal.workspace_id


def _possible(key_id: str) -> str:
    if not is_key_id(key_id):
        raise KeyNotFound(key_id)
    return key_id


def _found(key_id: str, key: Key | None) -> Key:
    if key is None:
        raise KeyNotFound(key_id)
    return key


def _refuse_revoked(key: Key) -> None:
    if key.revoke_time is not None:
        raise KeyRevoked(key.key_id)


def _changed(principal: Principal, key: Key, changes: KeyChanges, now: datetime) -> Key:
    """Return the key with the changes, each of them within what the caller may grant."""
    if changes.name is not UNCHANGED:
        key = replace(key, name=check_name(changes.name, param="name"))
    if changes.scopes is not UNCHANGED:
        key = replace(key, scopes=grants.check_scopes(changes.scopes))
        grants.refuse_more_scopes(principal, key.scopes)
    if changes.allowed_models is not UNCHANGED:
        key = replace(key, allowed_models=grants.check_models(changes.allowed_models))
        grants.refuse_more_models(principal, key.allowed_models)
    if changes.expire_time is not UNCHANGED:
        grants.check_future(changes.expire_time, now)
        grants.refuse_later_expiry(principal, changes.expire_time, param="expire_time")
        key = replace(key, expire_time=changes.expire_time)
    limits = changes.limits.given()
    if limits:
        key = replace(key, limits=grants.check_limits(replace(key.limits, **limits)))
        grants.refuse_higher_limits(principal, limits)
    return key
