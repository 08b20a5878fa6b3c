"""The models of an OpenAI-compatible server, from its `GET /models`, with whatever each vendor says of them.

    OpenRouter   context_length, top_provider.max_completion_tokens, architecture, pricing (USD a token)
    Groq         context_window, max_completion_tokens, active
    Together     a bare array; type, context_length, pricing (USD a million tokens)
    Fireworks    context_length, supports_chat, supports_image_input
    Mistral      max_context_length, capabilities
    xAI          input_modalities, *_token_price (cents a hundred million tokens)
    vLLM         max_model_len

A model that cannot be asked for text is left out where the vendor says so. What cannot be read is left out too: a list
is for finding models, and half a list finds more than none.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal, DecimalException
from typing import Any, Final

from quillgate_codec import JsonError, load_json
from quillgate_core.catalogue import Modality
from quillgate_core.pricing import Price
from quillgate_core.providers.addresses import addresses, sent_headers
from quillgate_core.providers.dialects import Dialect
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_calls import ProviderCalls
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import ListedModel

MAX_MODELS: Final = 10_000
MAX_LIST_BYTES: Final = 16 * 1024**2

_MAX_LIST_S: Final = 60.0
_MAX_TOKENS: Final = 100_000_000
_MAX_DESCRIPTION_CHARACTERS: Final = 500
_ID: Final = re.compile(r"[!-~]{1,200}")
_CONTEXTS: Final = ("context_length", "context_window", "max_context_length", "max_model_len", "max_input_tokens")
_OUTPUTS: Final = ("max_completion_tokens", "max_output_tokens", "max_output_length")
_NO_CHAT_TYPES: Final = frozenset({"audio", "embedding", "image", "moderation", "rerank", "transcribe", "video"})
_MODALITIES: Final[Mapping[Any, Modality]] = {
    "text": "text",
    "image": "image",
    "audio": "audio",
    "video": "video",
    "file": "file",
    "pdf": "file",
}


class OpenAIModelList:
    """A ModelLister over HTTP; the arguments are those of OpenAICompatible."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: Secret | None,
        pool: HttpPool,
        is_trusted: bool,
        limits: ProviderLimits,
        extra_headers: Mapping[str, str],
        dialect: Dialect,
        byok: bool,
    ) -> None:
        self._addresses = addresses(dialect, base_url, extra_headers)
        self._errors = ProviderErrors(name, api_key, byok=byok)
        limits = replace(
            limits,
            response_bytes=min(limits.response_bytes, MAX_LIST_BYTES),
            total_s=min(limits.total_s, _MAX_LIST_S),
        )
        headers = sent_headers(dialect, api_key, extra_headers)
        http = ProviderHttp(headers, limits, self._errors, pool=pool, is_trusted=is_trusted)
        self._calls = ProviderCalls(http, self._errors, limits)
        self._key_path = dialect.key_path if api_key is not None else ""

    async def list_models(self) -> list[ListedModel]:
        """Returns the models that can be asked for text, in the server's order; raises as ModelLister says."""
        if self._key_path:
            await self._calls.get(self._addresses.of(self._key_path))
        body = await self._calls.get(self._addresses.of("/models"))
        try:
            value = load_json(body)
        except JsonError as error:
            raise self._errors.unavailable("sent a list of models that cannot be read") from error
        entries = value.get("data") if type(value) is dict else value
        if type(entries) is not list:
            failure = self._errors.for_value(value) if type(value) is dict else None
            raise failure or self._errors.unavailable("sent a list of models that is none")
        return list(listed_models(entries[:MAX_MODELS]))


def listed_models(entries: Iterable[Any]) -> Iterable[ListedModel]:
    """Yields what can be read of a decoded list, each model once."""
    seen = set()
    for entry in entries:
        model = entry.get("id") if type(entry) is dict else None
        if type(model) is str and _ID.fullmatch(model) and model not in seen and _can_chat(entry):
            seen.add(model)
            yield _listed(model, entry)


def _listed(model: str, entry: dict[str, Any]) -> ListedModel:
    provider = _object(entry, "top_provider")
    return ListedModel(
        model,
        context_window=_tokens(entry, _CONTEXTS),
        max_output_tokens=_tokens(provider, _OUTPUTS) or _tokens(entry, _OUTPUTS),
        input_modalities=_input_modalities(entry),
        output_modalities=_modalities(_object(entry, "architecture").get("output_modalities"))
        or _modalities(entry.get("output_modalities")),
        price=_price(entry),
        description=_text(entry.get("description"))[:_MAX_DESCRIPTION_CHARACTERS].strip(),
        created=entry["created"] if type(entry.get("created")) is int and 0 <= entry["created"] < 2**40 else 0,
    )


def _can_chat(entry: dict[str, Any]) -> bool:
    capabilities = _object(entry, "capabilities")
    says_no = (entry.get("supports_chat"), entry.get("active"), capabilities.get("completion_chat"))
    outputs = _modalities(_object(entry, "architecture").get("output_modalities"))
    return not any(said is False for said in says_no) and (
        _text(entry.get("type")) not in _NO_CHAT_TYPES and (not outputs or "text" in outputs)
    )


def _input_modalities(entry: dict[str, Any]) -> tuple[Modality, ...]:
    told = _modalities(_object(entry, "architecture").get("input_modalities")) or _modalities(
        entry.get("input_modalities")
    )
    if told:
        return told
    capabilities = _object(entry, "capabilities")
    sees = [entry.get("supports_image_input"), capabilities.get("vision")]
    hears = capabilities.get("audio")
    if not any(type(said) is bool for said in (*sees, hears)):
        return ()
    told = ("text",)
    if True in sees:
        told += ("image",)
    return (*told, "audio") if hears is True else told


def _modalities(value: Any) -> tuple[Modality, ...]:
    if type(value) is not list:
        return ()
    found = [_MODALITIES[item] for item in value if type(item) is str and item in _MODALITIES]
    return tuple(dict.fromkeys(found))


def _tokens(entry: dict[str, Any], names: Iterable[str]) -> int | None:
    return next(
        (entry[name] for name in names if type(entry.get(name)) is int and 0 < entry[name] <= _MAX_TOKENS), None
    )


def _price(entry: dict[str, Any]) -> Price | None:
    """Reads a price in whichever of the three forms it has; one that is negative stands for `it depends`."""
    pricing = _object(entry, "pricing")
    if "prompt" in pricing:
        return _price_of(pricing, ("prompt", "completion", "input_cache_read", "input_cache_write"), 10**6)
    if "input" in pricing:
        return _price_of(pricing, ("input", "output", "cached_input", ""), 1)
    names = ("prompt_text_token_price", "completion_text_token_price", "cached_prompt_text_token_price", "")
    return _price_of(entry, names, Decimal("0.0001"))


def _price_of(value: dict[str, Any], names: tuple[str, str, str, str], factor: int | Decimal) -> Price | None:
    prompt, completion, read, write = (_usd(value.get(name), factor) for name in names)
    if prompt is None or completion is None:
        return None
    return Price(prompt, completion, cached_input=read, cache_write=write)


def _usd(value: Any, factor: int | Decimal) -> str | None:
    """Returns USD for a million tokens as Price has them, None for what is no price."""
    if type(value) not in (str, int, float):
        return None
    try:
        usd = (Decimal(str(value)) * factor).quantize(Decimal("0.000001"))
    except (DecimalException, ValueError):
        return None
    return f"{usd.normalize():f}" if usd.is_finite() and 0 <= usd < 10**6 else None


def _object(entry: dict[str, Any], name: str) -> dict[str, Any]:
    value = entry.get(name)
    return value if type(value) is dict else {}


def _text(value: Any) -> str:
    return value if type(value) is str else ""
