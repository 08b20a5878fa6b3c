"""Azure OpenAI's dated API: an address for each deployment, with a version."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from conformance.vendor import Sent
from conformance.vendor_azure import AzureVendor
from fakes.scripted_upstream import RecordedRequest

from quillgate_core.catalogue_file import ProviderConfig


class AzureDatedVendor(AzureVendor):
    """https://learn.microsoft.com/azure/ai-services/openai/reference"""

    name = "azure-dated"
    headers: Mapping[str, Any] = {"api-version": "2024-10-21"}

    def config(self, base_url: str) -> ProviderConfig:
        """The bare endpoint, as Azure's portal shows it."""
        endpoint = "{0.scheme}://{0.netloc}/".format(urlsplit(base_url))
        return replace(super().config(endpoint), dialect="azure", headers=self.headers)

    def sent(self, request: RecordedRequest) -> Sent:
        """The deployment's name is in the address."""
        sent = super().sent(request)
        assert request.path == f"/openai/deployments/{sent.model}/chat/completions"
        assert "api-version" not in {name.lower() for name in request.headers}
        return sent


VENDOR = AzureDatedVendor()
