"""`POST /chat/completions`: parse, ask the core, render; in one piece or as a stream of server-sent events.

A client that hangs up cancels the handler, which cancels the call, which reaches the provider.
"""

from collections.abc import AsyncIterator

from aiohttp import web

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate.v1.completion_service_pb2 import (
    CreateChatCompletionRequest,
    StreamChatCompletionRequest,
    StreamChatCompletionResponse,
)
from quillgate.v1.metering_service_pb2 import Receipt, Reservation
from quillgate_codec import JsonError, chat_answer, chat_request
from quillgate_facade.answers import JSON_HEADERS, unexpected
from quillgate_facade.body import read_body
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreCall, CoreClient, call_metadata
from quillgate_facade.credential import credential_of
from quillgate_facade.drain import Drain
from quillgate_facade.errors import ApiError, from_json_error, internal
from quillgate_facade.exchange import EXCHANGE, Exchange
from quillgate_facade.sse import DONE, STREAM_HEADERS, EventStream, chat_frames

MESSAGES_HEADER = "x-quillgate-messages"
REMAINING_HEADER = "x-quillgate-messages-remaining"

Messages = AsyncIterator[StreamChatCompletionResponse]


class ChatHandler:
    """Answers chat completions."""

    def __init__(self, core: CoreClient, config: FacadeConfig, drain: Drain) -> None:
        self._completions = core.completions
        self._config = config
        self._drain = drain

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Answers one request; `stream` in the body decides how."""
        credential = credential_of(request.headers)
        body = await read_body(request, self._config)
        try:
            chat = chat_request.from_json(body)
        except JsonError as error:
            raise from_json_error(error) from None
        if chat.stream:
            return await self._stream(request, chat, credential)
        return await self._answer(request, chat, credential)

    async def _answer(self, request: web.Request, chat: ChatCompletionRequest, credential: str) -> web.Response:
        exchange = request[EXCHANGE]
        call = self._completions.CreateChatCompletion(
            CreateChatCompletionRequest(completion=chat),
            metadata=call_metadata(credential=credential, request_id=exchange.request_id),
            timeout=self._config.completion_timeout_s,
        )
        guarded = CoreCall(call, self._drain, credential=credential, request_id=exchange.request_id)
        try:
            answer = await guarded.receive(call)
        finally:
            guarded.close()
        headers = {**JSON_HEADERS, MESSAGES_HEADER: str(answer.receipt.counted_messages)}
        headers.update(_remaining_header(answer.receipt))
        return web.Response(body=chat_answer.to_json(answer.completion), headers=headers)

    async def _stream(self, request: web.Request, chat: ChatCompletionRequest, credential: str) -> web.StreamResponse:
        """Waits for the core's first message before it sends the head, so that a refusal gets its own status."""
        exchange = request[EXCHANGE]
        call = self._completions.StreamChatCompletion(
            StreamChatCompletionRequest(completion=chat),
            metadata=call_metadata(credential=credential, request_id=exchange.request_id),
            timeout=self._config.completion_timeout_s,
        )
        guarded = CoreCall(call, self._drain, credential=credential, request_id=exchange.request_id)
        try:
            relay = _Relay(guarded, aiter(call), exchange, with_usage=chat.stream_options.include_usage)
            first = await relay.next_message()
            if first is None:
                raise internal(exchange.request_id)
            return await relay.run(request, first, self._open(exchange, first))
        finally:
            guarded.close()

    def _open(self, exchange: Exchange, first: StreamChatCompletionResponse) -> EventStream:
        response = web.StreamResponse(headers={**STREAM_HEADERS, **_remaining_header(first.reservation)})
        exchange.stamp(response.headers)
        if self._drain.draining:
            response.force_close()
        return EventStream(response, comment_interval_s=self._config.comment_interval_s)


class _Relay:
    """Passes the messages of one call on to one client."""

    def __init__(self, call: CoreCall, messages: Messages, exchange: Exchange, *, with_usage: bool) -> None:
        self._call = call
        self._messages = messages
        self._exchange = exchange
        self._with_usage = with_usage

    async def next_message(self) -> StreamChatCompletionResponse | None:
        """Returns the core's next message, None after the last; raises ApiError when the call fails."""
        return await self._call.receive(anext(self._messages, None))

    async def run(
        self, request: web.Request, first: StreamChatCompletionResponse, stream: EventStream
    ) -> web.StreamResponse:
        """Sends the head, the first message and the rest; ends with `[DONE]` or an error frame, never both."""
        try:
            await stream.open(request)
            await self._pass_on(first, stream)
            await stream.end(DONE)
        except ConnectionError:
            pass  # the client has gone; closing the call is all that is left to do
        except ApiError as error:
            await self._fail(stream, error)
        except Exception as error:  # the head is out, so nobody above could tell the client
            await self._fail(stream, unexpected(error, self._exchange))
        finally:
            stream.stop()
        return stream.response

    async def _pass_on(self, first: StreamChatCompletionResponse, stream: EventStream) -> None:
        """Raises ApiError when the call fails, or ends without the receipt that only complete answers have."""
        message: StreamChatCompletionResponse | None = first
        settled = False
        while message is not None:
            settled = message.HasField("receipt")
            if message.chunks:
                await stream.write(chat_frames(message.chunks, with_usage=self._with_usage))
            message = await self.next_message()
        if not settled:
            raise internal(self._exchange.request_id)

    async def _fail(self, stream: EventStream, error: ApiError) -> None:
        try:
            await stream.fail(error)
        except ConnectionError:
            pass


def _remaining_header(account: Receipt | Reservation) -> dict[str, str]:
    if not account.HasField("remaining_messages"):
        return {}
    return {REMAINING_HEADER: str(account.remaining_messages)}
