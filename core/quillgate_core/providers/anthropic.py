"""Anthropic's Messages API, and servers that speak it. It must not log: here is nothing but prompts, answers and keys.

Usage convention: Anthropic counts tokens read from its cache, and those written to it, outside `input_tokens`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final, get_args
from urllib.parse import urlencode

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_codec import JsonError, load_json
from quillgate_core.catalogue import Modality
from quillgate_core.providers.anthropic_answer import answer_of
from quillgate_core.providers.anthropic_request import body_of
from quillgate_core.providers.anthropic_stream import AnthropicStream
from quillgate_core.providers.anthropic_wire import Message, ModelInfo, ModelPage, decode_message, decode_page
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_calls import ProviderCalls
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp, request_headers, versioned_base_url
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import Capability, ListedModel, PreparedChat, Traits

VERSION: Final = "2023-06-01"
"""The version of the API that this speaks. A later one, 2026-10-21, has other members."""
MAX_PAGES: Final = 10
"""Most pages of models that are read; a page has up to 1,000."""

_PAGE_SIZE: Final = 1_000
_DEFAULT_LIMITS: Final = ProviderLimits()
_TRAITS: Final = Traits(
    cached_tokens="outside",
    cancel_stops_bill=True,
    supports=frozenset(get_args(Capability))
    - {"audio", "logprobs", "choices", "completions", "responses", "transcriptions"},
    needs_output_limit=True,
)


class Anthropic:
    """A ChatProvider and ModelLister over HTTP with server-sent events.

    `base_url` is what `/messages` is appended to, with or without the version of the API; it must not hold credentials.
    `extra_headers`, such as `anthropic-beta`, are sent with every request and win over ours.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: Secret | None = None,
        pool: HttpPool,
        is_trusted: bool = True,
        limits: ProviderLimits = _DEFAULT_LIMITS,
        extra_headers: Mapping[str, str] | None = None,
        byok: bool = False,
    ) -> None:
        self._name = name
        base_url = versioned_base_url(base_url, "v1")
        self._messages_url = base_url + "/messages"
        self._models_url = base_url + "/models"
        self._errors = ProviderErrors(name, api_key, byok=byok)
        credentials = {"x-api-key": api_key.reveal()} if api_key is not None else {}
        headers = request_headers({"anthropic-version": VERSION, **credentials}, extra_headers or {})
        http = ProviderHttp(headers, limits, self._errors, pool=pool, is_trusted=is_trusted)
        self._calls = ProviderCalls(http, self._errors, limits)

    @property
    def traits(self) -> Traits:
        """What is particular to it."""
        return _TRAITS

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""
        return self._name

    def prepare_chat(
        self, request: ChatCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedChat:
        """Translates the request as `anthropic_request` tells; raises InvalidRequest."""
        body = body_of(request, model=model, stream=stream, max_output_tokens=max_output_tokens)
        return PreparedChat(body=body, stream=stream)

    async def create_chat(self, prepared: PreparedChat) -> ChatCompletion:
        """Sends the request and returns the whole answer; raises as ChatProvider says."""
        return answer_of(self._message(await self._calls.post(self._messages_url, prepared.body)))

    async def stream_chat(self, prepared: PreparedChat) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Sends the request and yields the chunks of each read together; raises as ChatProvider says."""
        stream = AnthropicStream(self._errors)
        batches = self._calls.stream(
            self._messages_url,
            prepared.body,
            decode=stream.decode,
            whole=lambda body: stream.whole(self._message(body)),
        )
        async with aclosing(batches):
            async for chunks in batches:
                yield chunks

    async def list_models(self) -> Sequence[ListedModel]:
        """Returns every model that can be asked, page by page; raises as ModelLister says."""
        models: dict[str, ListedModel] = {}
        query: dict[str, Any] = {"limit": _PAGE_SIZE}
        for _ in range(MAX_PAGES):
            page = self._page(await self._calls.get(f"{self._models_url}?{urlencode(query)}"))
            models |= {info.id: _listed(info) for info in page.data if info.lifecycle != "retired"}
            if not page.has_more or not page.last_id or page.last_id == query.get("after_id"):
                break
            query["after_id"] = page.last_id
        return list(models.values())

    def _message(self, body: bytes) -> Message:
        """Decodes a whole answer; raises the error that it stands for."""
        self._raise_error(body)
        try:
            message = decode_message(body)
        except (ValueError, RecursionError) as error:
            raise self._errors.unavailable("sent an answer that cannot be read") from error
        if message.content is None or not message.stop_reason:
            raise self._errors.unavailable("sent an answer without content")
        return message

    def _page(self, body: bytes) -> ModelPage:
        self._raise_error(body)
        try:
            return decode_page(body)
        except (ValueError, RecursionError) as error:
            raise self._errors.unavailable("sent a list of models that cannot be read") from error

    def _raise_error(self, body: bytes) -> None:
        """Some servers answer with an error and a good status."""
        if b'"error"' not in body[:1_000]:
            return
        try:
            value = load_json(body)
        except JsonError:
            return
        failure = self._errors.for_value(value) if type(value) is dict else None
        if failure is not None:
            raise failure


def _listed(info: ModelInfo) -> ListedModel:
    return ListedModel(
        info.id,
        context_window=info.max_input_tokens or None,
        max_output_tokens=info.max_tokens or None,
        input_modalities=_modalities(info.capabilities),
        output_modalities=("text",),
        description=info.display_name,
        created=_seconds(info.created_at),
    )


def _modalities(capabilities: Mapping[str, Any] | None) -> tuple[Modality, ...]:
    """What a model reads; nothing where the list does not say."""
    if capabilities is None:
        return ()
    kinds: dict[str, Modality] = {"image_input": "image", "pdf_input": "file"}
    support = {name: capabilities.get(name) for name in kinds}
    read = [kinds[name] for name, found in support.items() if type(found) is dict and found.get("supported") is True]
    return ("text", *read)


def _seconds(time: str) -> int:
    """Seconds since 1970; 0 for a time that is not known."""
    try:
        return max(0, int(datetime.fromisoformat(time).timestamp()))
    except (ValueError, OverflowError):
        return 0
