"""Workspaces' own provider keys, without a database: as a test sets them, and changed by `refresh` if told."""

from dataclasses import dataclass, field

from quillgate_core.errors import ProviderCredentialRejected
from quillgate_core.own_keys import OwnKey, WorkspaceKeys
from quillgate_core.upstream import Account


def own_key(account: Account, *, allow_fallback: bool = False) -> OwnKey:
    """A key that opens."""
    return OwnKey(account.provider, allow_fallback, lambda: account)


def locked_key(provider: str, *, allow_fallback: bool = False) -> OwnKey:
    """A key that cannot be decrypted."""

    def open_it() -> Account:
        raise ProviderCredentialRejected(provider)

    return OwnKey(provider, allow_fallback, open_it)


@dataclass
class FakeOwnKeys:
    """The OwnKeys of one workspace; `newer` is what each refresh finds, in turn."""

    workspace_id: str = "ws_1"
    keys: tuple[OwnKey, ...] = ()
    revision: int = 1
    newer: list[tuple[OwnKey, ...]] = field(default_factory=list)
    refreshed: int = 0

    def of(self, workspace_id: str) -> WorkspaceKeys:
        if workspace_id != self.workspace_id:
            return WorkspaceKeys()
        return WorkspaceKeys(self.revision, {key.provider: key for key in self.keys})

    def refresh(self) -> None:
        self.refreshed += 1
        self.revision += 1
        if self.newer:
            self.keys = self.newer.pop(0)
