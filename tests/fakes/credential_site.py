"""Workspaces' provider keys on a real database, as one or several core processes with their master keys see them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fakes.site import Site
from sqlalchemy import text

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.errors import QuillgateError
from quillgate_core.provider_credentials import ProviderCredentials
from quillgate_core.providers.address_guard import url_denial
from quillgate_core.sealing import MasterKey, MasterKeys
from quillgate_core.secret import Secret
from quillgate_core.storage.provider_credential_store import PostgresProviderCredentialStore
from quillgate_core.upstream import Account, ListedModel

OLD, NEW = MasterKey(b"o" * 32), MasterKey(b"n" * 32)
HOUSE_KEY = "house-key-PLANTED-0001"
PROVIDERS = {
    "openai": ProviderConfig(
        "openai",
        "https://api.openai.example/v1",
        Secret(HOUSE_KEY),
        frozenset({"chat.completions", "responses"}),
        headers={"X-Title": "Quillgate", "Authorization": "house", "OpenAI-Organization": "house"},
        on_hang_up="drain",
    ),
    "groq": ProviderConfig("groq", "https://groq.example/v1", None),
    "mute": ProviderConfig("mute", "https://mute.example/v1", None),
}


@dataclass
class FakeLister:
    """A ModelLister that fails with `error`, or hangs, and counts how often it was asked."""

    error: QuillgateError | None = None
    hangs: asyncio.Event | None = None
    asked: int = 0

    async def list_models(self) -> Sequence[ListedModel]:
        """Does as it was told."""
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
        if self.error is not None:
            raise self.error
        return ()


@dataclass
class FakeAccounts:
    """Makes accounts and remembers the configs that they were made of; `mute` has no list of models."""

    lister: FakeLister = field(default_factory=FakeLister)
    opened: list[ProviderConfig] = field(default_factory=list)

    def __call__(self, config: ProviderConfig) -> Account:
        self.opened.append(config)
        return Account(config.name, byok=True, lister=None if config.name == "mute" else self.lister)

    @property
    def secrets(self) -> list[str]:
        """The keys that accounts were made with, in order."""
        return [config.api_key.reveal() for config in self.opened if config.api_key is not None]


@dataclass(frozen=True)
class CredentialSite:
    """One core process: the use case, the accounts that it makes, and the database behind it."""

    site: Site
    credentials: ProviderCredentials
    accounts: FakeAccounts

    def set(self, workspace_id: str, secret: str, *, provider: str = "openai", **options: Any) -> str:
        """Keeps a key as the admin would, and returns its id."""
        kept = self.credentials.set(
            self.site.admin, workspace_id=workspace_id, provider=provider, secret=Secret(secret), **options
        )
        return kept.credential_id

    def open(self, workspace_id: str, provider: str = "openai") -> str:
        """Opens the account as routing does and returns the key that it has."""
        self.credentials.of(workspace_id).keys[provider].open()
        return self.accounts.secrets[-1]

    def change(self, statement: str, **parameters: object) -> None:
        """Edits the database behind the service's back, and lets every process read it again."""
        self.site.run(statement, **parameters)
        self.site.run("UPDATE shared_revisions SET revision = revision + 1 WHERE name = 'provider_credentials'")
        self.credentials.refresh()

    def value(self, query: str) -> Any:
        """Returns the one value of a query."""
        with self.site.engine.connect() as connection:
            return connection.execute(text(query)).scalar_one()


def open_credentials(
    site: Site,
    *keys: MasterKey,
    is_allowed_host: Callable[[str, int], bool] = lambda host, port: False,
    **options: Any,
) -> CredentialSite:
    """Starts a process with the master keys, by default the old one."""
    accounts = FakeAccounts()

    async def blocking(call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)

    credentials = ProviderCredentials(
        PostgresProviderCredentialStore(site.engine),
        MasterKeys(keys or (OLD,)),
        PROVIDERS,
        open_account=accounts,
        blocking=blocking,
        url_denial=url_denial,
        is_allowed_host=is_allowed_host,
        **options,
    )
    credentials.refresh()
    return CredentialSite(site, credentials, accounts)
