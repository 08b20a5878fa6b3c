"""A ModelLister over real HTTP, with our own client and errors, to try keys at a scripted provider."""

from collections.abc import Sequence
from dataclasses import replace

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.upstream import Account, ListedModel


class HttpLister:
    """Asks for `/models` with the account's key."""

    def __init__(self, config: ProviderConfig, pool: HttpPool) -> None:
        assert config.api_key is not None
        self._url = f"{config.base_url}/models"
        self._errors = ProviderErrors(config.name, config.api_key)
        headers = {"authorization": f"Bearer {config.api_key.reveal()}"}
        self._http = ProviderHttp(headers, ProviderLimits(), self._errors, pool=pool, is_trusted=config.is_trusted)

    async def list_models(self) -> Sequence[ListedModel]:
        """Returns nothing for a good status; raises what the others mean."""
        response = await self._http.get(self._url)
        try:
            body = await response.read_refusal()
            if response.status != 200:
                raise self._errors.for_status(response.status, body, content_type=response.content_type)
        finally:
            response.close()
        return ()


def listing_account(config: ProviderConfig, pool: HttpPool) -> Account:
    """Makes a workspace's account that can be tested over HTTP."""
    return replace(make_account(config, pool, byok=True), lister=HttpLister(config, pool))
