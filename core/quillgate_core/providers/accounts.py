"""Makes accounts: a provider and one key with it, by the protocol that it speaks. A new protocol is a line here."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from quillgate_core.catalogue_file import Protocol, ProviderConfig
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.providers.openai_transcriptions import SPEECH_LIMITS, OpenAITranscriptions
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.upstream import Account

Make = Callable[[ProviderConfig, HttpPool, ProviderLimits], Account]


def make_account(
    config: ProviderConfig, pool: HttpPool, limits: ProviderLimits | None = None, *, byok: bool = False
) -> Account:
    """Returns what can be asked of a provider with the key of `config`; `byok` when that is a workspace's own."""
    account = _MAKERS[config.protocol](config, pool, _limits(config, limits or ProviderLimits()))
    return replace(account, byok=byok, max_in_flight=config.max_in_flight)


def _limits(config: ProviderConfig, limits: ProviderLimits) -> ProviderLimits:
    """Returns the limits with what the operator says of this provider."""
    return replace(
        limits,
        first_byte_s=config.first_byte_s or limits.first_byte_s,
        stall_s=config.stall_s or limits.stall_s,
    )


def _openai(config: ProviderConfig, pool: HttpPool, limits: ProviderLimits) -> Account:
    provider = OpenAICompatible(
        name=config.name,
        base_url=config.base_url,
        api_key=config.api_key,
        pool=pool,
        is_trusted=config.is_trusted,
        limits=limits,
        extra_headers=config.headers,
    )
    transcriptions = OpenAITranscriptions(
        name=config.name,
        base_url=config.base_url,
        api_key=config.api_key,
        pool=pool,
        is_trusted=config.is_trusted,
        limits=_limits(config, SPEECH_LIMITS),
    )
    return Account(
        config.name,
        chat=provider,
        text=provider if "completions" in config.native_endpoints else None,
        responses=provider if "responses" in config.native_endpoints else None,
        transcriptions=transcriptions,
    )


_MAKERS: Final[Mapping[Protocol, Make]] = {"openai": _openai}
