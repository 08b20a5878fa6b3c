"""Makes accounts: a provider and one key with it, by the protocol that it speaks. A new protocol is a line here."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypedDict

from quillgate_core.catalogue_file import Protocol, ProviderConfig
from quillgate_core.providers.anthropic import Anthropic
from quillgate_core.providers.dialects import Dialect, dialect_of
from quillgate_core.providers.gemini import Gemini
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.providers.openai_model_list import OpenAIModelList
from quillgate_core.providers.openai_transcriptions import SPEECH_LIMITS, OpenAITranscriptions
from quillgate_core.providers.openrouter_generation import OpenRouterGeneration
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import Account

Make = Callable[[ProviderConfig, HttpPool, ProviderLimits, bool], Account]
"""Makes the account of a configuration; the last is whether the key is a workspace's own."""


def make_account(
    config: ProviderConfig, pool: HttpPool, limits: ProviderLimits | None = None, *, byok: bool = False
) -> Account:
    """Returns what can be asked of a provider with the key of `config`; `byok` when that is a workspace's own."""
    account = _MAKERS[config.protocol](config, pool, _limits(config, limits or ProviderLimits()), byok)
    drains = config.on_hang_up == "drain"
    return replace(account, byok=byok, max_in_flight=config.max_in_flight, drains=drains)


def _limits(config: ProviderConfig, limits: ProviderLimits) -> ProviderLimits:
    """Returns the limits with what the operator says of this provider."""
    return replace(
        limits,
        first_byte_s=config.first_byte_s or limits.first_byte_s,
        stall_s=config.stall_s or limits.stall_s,
    )


class _Server(TypedDict):
    """What every endpoint of an OpenAI-compatible server is made with."""

    name: str
    base_url: str
    api_key: Secret | None
    pool: HttpPool
    is_trusted: bool
    extra_headers: Mapping[str, str]
    dialect: Dialect
    byok: bool


def _openai(config: ProviderConfig, pool: HttpPool, limits: ProviderLimits, byok: bool) -> Account:
    dialect = dialect_of(config)
    server = _Server(
        name=config.name,
        base_url=config.base_url,
        api_key=config.api_key,
        pool=pool,
        is_trusted=config.is_trusted,
        extra_headers=config.headers,
        dialect=dialect,
        byok=byok,
    )
    provider = OpenAICompatible(**server, limits=limits)
    speech = _limits(config, SPEECH_LIMITS)
    return Account(
        config.name,
        chat=provider,
        json_chat=provider,
        text=provider if "completions" in config.native_endpoints else None,
        responses=provider if "responses" in config.native_endpoints else None,
        transcriptions=None if "transcriptions" in dialect.lacks else OpenAITranscriptions(**server, limits=speech),
        lister=OpenAIModelList(**server, limits=limits),
        usage_lookup=OpenRouterGeneration(**server, limits=limits) if dialect.keeps_generations else None,
    )


def _native(kind: type[Anthropic] | type[Gemini]) -> Make:
    """Returns the maker of a vendor's own protocol, which has chats and a list of models."""

    def make(config: ProviderConfig, pool: HttpPool, limits: ProviderLimits, byok: bool) -> Account:
        provider = kind(
            name=config.name,
            base_url=config.base_url,
            api_key=config.api_key,
            pool=pool,
            is_trusted=config.is_trusted,
            limits=limits,
            extra_headers=config.headers,
            byok=byok,
        )
        return Account(config.name, chat=provider, lister=provider)

    return make


_MAKERS: Final[Mapping[Protocol, Make]] = {
    "openai": _openai,
    "anthropic": _native(Anthropic),
    "gemini": _native(Gemini),
}
