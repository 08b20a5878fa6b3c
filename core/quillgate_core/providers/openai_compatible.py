"""Any server that speaks OpenAI's chat completions: OpenAI, OpenRouter, vLLM, Ollama, and others' compatible endpoints.

Usage convention: `prompt_tokens` includes the cached tokens. Requests and answers pass through as they are, but for the
few members that routing and metering decide. It must not log: everything here is a prompt, an answer or a key.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from yarl import URL

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_codec import JsonError, chat_request, load_json, provider_chat_answer, provider_chat_chunk
from quillgate_core.catalogue import Endpoint
from quillgate_core.errors import InvalidRequest, QuillgateError
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp, ProviderResponse
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.providers.sse import SseLimitError, SseParser
from quillgate_core.secret import Secret
from quillgate_core.upstream import PreparedChat

_DEFAULT_LIMITS: Final = ProviderLimits()
_DONE: Final = b"[DONE]"
_LIMIT_MEMBERS: Final = ("max_tokens", "max_completion_tokens")
_dumps = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Batch:
    """What one read of a stream held: chunks, then perhaps the end, good (`[DONE]`) or bad."""

    chunks: list[ChatCompletionChunk]
    done: bool = False
    failure: QuillgateError | None = None


class OpenAICompatible:
    """A ChatProvider over HTTP with server-sent events.

    `base_url` is what the path `/chat/completions` is appended to, such as `https://openrouter.ai/api/v1`; it must not
    hold credentials. `extra_headers` are sent with every request and win over ours.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: Secret | None = None,
        limits: ProviderLimits = _DEFAULT_LIMITS,
        extra_headers: Mapping[str, str] | None = None,
        native_endpoints: frozenset[Endpoint] = frozenset({"chat.completions"}),
    ) -> None:
        self.native_endpoints = native_endpoints
        self._name = name
        self._url = _completions_url(base_url)
        self._limits = limits
        self._limit_member = "max_completion_tokens" if name == "openai" else "max_tokens"
        self._errors = ProviderErrors(name, api_key)
        self._http = ProviderHttp(_headers(api_key, extra_headers or {}), limits, self._errors)

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""
        return self._name

    def prepare_chat(
        self, request: ChatCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedChat:
        """Writes the request as JSON for the upstream model; raises InvalidRequest when raw members are not JSON."""
        try:
            value = chat_request.to_value(request)
        except JsonError as error:
            raise InvalidRequest(str(error), param=error.path, code=error.code) from None
        value["model"] = model
        # Sent also when false: some servers stream unless told not to.
        value["stream"] = stream
        options = value.pop("stream_options", None) or {}
        if stream:
            value["stream_options"] = {**options, "include_usage": True}
        if max_output_tokens is not None:
            for member in self._present_limits(value):
                value[member] = max_output_tokens
        return PreparedChat(body=_dumps(value), stream=stream)

    async def create_chat(self, prepared: PreparedChat) -> ChatCompletion:
        """Sends the request and returns the whole answer; raises as ChatProvider says."""
        response = await self._open(prepared)
        try:
            return provider_chat_answer.from_value(self._answer_value(await response.read_all()))
        finally:
            response.close()

    async def stream_chat(self, prepared: PreparedChat) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Sends the request and yields the chunks of each read together; raises as ChatProvider says."""
        response = await self._open(prepared)
        done = False
        try:
            if response.content_type.startswith("application/json"):
                yield [_as_chunk(self._answer_value(await response.read_all()))]
                return
            if response.content_type.startswith("text/html"):
                raise self._errors.unavailable("answered with a web page")
            parser = SseParser(self._limits.sse_line_bytes, self._limits.sse_event_bytes)
            while not done:
                data = await response.read_some()
                batch = self._read_batch(parser, data)
                if batch.chunks:
                    yield batch.chunks
                if batch.failure is not None:
                    raise batch.failure
                done = batch.done
                if not data:
                    return
        finally:
            if done:
                self._http.finish(response)
            else:
                response.close()

    async def close(self) -> None:
        """Closes idle connections."""
        await self._http.close()

    async def _open(self, prepared: PreparedChat) -> ProviderResponse:
        """Returns a response with a good status; raises for every other one."""
        response = await self._http.post(self._url, prepared.body)
        if 200 <= response.status < 300:
            return response
        try:
            raise self._errors.for_status(
                response.status,
                await response.read_refusal(),
                content_type=response.content_type,
                retry_after=response.retry_after,
            )
        finally:
            response.close()

    def _answer_value(self, body: bytes) -> dict[str, Any]:
        """Decodes a whole answer; raises when it is none."""
        try:
            value = self._object(body)
        except JsonError as error:
            raise self._errors.unavailable("sent an answer that cannot be read") from error
        choices = value.get("choices")
        if type(choices) is not list or not choices or any(type(choice) is not dict for choice in choices):
            raise self._errors.unavailable("sent an answer without choices")
        return value

    def _object(self, data: bytes) -> dict[str, Any]:
        """Decodes one JSON object; raises the error that it stands for, or JsonError when it is no object.

        An `error` member that says nothing is left out: some clients take its mere presence for a failure.
        """
        value = load_json(data)
        if type(value) is not dict:
            raise JsonError("it must be a JSON object", code="invalid_type")
        if "error" in value or "object" in value:
            failure = self._errors.for_value(value)
            if failure is not None:
                raise failure
            value.pop("error", None)
        return value

    def _read_batch(self, parser: SseParser, data: bytes) -> _Batch:
        """Decodes what one read completes; no data is the end of the stream."""
        try:
            events = parser.feed(data) if data else parser.close()
        except SseLimitError as error:
            batch = self._decode(error.events)
            if not batch.done:
                batch.failure = batch.failure or self._errors.unavailable("sent more at once than this gateway reads")
            return batch
        return self._decode(events)

    def _decode(self, events: list[bytes]) -> _Batch:
        batch = _Batch([])
        for data in events:
            if data.startswith(_DONE):
                batch.done = True
                break
            try:
                batch.chunks.append(provider_chat_chunk.from_value(self._object(data)))
            except JsonError:
                batch.failure = self._errors.unavailable("sent a chunk that cannot be read")
                break
            except QuillgateError as error:
                batch.failure = error
                break
        return batch

    def _present_limits(self, value: dict[str, Any]) -> list[str]:
        """The members that limit the output in this request, or the one that this provider knows for sure."""
        return [member for member in _LIMIT_MEMBERS if value.get(member) is not None] or [self._limit_member]


def _completions_url(base_url: str) -> str:
    url = URL(base_url)
    if url.scheme not in ("http", "https") or not url.host or url.user or url.password or url.query or url.fragment:
        raise ValueError("a provider's base URL must be http(s) with a host, without credentials, query or fragment")
    return base_url.rstrip("/") + "/chat/completions"


def _headers(api_key: Secret | None, extra_headers: Mapping[str, str]) -> dict[str, str]:
    headers = {
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",  # compression would hold chunks back
        "content-type": "application/json",
        "user-agent": "quillgate",
    }
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key.reveal()}"
    return headers | {header.lower(): value for header, value in extra_headers.items()}


def _as_chunk(answer: dict[str, Any]) -> ChatCompletionChunk:
    """Turns the whole answer of a server that cannot stream into one chunk that says the same."""
    choices = [_as_chunk_choice(choice) for choice in answer["choices"]]
    return provider_chat_chunk.from_value({**answer, "object": "chat.completion.chunk", "choices": choices})


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
