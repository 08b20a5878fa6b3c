"""Where the endpoints of an OpenAI-compatible server are, and what every request to them carries. Pure.

https://api.groq.com/openai/v1                    {base}/chat/completions
https://NAME.openai.azure.com/openai/v1           the same, with Azure's header for the key
https://NAME.openai.azure.com                     {base}/openai/deployments/{model}/chat/completions?api-version=
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from yarl import URL

from quillgate_core.providers.dialects import Dialect
from quillgate_core.providers.provider_http import checked_base_url, request_headers
from quillgate_core.secret import Secret

API_VERSION: Final = "api-version"
"""The header of the settings that chooses a dated version of Azure's API; it is sent in the address."""

_DEFAULT_API_VERSION: Final = "2024-10-21"
_FIRST_WITH_STREAM_OPTIONS: Final = "2024-09-01"
_FIRST_WITH_COMPLETION_LIMIT: Final = "2024-09-01"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses at one base URL; `api_version` is empty but for dated versions of Azure's API."""

    base_url: str
    api_version: str = ""

    def of(self, path: str, model: str = "") -> str:
        """Returns the address of an endpoint such as `/chat/completions`, which serves `model` if it needs to know."""
        if not self.api_version:
            return self.base_url + path
        deployment = f"/deployments/{quote(model, safe='')}" if model else ""
        return f"{self.base_url}/openai{deployment}{path}?{API_VERSION}={quote(self.api_version)}"

    @property
    def takes_stream_options(self) -> bool:
        """Whether a dated version is new enough to be asked for usage in streams."""
        return not self.api_version or self.api_version >= _FIRST_WITH_STREAM_OPTIONS

    @property
    def takes_completion_limit(self) -> bool:
        """Whether a dated version is new enough to know `max_completion_tokens`."""
        return not self.api_version or self.api_version >= _FIRST_WITH_COMPLETION_LIMIT


def addresses(dialect: Dialect, base_url: str, headers: Mapping[str, str]) -> Addresses:
    """Returns the addresses at a base URL; raises ValueError for one that cannot work."""
    base_url = checked_base_url(base_url)
    path = URL(base_url).path
    if not dialect.is_azure or "/v1" in path:
        return Addresses(base_url + dialect.default_path if path == "/" else base_url)
    version = {name.lower(): value for name, value in headers.items()}.get(API_VERSION, _DEFAULT_API_VERSION)
    return Addresses(base_url.removesuffix("/openai"), version)


def sent_headers(dialect: Dialect, api_key: Secret | None, extra_headers: Mapping[str, str]) -> dict[str, str]:
    """Returns what every request is sent with: the settings' headers win over the dialect's, and those over ours."""
    key = {} if api_key is None else _key_header(dialect, api_key)
    headers = request_headers(key, {**dialect.headers, **{name.lower(): text for name, text in extra_headers.items()}})
    headers.pop(API_VERSION, None)
    return headers


def _key_header(dialect: Dialect, api_key: Secret) -> dict[str, str]:
    return {"api-key": api_key.reveal()} if dialect.is_azure else {"authorization": f"Bearer {api_key.reveal()}"}
