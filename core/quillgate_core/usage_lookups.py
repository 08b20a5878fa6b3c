"""Who can be asked what a request used: the account that it was served with, the gateway's or the workspace's own."""

from collections.abc import Mapping

from quillgate_core.own_keys import OwnKeys
from quillgate_core.upstream import Account, UsageLookup


class UsageLookups:
    """The look-ups of all accounts; `accounts` are the gateway's own, which may lack some providers."""

    def __init__(self, accounts: Mapping[str, Account], own_keys: OwnKeys) -> None:
        self._accounts = accounts
        self._own_keys = own_keys

    def of(self, provider: str, workspace_id: str, *, byok: bool) -> UsageLookup | None:
        """Return who can be asked, with the key that the request was sent with; None if that key is no more.

        A workspace chooses where its own key is sent, so the answer is never believed for what the gateway's served.
        Raises ProviderCredentialRejected for a key that cannot be opened.
        """
        if not byok:
            house = self._accounts.get(provider)
            return house.usage_lookup if house is not None else None
        own = self._own_keys.of(workspace_id).keys.get(provider)
        return own.open().usage_lookup if own is not None else None
