"""What routing asks about the keys that workspaces have with providers themselves. Pure declarations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from quillgate_core.upstream import Account


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A workspace's key with one provider."""

    provider: str
    allow_fallback: bool
    """Whether the gateway's own keys may serve a request that this one cannot."""
    open: Callable[[], Account]
    """Returns the account, decrypting the key at the first call; raises ProviderCredentialRejected if it cannot."""


@dataclass(frozen=True, slots=True)
class WorkspaceKeys:
    """The keys of one workspace by provider; `revision` grows with every change and is 0 before the first."""

    revision: int = 0
    keys: Mapping[str, OwnKey] = field(default_factory=dict)


class OwnKeys(Protocol):
    """The keys of all workspaces, from memory: at most a second or two behind the database."""

    def of(self, workspace_id: str) -> WorkspaceKeys:
        """Returns the keys of a workspace, most often none; does no I/O."""

    def refresh(self) -> None:
        """Reads what has changed; blocking. Called when a reservation found `revision` to be behind."""
