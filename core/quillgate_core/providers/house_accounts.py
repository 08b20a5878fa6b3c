"""The gateway's own accounts, by provider, and what can be asked of providers besides answers."""

from collections.abc import Iterable, Mapping

from quillgate_core.catalogue_file import ECHO, ProviderConfig
from quillgate_core.providers import pocketsphinx
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.echo import Echo
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.upstream import Account, ModelLister


def house_accounts(providers: Iterable[ProviderConfig], pool: HttpPool) -> Mapping[str, Account]:
    """Returns the accounts of the providers that are switched on, and of those that need no key."""
    accounts = {ECHO: Account(ECHO, chat=Echo())}
    if pocketsphinx.is_installed():
        accounts[pocketsphinx.NAME] = Account(pocketsphinx.NAME, transcriptions=pocketsphinx.PocketSphinx())
    return accounts | {provider.name: make_account(provider, pool) for provider in providers}


def record_keepers(providers: Iterable[ProviderConfig], pool: HttpPool) -> frozenset[str]:
    """Returns the providers that can be asked later what a request used, with whatever key it was sent."""
    return frozenset(provider.name for provider in providers if make_account(provider, pool).usage_lookup is not None)


def model_listers(providers: Iterable[ProviderConfig], accounts: Mapping[str, Account]) -> Mapping[str, ModelLister]:
    """Returns who lists the models of the providers whose list is to be read."""
    found = {provider.name: accounts[provider.name].lister for provider in providers if provider.discover}
    return {name: lister for name, lister in found.items() if lister is not None}
