"""The provider keys of all workspaces in memory, sealed, as of the last look at the database.

A snapshot is built whole and then put in the place of the one before, so that whoever reads sees one state. An account
is opened at its first use and lives as long as its row stays as it is: the next snapshot takes it over, or drops it
with a row that was replaced, rewrapped, deleted or edited.
"""

import logging
import threading
from collections.abc import Mapping

from quillgate_core.errors import ProviderCredentialRejected
from quillgate_core.own_accounts import OwnAccounts
from quillgate_core.own_keys import OwnKey, WorkspaceKeys
from quillgate_core.provider_credential import EverySet, ProviderCredential, ProviderCredentialStore
from quillgate_core.sealing import MasterKeys
from quillgate_core.upstream import Account

log = logging.getLogger(__name__)

_NONE = WorkspaceKeys()


class _Kept:
    """One credential, and its account once it was opened. Two threads that open it at once make two equal accounts."""

    def __init__(self, credential: ProviderCredential, accounts: OwnAccounts) -> None:
        self.credential = credential
        self._accounts = accounts
        self._account: Account | None = None
        self._is_refused = False

    def open(self) -> Account:
        """Returns the account; a key that cannot be opened is tried and logged once, and refused from then on."""
        if self._is_refused:
            raise ProviderCredentialRejected(self.credential.provider)
        if self._account is None:
            try:
                self._account = self._accounts.open(self.credential)
            except ProviderCredentialRejected:
                self._is_refused = True
                raise
        return self._account


class OwnKeySnapshot:
    """OwnKeys from a store; empty until the first `refresh`."""

    def __init__(
        self,
        store: ProviderCredentialStore,
        accounts: OwnAccounts,
        master_keys: MasterKeys,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._master_keys = master_keys
        self._lock = threading.Lock()
        self._revision: int | None = None
        self._missing: frozenset[str] = frozenset()
        self._kept: Mapping[str, _Kept] = {}
        self._keys: Mapping[str, WorkspaceKeys] = {}

    def of(self, workspace_id: str) -> WorkspaceKeys:
        """Returns the keys of a workspace, most often none; does no I/O."""
        return self._keys.get(workspace_id, _NONE)

    def refresh(self) -> None:
        """Reads all keys if any has changed since the last time; blocking. Raises Overloaded.

        One thread at a time, so that an older state never takes the place of a newer one.
        """
        with self._lock:
            if self._revision is None or self._store.revision() != self._revision:
                self._install(self._store.every())

    def _install(self, every: EverySet) -> None:
        kept: dict[str, _Kept] = {}
        keys: dict[str, WorkspaceKeys] = {}
        for workspace_id, found in every.sets.items():
            own: dict[str, OwnKey] = {}
            for credential in found.credentials:
                entry = self._entry(credential)
                kept[credential.credential_id] = entry
                own[credential.provider] = OwnKey(credential.provider, credential.allow_fallback, entry.open)
            keys[workspace_id] = WorkspaceKeys(found.revision, own)
        self._kept, self._keys, self._revision = kept, keys, every.revision
        self._warn_of_missing()

    def _entry(self, credential: ProviderCredential) -> _Kept:
        before = self._kept.get(credential.credential_id)
        return before if before is not None and before.credential == credential else _Kept(credential, self._accounts)

    def _warn_of_missing(self) -> None:
        """Tells the operator once which master keys are needed and not here, before any request fails."""
        used = {entry.credential.sealed.master_key_id for entry in self._kept.values()}
        missing = frozenset(key_id for key_id in used if key_id not in self._master_keys)
        if missing - self._missing:
            log.error("provider keys of workspaces need master keys that are not here: %s", ", ".join(sorted(missing)))
        self._missing = missing
