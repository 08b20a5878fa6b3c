"""Google's Gemini API, `generateContent`: its own protocol, not the OpenAI one that Google offers beside it.

    POST {base_url}/models/{model}:generateContent                       whole
    POST {base_url}/models/{model}:streamGenerateContent?alt=sse         streamed; it ends by closing, without `[DONE]`
    GET  {base_url}/models?pageSize=&pageToken=                          what there is

The key goes into `x-goog-api-key`, never into the address. Usage convention: the prompt's tokens include the cached
ones (`gemini_usage`). What is translated how: `gemini_request`, `gemini_contents`, `gemini_answer`. It must not log:
everything here is a prompt, an answer or a key.
"""

import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, get_args
from urllib.parse import quote, urlencode

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_codec import JsonError, load_json
from quillgate_core.providers.gemini_answer import GeminiAnswer, whole_answer
from quillgate_core.providers.gemini_request import gemini_body
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_calls import ProviderCalls
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp, request_headers, versioned_base_url
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import Capability, ListedModel, PreparedChat, Traits

_DEFAULT_LIMITS: Final = ProviderLimits()
_TRAITS: Final = Traits(
    cached_tokens="inside",
    cancel_stops_bill=False,  # OpenRouter lists Google among those that go on after a hang-up
    supports=frozenset(get_args(Capability)) - {"cache_control", "completions", "responses", "transcriptions"},
)
_PAGE_MODELS: Final = 1000
_MAX_PAGES: Final = 20


class GeminiChat(PreparedChat, frozen=True):
    """A prepared request with what its body does not say: Gemini's addresses hold the model."""

    model: str
    single_call: bool
    """Whether only the first tool call of the answer counts."""


def _new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class Gemini:
    """A ChatProvider and ModelLister over HTTP with server-sent events.

    `base_url` is with or without the API's version, such as `https://generativelanguage.googleapis.com/v1beta`; it must
    not hold credentials. `extra_headers` are sent with every request and win over ours. `byok` says that the key is a
    workspace's own.
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
        new_call_id: Callable[[], str] = _new_call_id,
    ) -> None:
        self._name = name
        self._base_url = versioned_base_url(base_url, "v1beta")
        self._new_call_id = new_call_id
        self._errors = ProviderErrors(name, api_key, byok=byok)
        credentials = {"x-goog-api-key": api_key.reveal()} if api_key is not None else {}
        headers = request_headers(credentials, extra_headers or {})
        http = ProviderHttp(headers, limits, self._errors, pool=pool, is_trusted=is_trusted)
        self._calls = ProviderCalls(http, self._errors, limits)

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""
        return self._name

    @property
    def traits(self) -> Traits:
        """What is particular to it."""
        return _TRAITS

    def prepare_chat(
        self, request: ChatCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedChat:
        """Translates the request; raises InvalidRequest for what `gemini_request` says that Gemini cannot do."""
        single_call = request.HasField("parallel_tool_calls") and not request.parallel_tool_calls
        body = gemini_body(request, model=model, max_output_tokens=max_output_tokens)
        return GeminiChat(body=body, stream=stream, model=model, single_call=single_call)

    async def create_chat(self, prepared: PreparedChat) -> ChatCompletion:
        """Sends the request and returns the whole answer; raises as ChatProvider says."""
        chat, answer = self._begin(prepared)
        value = self._value(await self._calls.post(self._url(chat, "generateContent"), chat.body))
        return whole_answer([answer.take(value), *answer.end()], self._errors)

    async def stream_chat(self, prepared: PreparedChat) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Sends the request and yields the chunks of each read together; raises as ChatProvider says."""
        chat, answer = self._begin(prepared)
        url = self._url(chat, "streamGenerateContent?alt=sse")

        def decode(data: bytes, chunks: list[ChatCompletionChunk]) -> bool:
            chunk = answer.take(self._checked(load_json(data)))
            if chunk.choices or chunk.HasField("usage"):
                chunks.append(chunk)
            return False  # only closing is an end

        def closed(stray: bytes) -> list[ChatCompletionChunk]:
            self._raise_stray(stray)
            return answer.end()

        pieces = self._calls.stream(
            url, chat.body, decode=decode, whole=lambda body: self._whole(body, answer), closed=closed
        )
        async with aclosing(pieces):
            async for chunks in pieces:
                yield chunks

    async def list_models(self) -> list[ListedModel]:
        """Returns the models that can chat, page by page; raises as create_chat does."""
        found: list[ListedModel] = []
        token: Any = ""
        for _ in range(_MAX_PAGES):
            query = {"pageSize": str(_PAGE_MODELS)} | ({"pageToken": token} if token else {})
            page = self._value(await self._calls.get(f"{self._base_url}/models?{urlencode(query)}"))
            models = page.get("models")
            found += filter(None, map(_listed, models if type(models) is list else ()))
            token = page.get("nextPageToken")
            if type(token) is not str or not token:
                break
        return found

    def _begin(self, prepared: PreparedChat) -> tuple[GeminiChat, GeminiAnswer]:
        assert isinstance(prepared, GeminiChat)
        answer = GeminiAnswer(self._errors, single_call=prepared.single_call, new_call_id=self._new_call_id)
        return prepared, answer

    def _url(self, chat: GeminiChat, method: str) -> str:
        name = chat.model if "/" in chat.model else f"models/{chat.model}"
        return f"{self._base_url}/{quote(name)}:{method}"

    def _value(self, body: bytes) -> dict[str, Any]:
        """Decodes a whole body; raises the error that it stands for."""
        try:
            return self._checked(load_json(body))
        except JsonError as error:
            raise self._errors.unavailable("sent an answer that cannot be read") from error

    def _whole(self, body: bytes, answer: GeminiAnswer) -> list[ChatCompletionChunk]:
        """Reads what a server that does not know `alt=sse` answers: all responses in one array, or the only one."""
        try:
            value = load_json(body)
            values = [self._checked(item) for item in (value if type(value) is list else [value])]
        except JsonError as error:
            raise self._errors.unavailable("sent an answer that cannot be read") from error
        return [*map(answer.take, values), *answer.end()]

    def _checked(self, value: Any) -> dict[str, Any]:
        """Returns a response; raises the error that it stands for, or JsonError for what is no object."""
        if type(value) is not dict:
            raise JsonError("it must be a JSON object", code="invalid_type")
        if "error" in value:
            failure = self._errors.for_value(value)
            if failure is not None:
                raise failure
        return value

    def _raise_stray(self, stray: bytes) -> None:
        """Raises the error that ended a stream, which comes as bare JSON and in no event."""
        try:
            value = load_json(stray) if stray else None
        except JsonError:
            return
        value = value[0] if type(value) is list and value else value
        if type(value) is dict:
            self._checked(value)


def _listed(value: Any) -> ListedModel | None:
    """Returns an entry of the list, None for one that cannot chat or cannot be read."""
    if type(value) is not dict or type(value.get("name")) is not str:
        return None
    methods = value.get("supportedGenerationMethods")
    if type(methods) is not list or "generateContent" not in methods:
        return None
    description = value.get("description")
    return ListedModel(
        model=value["name"].removeprefix("models/"),
        context_window=_limit(value.get("inputTokenLimit")),
        max_output_tokens=_limit(value.get("outputTokenLimit")),
        description=description if type(description) is str else "",
    )


def _limit(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= 100_000_000 else None
