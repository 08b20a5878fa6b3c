"""A workspace's own key with a provider as it is kept: sealed, with what it belongs to. Pure declarations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from quillgate_core.sealing import Belonging, Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProviderCredential:
    """A key that a workspace brings, before it is kept."""

    credential_id: str
    workspace_id: str
    provider: str
    base_url: str
    """Empty: where the gateway reaches the provider."""
    last4: str
    """Empty for a short key, of which four characters would tell too much."""
    allow_fallback: bool
    """Whether the gateway's own keys may serve instead."""
    sealed: Sealed

    @property
    def belonging(self) -> Belonging:
        """What the secret is sealed for; a row that was edited has another one than its secret."""
        return Belonging(self.workspace_id, self.credential_id, self.provider, self.base_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCredential(NewProviderCredential):
    """A key as it is kept; it is never changed but for its wrapping: a key that replaces it has another id."""

    create_time: datetime


@dataclass(frozen=True, slots=True)
class CredentialSet:
    """All keys of one workspace, and how often they have changed."""

    revision: int
    credentials: tuple[ProviderCredential, ...] = ()


@dataclass(frozen=True, slots=True)
class RewrapStep:
    """What one step of a rotation did: of `seen` credentials, the last being `last_id`, it rewrapped some."""

    seen: int = 0
    rewrapped: int = 0
    last_id: str = ""


@dataclass(frozen=True, slots=True)
class Unrotated:
    """Credentials that the current master key did not wrap, and those of them whose master key is not here."""

    remaining: int
    lost: int


@dataclass(frozen=True, slots=True)
class EverySet:
    """The credentials of all workspaces that ever had one, and the shared revision that they are at least as new as."""

    revision: int
    sets: Mapping[str, CredentialSet] = field(default_factory=dict)


class ProviderCredentialStore(Protocol):
    """Where provider credentials are kept; every change makes the workspace's revision and the shared one grow."""

    def put(self, credential: NewProviderCredential) -> ProviderCredential:
        """Keep a key, in place of the one before with the same provider. Raises WorkspaceNotFound."""

    def list(self, workspace_id: str) -> tuple[ProviderCredential, ...]:
        """Return a workspace's credentials by provider. Raises WorkspaceNotFound."""

    def get(self, workspace_id: str, provider: str) -> ProviderCredential:
        """Return a credential. Raises WorkspaceNotFound or ProviderCredentialNotFound."""

    def delete(self, workspace_id: str, provider: str) -> None:
        """Forget a credential. Raises WorkspaceNotFound or ProviderCredentialNotFound."""

    def revision(self) -> int:
        """Return the shared revision: it is another one after every change."""

    def every(self) -> EverySet:
        """Return the credentials of all workspaces."""

    def rewrap(
        self,
        master_key_ids: Sequence[str],
        rewrap: Callable[[ProviderCredential], Sealed | None],
        *,
        limit: int,
        after: str,
    ) -> RewrapStep:
        """Let `rewrap` seal anew up to `limit` credentials that one of the master keys wrapped, in one transaction.

        They come in the order of their ids, those behind `after`; None leaves one as it is. What another process is
        rewrapping is passed over.
        """

    def unrotated(self, *, current_id: str, known_ids: Sequence[str]) -> Unrotated:
        """Count what other master keys than the current one wrapped, and of those what none of the known ones did."""
