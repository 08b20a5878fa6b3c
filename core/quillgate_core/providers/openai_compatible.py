"""Any server that speaks OpenAI's completions, chat or text: OpenAI, OpenRouter, vLLM, Ollama and compatible others.

Usage convention: `prompt_tokens` includes the cached tokens. Requests and answers pass through as they are, but for the
few members that routing and metering decide. It must not log: everything here is a prompt, an answer or a key.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate.v1.text_completion_pb2 import TextCompletion, TextCompletionRequest
from quillgate_codec import (
    JsonError,
    chat_request,
    load_json,
    provider_chat_answer,
    provider_chat_chunk,
    provider_text_completion,
    text_completion_request,
)
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.addresses import addresses, sent_headers
from quillgate_core.providers.call_pieces import CallPieces
from quillgate_core.providers.chunk_messages import ChunkMessages
from quillgate_core.providers.dialect_answer import clean_value
from quillgate_core.providers.dialect_request import translate
from quillgate_core.providers.dialects import DIALECTS, UNKNOWN, Dialect
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_responses import as_event, event_of, prepared_response, whole_response
from quillgate_core.providers.provider_calls import ProviderCalls
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.providers.same_frame import SameFrame
from quillgate_core.secret import Secret
from quillgate_core.upstream import PreparedChat, PreparedResponse, PreparedText, Traits

_DEFAULT_LIMITS: Final = ProviderLimits()
_DONE: Final = b"[DONE]"
_CHOICES: Final = "choices"
_dumps = msgspec.json.Encoder().encode


class _ModelOnly(msgspec.Struct):
    """The only member of a request that an address may need."""

    model: str


_decode_model = msgspec.json.Decoder(_ModelOnly).decode

PieceT = TypeVar("PieceT")


class OpenAICompatible:
    """A ChatProvider, TextProvider and ResponseProvider over HTTP with server-sent events.

    `base_url` is what paths such as `/chat/completions` are appended to, such as `https://openrouter.ai/api/v1`; it
    must not hold credentials. `extra_headers` are sent with every request and win over ours. `dialect` says what is
    particular to the vendor; by default it is the one of the vendor with that name. `byok` as ProviderErrors has it.
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
        dialect: Dialect | None = None,
        byok: bool = False,
    ) -> None:
        self._name = name
        self._dialect = dialect or DIALECTS.get(name, UNKNOWN)
        self._traits = self._dialect.traits
        self._addresses = addresses(self._dialect, base_url, extra_headers or {})
        self._errors = ProviderErrors(name, api_key, byok=byok)
        headers = sent_headers(self._dialect, api_key, extra_headers or {})
        http = ProviderHttp(headers, limits, self._errors, pool=pool, is_trusted=is_trusted)
        self._calls = ProviderCalls(http, self._errors, limits)

    @property
    def traits(self) -> Traits:
        """What is particular to it."""
        return self._traits

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""
        return self._name

    def prepare_chat(
        self, request: ChatCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedChat:
        """Writes the request as JSON for the upstream model, in the vendor's dialect.

        Raises InvalidRequest when raw members are not JSON, or ask for what the vendor can never serve.
        """
        try:
            value = chat_request.to_value(request)
        except JsonError as error:
            raise InvalidRequest(str(error), param=error.path, code=error.code) from None
        _decide_members(value, model=model, stream=stream)
        translate(value, self._dialect, self._addresses, provider=self._name, max_output_tokens=max_output_tokens)
        return PreparedChat(body=_dumps(value), stream=stream)

    async def create_chat(self, prepared: PreparedChat) -> ChatCompletion:
        """Sends the request and returns the whole answer; raises as ChatProvider says."""
        return provider_chat_answer.from_value(await self.create_chat_value(prepared))

    async def create_chat_value(self, prepared: PreparedChat) -> dict[str, Any]:
        """Sends the request and returns the whole answer as decoded JSON; raises as ChatProvider says."""
        return clean_value(await self._create("/chat/completions", prepared.body), self._errors)

    async def stream_chat(self, prepared: PreparedChat) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Sends the request and yields the chunks of each read together; raises as ChatProvider says."""
        messages = ChunkMessages(self._chunk_reader())
        pieces = self._stream_chat(prepared, messages.read, provider_chat_chunk.from_value)
        async with aclosing(pieces):
            async for chunks in pieces:
                yield chunks

    def stream_chat_values(self, prepared: PreparedChat) -> AsyncGenerator[list[dict[str, Any] | bytes], None]:
        """Sends the request and yields the chunks of each read together; raises as JsonChatProvider says."""
        frame, read_chunk = SameFrame(), self._chunk_reader()

        def read(data: bytes) -> dict[str, Any] | bytes:
            words = frame.words(data)
            if words is not None:
                return words
            value = read_chunk(data)
            frame.learn(data, value)
            return value

        return self._stream_chat(prepared, read, lambda value: value)

    def _chunk_reader(self) -> Callable[[bytes], dict[str, Any]]:
        """Returns what decodes and cleans the chunks of one stream."""
        number = CallPieces().number

        def read(data: bytes) -> dict[str, Any]:
            value = clean_value(self._object(data), self._errors)
            number(value)
            return value

        return read

    def _stream_chat(
        self, prepared: PreparedChat, read: Callable[[bytes], PieceT], made: Callable[[dict[str, Any]], PieceT]
    ) -> AsyncGenerator[list[PieceT], None]:
        """Yields chunks; `made` makes one of a JSON value, for the server that cannot stream."""
        return self._stream(
            "/chat/completions",
            prepared.body,
            read=read,
            whole=lambda value: made(_as_chunk(clean_value(value, self._errors))),
        )

    def prepare_text(
        self, request: TextCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedText:
        """Writes the request as JSON for the upstream model; raises InvalidRequest when raw members are not JSON."""
        try:
            value = text_completion_request.to_value(request)
        except JsonError as error:
            raise InvalidRequest(str(error), param=error.path, code=error.code) from None
        _decide_members(value, model=model, stream=stream)
        if max_output_tokens is not None:
            value["max_tokens"] = max_output_tokens
        if not (self._dialect.takes_stream_options and self._addresses.takes_stream_options):
            value.pop("stream_options", None)
        return PreparedText(body=_dumps(value), stream=stream)

    async def create_text(self, prepared: PreparedText) -> TextCompletion:
        """Sends the request and returns the whole answer; raises as TextProvider says."""
        return self._text_completion(await self._create("/completions", prepared.body))

    async def stream_text(self, prepared: PreparedText) -> AsyncGenerator[list[TextCompletion], None]:
        """Sends the request and yields the pieces of each read together; raises as TextProvider says."""
        whole = self._text_completion
        pieces = self._stream("/completions", prepared.body, read=lambda data: whole(self._object(data)), whole=whole)
        async with aclosing(pieces):
            async for together in pieces:
                yield together

    def prepare_response(
        self,
        request: ResponseRequest,
        items: Sequence[ResponseItem],
        *,
        model: str,
        stream: bool,
        max_output_tokens: int | None,
    ) -> PreparedResponse:
        """Writes the request as JSON for the upstream model; raises InvalidRequest when raw members are not JSON."""
        return prepared_response(request, items, model=model, stream=stream, max_output_tokens=max_output_tokens)

    async def create_response(self, prepared: PreparedResponse) -> Response:
        """Sends the request and returns the whole answer; raises as ResponseProvider says."""
        value = await self._create("/responses", prepared.body, list_member="output")
        return whole_response(value, self._errors)

    async def stream_response(self, prepared: PreparedResponse) -> AsyncGenerator[list[ResponseEvent], None]:
        """Sends the request and yields the events of each read together; raises as ResponseProvider says."""
        pieces = self._stream(
            "/responses",
            prepared.body,
            read=lambda data: event_of(self._object(data), self._errors),
            whole=lambda value: as_event(whole_response(value, self._errors)),
            list_member="output",
        )
        async with aclosing(pieces):
            async for events in pieces:
                yield events

    def _url(self, path: str, body: bytes) -> str:
        """Returns where a body goes: with dated versions of Azure's API the address names the model."""
        model = _decode_model(body).model if self._addresses.api_version else ""
        return self._addresses.of(path, model)

    def _text_completion(self, value: dict[str, Any]) -> TextCompletion:
        return provider_text_completion.from_value(clean_value(value, self._errors))

    async def _create(self, path: str, body: bytes, *, list_member: str = _CHOICES) -> dict[str, Any]:
        return self._answer_value(await self._calls.post(self._url(path, body), body), list_member)

    def _stream(
        self,
        path: str,
        body: bytes,
        *,
        read: Callable[[bytes], PieceT],
        whole: Callable[[dict[str, Any]], PieceT],
        list_member: str = _CHOICES,
    ) -> AsyncGenerator[list[PieceT], None]:
        """Yields the pieces of each read together; `whole` makes one of the answer of a server that cannot stream."""

        def decode(data: bytes, pieces: list[PieceT]) -> bool:
            if data.startswith(_DONE):
                return True
            pieces.append(read(data))
            return False

        return self._calls.stream(
            self._url(path, body),
            body,
            decode=decode,
            whole=lambda answer: [whole(self._answer_value(answer, list_member))],
        )

    def _answer_value(self, body: bytes, list_member: str) -> dict[str, Any]:
        """Decodes a whole answer, whose `list_member` is what makes it one; raises when it is none."""
        try:
            value = self._object(body)
        except JsonError as error:
            raise self._errors.unavailable("sent an answer that cannot be read") from error
        pieces = value.get(list_member)
        if type(pieces) is not list or any(type(piece) is not dict for piece in pieces):
            raise self._errors.unavailable(f"sent an answer without {list_member}")
        if not pieces and list_member == _CHOICES:  # a response that ended early may have no output
            raise self._errors.unavailable(f"sent an answer without {list_member}")
        return value

    def _object(self, data: bytes) -> dict[str, Any]:
        """Decodes one JSON object; raises the error that it stands for, or JsonError when it is no object.

        An `error` member that says nothing is left out: some clients take its mere presence for a failure.
        """
        value = load_json(data)
        if type(value) is not dict:
            raise JsonError("it must be a JSON object", code="invalid_type")
        if "error" in value or value.get("object") == "error":
            failure = self._errors.for_value(value)
            if failure is not None:
                raise failure
            value.pop("error", None)
        return value


def _decide_members(value: dict[str, Any], *, model: str, stream: bool) -> None:
    """Sets what routing and metering decide: the upstream's model, the form of the answer, usage in every stream."""
    value["model"] = model
    # Sent also when false: some servers stream unless told not to.
    value["stream"] = stream
    options = value.pop("stream_options", None) or {}
    if stream:
        value["stream_options"] = {**options, "include_usage": True}


def _as_chunk(answer: dict[str, Any]) -> dict[str, Any]:
    """Turns the whole answer of a server that cannot stream into one chunk that says the same."""
    choices = [_as_chunk_choice(choice) for choice in answer["choices"]]
    return {**answer, "object": "chat.completion.chunk", "choices": choices}


def _as_chunk_choice(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    delta = dict(message) if type(message) is dict else {}
    calls = delta.get("tool_calls")
    if type(calls) is list:
        # Clients join the pieces of a stream's tool calls by index, which whole answers lack.
        delta["tool_calls"] = [
            {"index": index, **call} if type(call) is dict else call for index, call in enumerate(calls)
        ]
    rest = {name: item for name, item in choice.items() if name != "message"}
    return {**rest, "delta": delta}
