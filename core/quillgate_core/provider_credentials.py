"""The keys that workspaces have with providers themselves: set, listed, tried, forgotten, and sealed anew.

Enforces who may do what. A secret comes in once, is sealed before it is stored, and never goes out again but to its
provider. Knows no SQL, no gRPC and no HTTP; the composition root passes what does.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.errors import (
    InvalidRequest,
    Overloaded,
    ProviderCredentialRejected,
    ProviderTimeout,
    QuillgateError,
)
from quillgate_core.key_format import new_credential_id
from quillgate_core.own_accounts import OpenAccount, OwnAccounts
from quillgate_core.own_key_snapshot import OwnKeySnapshot
from quillgate_core.own_keys import WorkspaceKeys
from quillgate_core.principal import PLATFORM_ADMIN, WORKSPACE_ADMIN, Principal
from quillgate_core.provider_base_url import IsAllowedHost, UrlDenial, check_base_url
from quillgate_core.provider_credential import (
    NewProviderCredential,
    ProviderCredential,
    ProviderCredentialStore,
)
from quillgate_core.sealing import Belonging, CannotOpen, MasterKeys, Sealed
from quillgate_core.secret import Secret
from quillgate_core.upstream import ModelLister

log = logging.getLogger(__name__)

MAX_SECRET_CHARACTERS: Final = 4_096
TEST_TIMEOUT_S: Final = 10.0
MAX_TESTS: Final = 8
"""Tests under way at once: they wait for strangers, and must not take the place of everybody else's calls."""
DEFAULT_REWRAP_LIMIT: Final = 100
MAX_REWRAP_LIMIT: Final = 1_000
MAX_REWRAP_ROUNDS: Final = 100

_LAST4_FROM_CHARACTERS: Final = 16
_SECRET: Final = re.compile(r"[!-~]+")
_PROVIDER: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Blocking: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class CredentialTest:
    """What came of trying a key; `message` is for people and never holds the key."""

    ok: bool
    message: str
    latency_ms: int = 0


@dataclass(frozen=True, slots=True)
class Rewrapping:
    """What one call of a rotation did, and what is left: `unreadable` of the `remaining` cannot be opened here."""

    rewrapped: int
    remaining: int
    unreadable: int
    master_key_id: str


class ProviderCredentials:
    """Manages provider keys on behalf of a caller, and is the OwnKeys that routing asks.

    `providers` are those that a workspace may have a key with, by name. `open_account` makes an account of such a
    config with a key in it. `is_allowed_host` says which hosts of base URLs the operator allows beyond public https,
    and `url_denial` what is none.
    """

    def __init__(
        self,
        store: ProviderCredentialStore,
        master_keys: MasterKeys,
        providers: Mapping[str, ProviderConfig],
        *,
        open_account: OpenAccount,
        blocking: Blocking,
        url_denial: UrlDenial,
        is_allowed_host: IsAllowedHost = lambda host, port: False,
        test_timeout_s: float = TEST_TIMEOUT_S,
    ) -> None:
        self._store = store
        self._master_keys = master_keys
        self._providers = providers
        self._is_allowed_host = is_allowed_host
        self._url_denial = url_denial
        self._blocking = blocking
        self._test_timeout_s = test_timeout_s
        self._tests = 0
        self._accounts = OwnAccounts(providers, master_keys, open_account, is_allowed_host)
        self._snapshot = OwnKeySnapshot(store, self._accounts, master_keys)

    def of(self, workspace_id: str) -> WorkspaceKeys:
        """Returns the keys of a workspace, most often none; does no I/O."""
        return self._snapshot.of(workspace_id)

    def refresh(self) -> None:
        """Reads what has changed; blocking. Raises Overloaded."""
        self._snapshot.refresh()

    def set(
        self,
        principal: Principal,
        *,
        provider: str,
        secret: Secret,
        workspace_id: str = "",
        base_url: str = "",
        allow_fallback: bool = False,
    ) -> ProviderCredential:
        """Keep a key in place of the one before; needs `workspace.admin`.

        Raises ScopeMissing, WorkspaceNotFound, or InvalidRequest naming the member, never its content.
        """
        workspace_id = _workspace(principal, workspace_id)
        self._check_provider(provider)
        _check_secret(secret)
        base_url = check_base_url(base_url, self._is_allowed_host, self._url_denial)
        belonging = Belonging(workspace_id, new_credential_id(), provider, base_url)
        kept = self._store.put(
            NewProviderCredential(
                workspace_id=workspace_id,
                credential_id=belonging.credential_id,
                provider=provider,
                base_url=base_url,
                last4=_last4(secret),
                allow_fallback=allow_fallback,
                sealed=self._master_keys.seal(secret, belonging),
            )
        )
        self._refresh_early()
        return kept

    def list(self, principal: Principal, *, workspace_id: str = "") -> tuple[ProviderCredential, ...]:
        """Return a workspace's credentials by provider; needs `workspace.admin`.

        Raises ScopeMissing or WorkspaceNotFound.
        """
        return self._store.list(_workspace(principal, workspace_id))

    def delete(self, principal: Principal, *, provider: str, workspace_id: str = "") -> None:
        """Forget a key; needs `workspace.admin`. Also one of a provider that is not known any more.

        Raises ScopeMissing, WorkspaceNotFound, ProviderCredentialNotFound or InvalidRequest.
        """
        workspace_id = _workspace(principal, workspace_id)
        self._store.delete(workspace_id, _check_name(provider))
        self._refresh_early()

    async def test(self, principal: Principal, *, provider: str, workspace_id: str = "") -> CredentialTest:
        """Ask the provider, at no cost, whether it takes the key as it is stored now; needs `workspace.admin`.

        Raises ScopeMissing, WorkspaceNotFound, ProviderCredentialNotFound, InvalidRequest or Overloaded.
        """
        workspace_id = _workspace(principal, workspace_id)
        credential = await self._blocking(partial(self._store.get, workspace_id, _check_name(provider)))
        try:
            account = self._accounts.open(credential)
        except ProviderCredentialRejected:
            return CredentialTest(False, "The key cannot be decrypted here; set it anew.")
        if account.lister is None:
            return CredentialTest(False, f"A key with the provider `{provider}` cannot be tested.")
        if self._tests >= MAX_TESTS:
            raise Overloaded("Too many keys are being tested; please try again.")
        self._tests += 1
        try:
            return await self._try(account.lister)
        finally:
            self._tests -= 1

    def rewrap(self, principal: Principal, *, limit: int = 0) -> Rewrapping:
        """Seal up to `limit` data keys anew with the current master key; needs `platform.admin`.

        What cannot be opened is passed over and counted. Raises ScopeMissing or InvalidRequest.
        """
        principal.require(PLATFORM_ADMIN)
        if not 0 <= limit <= MAX_REWRAP_LIMIT:
            raise InvalidRequest(f"'limit' must be 1 to {MAX_REWRAP_LIMIT}.", param="limit", code="invalid_value")
        rewrapped, broken = self._rewrap_some(limit or DEFAULT_REWRAP_LIMIT)
        current_id = self._master_keys.current_id
        left = self._store.unrotated(current_id=current_id, known_ids=tuple(self._master_keys))
        return Rewrapping(rewrapped, left.remaining, left.lost + broken, current_id)

    def _rewrap_some(self, limit: int) -> tuple[int, int]:
        """Returns how many were rewrapped and how many could not be, going on while a batch holds only the latter."""
        older = tuple(key_id for key_id in self._master_keys if key_id != self._master_keys.current_id)
        rewrapped, broken, after = 0, 0, ""
        for _ in range(MAX_REWRAP_ROUNDS if older else 0):
            step = self._store.rewrap(older, self._rewrap, limit=limit, after=after)
            rewrapped, broken, after = step.rewrapped, broken + step.seen - step.rewrapped, step.last_id
            if rewrapped or step.seen < limit:
                break
        return rewrapped, broken

    def _rewrap(self, credential: ProviderCredential) -> Sealed | None:
        try:
            return self._master_keys.rewrap(credential.sealed, credential.belonging)
        except CannotOpen as error:
            log.error("the provider key %r cannot be sealed anew: %s", credential.credential_id, error)
            return None

    async def _try(self, lister: ModelLister) -> CredentialTest:
        start_time = time.monotonic()
        ok, message = False, ""
        try:
            async with asyncio.timeout(self._test_timeout_s):
                await lister.list_models()
            ok, message = True, "The provider takes the key."
        except ProviderCredentialRejected:
            message = "The provider refused the key."
        except (TimeoutError, ProviderTimeout):
            message = "The provider did not answer in time."
        except QuillgateError as error:
            message = error.message
        return CredentialTest(ok, message, round((time.monotonic() - start_time) * 1_000))

    def _check_provider(self, provider: str) -> None:
        if provider not in self._providers:
            names = ", ".join(sorted(self._providers)) or "none are configured"
            raise InvalidRequest(
                f"There is no such provider here; those that are known: {names}.",
                param="provider",
                code="invalid_value",
            )

    def _refresh_early(self) -> None:
        """Lets this process know of its own change at once; if it cannot, the next reservation or poll does."""
        try:
            self.refresh()
        except QuillgateError as error:
            log.warning("a change of provider keys is read later: %s", error.message)


def _workspace(principal: Principal, workspace_id: str) -> str:
    principal.require(WORKSPACE_ADMIN)
    return principal.workspace(workspace_id)


def _check_name(provider: str) -> str:
    """Returns what can be a provider's name; what cannot may be a key in the wrong place, and is not repeated."""
    if _PROVIDER.fullmatch(provider) is None:
        raise InvalidRequest("'provider' must be a provider's name.", param="provider", code="invalid_value")
    return provider


def _check_secret(secret: Secret) -> None:
    text = secret.reveal()
    if len(text) > MAX_SECRET_CHARACTERS or _SECRET.fullmatch(text) is None:
        raise InvalidRequest(
            f"'secret' must be 1 to {MAX_SECRET_CHARACTERS} visible ASCII characters.",
            param="secret",
            code="invalid_value",
        )


def _last4(secret: Secret) -> str:
    text = secret.reveal()
    return text[-4:] if len(text) >= _LAST4_FROM_CHARACTERS else ""
