"""From a workspace's sealed key to an account: the only place that decrypts one. It must not keep or log it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from quillgate_core.catalogue_file import CHAT_ONLY, ProviderConfig
from quillgate_core.errors import ProviderCredentialRejected
from quillgate_core.provider_base_url import IsAllowedHost, is_allowed_base_url
from quillgate_core.provider_credential import ProviderCredential
from quillgate_core.sealing import CannotOpen, MasterKeys
from quillgate_core.secret import Secret
from quillgate_core.upstream import Account

log = logging.getLogger(__name__)

OpenAccount: TypeAlias = Callable[[ProviderConfig], Account]
"""Makes the account of a provider's own protocol with the key in the config."""

_ACCOUNT_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key", "x-goog-api-key"}
    | {"openai-organization", "openai-project", "x-goog-user-project"}
)
"""Headers that belong to the gateway's own account and would take the place of the workspace's."""


class OwnAccounts:
    """Opens accounts with workspaces' keys at the providers that are known here, by name."""

    def __init__(
        self,
        providers: Mapping[str, ProviderConfig],
        master_keys: MasterKeys,
        open_account: OpenAccount,
        is_allowed_host: IsAllowedHost,
    ) -> None:
        self._providers = providers
        self._master_keys = master_keys
        self._open_account = open_account
        self._is_allowed_host = is_allowed_host

    def open(self, credential: ProviderCredential) -> Account:
        """Returns a new account with the decrypted key.

        Raises ProviderCredentialRejected, and logs why, for a row that was edited or moved, a master key that is not
        here, a provider that is not known any more, and a base URL that cannot be used.
        """
        config = self._providers.get(credential.provider)
        try:
            if config is None:
                raise CannotOpen("its provider is not known here")
            secret = self._master_keys.open(credential.sealed, credential.belonging)
            return self._open_account(self._own_config(config, secret, credential.base_url))
        except CannotOpen as error:
            _log_refusal(credential, str(error))
        except ValueError:
            _log_refusal(credential, "its base URL cannot be used")
        raise ProviderCredentialRejected(credential.provider)

    def _own_config(self, config: ProviderConfig, secret: Secret, base_url: str) -> ProviderConfig:
        """Another server gets none of the operator's headers, is asked for chat only, and is trusted by name only.

        It is never read on when callers leave: it would be the workspace's to say how long.
        """
        if not base_url:
            headers = {name: value for name, value in config.headers.items() if name.lower() not in _ACCOUNT_HEADERS}
            return replace(config, api_key=secret, headers=headers)
        return replace(
            config,
            api_key=secret,
            base_url=base_url,
            headers={},
            native_endpoints=CHAT_ONLY,
            on_hang_up="cancel",
            is_trusted=is_allowed_base_url(base_url, self._is_allowed_host),
        )


def _log_refusal(credential: ProviderCredential, reason: str) -> None:
    log.error(
        "the provider key %r of workspace %r with %r, sealed with master key %r, cannot be opened: %s",
        credential.credential_id,
        credential.workspace_id,
        credential.provider,
        credential.sealed.master_key_id,
        reason,
    )
