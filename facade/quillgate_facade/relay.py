"""Asks the core for one answer on behalf of one client and passes it on, in one piece or as server-sent events.

A client that hangs up cancels the handler, which cancels the call, which reaches the provider. What an endpoint's
answers look like is the endpoint's own matter: it passes a Wire.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc.aio
from aiohttp import web

from quillgate.v1.metering_service_pb2 import Receipt, Reservation
from quillgate_facade.allowance import allowance_headers
from quillgate_facade.answers import unexpected
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreCall, call_metadata
from quillgate_facade.drain import Drain
from quillgate_facade.early_head import EarlyHead
from quillgate_facade.errors import ApiError, internal
from quillgate_facade.exchange import EXCHANGE, Exchange
from quillgate_facade.idempotency import idempotency_key_of
from quillgate_facade.session import session_of
from quillgate_facade.sse import DONE, STREAM_HEADERS, EventStream, error_frame

MESSAGES_HEADER = "x-quillgate-messages"
UPSTREAM_HEADER = "x-quillgate-upstream"


class StreamMessage(Protocol):
    """What the messages of every completion stream have: the account on the first and on the last."""

    @property
    def reservation(self) -> Reservation:
        """What was set aside; on the first message only."""

    @property
    def upstream(self) -> str:
        """Who answers; on the first message only."""

    def HasField(self, name: Any, /) -> bool:  # noqa: N802
        """Tells whether the message has a `receipt`, which only complete answers end with."""


AnswerT = TypeVar("AnswerT")
MessageT = TypeVar("MessageT", bound=StreamMessage)


def _no_headers(first: object) -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Wire(Generic[MessageT]):
    """How the messages of one stream look to the client; by default as OpenAI streams completions."""

    frames: Callable[[MessageT], bytes | bytearray]
    """Returns a message's frames, joined; empty for a message that the client sees nothing of."""
    headers: Callable[[MessageT], Mapping[str, str]] = _no_headers
    """Returns what the head says, given the first message, besides what every stream's head says."""
    end: bytes = DONE
    """What ends a complete stream; may be empty."""
    failure: Callable[[ApiError], bytes] = error_frame
    """Returns the last frames of a stream that failed after its head; empty when the client knows already."""


class Relay:
    """Makes calls to the core with the limits of the facade."""

    def __init__(self, config: FacadeConfig, drain: Drain) -> None:
        self._config = config
        self._drain = drain

    async def answer(
        self,
        request: web.Request,
        ask: "Callable[..., grpc.aio.UnaryUnaryCall[Any, AnswerT] | grpc.aio.StreamUnaryCall[Any, AnswerT]]",
        question: Any,
        *,
        credential: str,
        timeout_s: float | None = None,
    ) -> AnswerT:
        """Returns the core's one answer to `ask(question)`; raises ApiError. By default it has a completion's time."""
        request_id = request[EXCHANGE].request_id
        call = self._begin(request, ask, question, credential=credential, request_id=request_id, timeout_s=timeout_s)
        guarded = CoreCall(call, self._drain, credential=credential, request_id=request_id)
        try:
            return await guarded.receive(call)
        finally:
            guarded.close()

    async def stream(
        self,
        request: web.Request,
        ask: "Callable[..., grpc.aio.UnaryStreamCall[Any, MessageT] | grpc.aio.StreamStreamCall[Any, MessageT]]",
        question: Any,
        wire: Wire[MessageT],
        *,
        credential: str,
    ) -> web.StreamResponse:
        """Passes on what `ask(question)` streams.

        The head waits for the core's first message, so that a refusal gets its own status; raises ApiError until then.
        It does not wait longer than a stream may be silent.
        """
        exchange = request[EXCHANGE]
        call = self._begin(request, ask, question, credential=credential, request_id=exchange.request_id)
        guarded = CoreCall(call, self._drain, credential=credential, request_id=exchange.request_id)
        early = EarlyHead(request, lambda: self._open(exchange, None, wire), after_s=self._config.comment_interval_s)
        try:
            passage = _Passage(guarded, call.read, exchange, wire)
            try:
                first = await passage.first_message()
            except ApiError as error:
                opened = await early.settle()
                if opened is None:
                    raise
                await passage.fail(opened, error)
                return opened.response
            return await passage.run(request, first, await early.settle() or self._open(exchange, first, wire))
        finally:
            early.stop()
            guarded.close()

    def _begin(
        self,
        request: web.Request,
        ask: Callable[..., Any],
        question: Any,
        *,
        credential: str,
        request_id: str,
        timeout_s: float | None = None,
    ) -> Any:
        return ask(
            question,
            metadata=call_metadata(
                credential=credential,
                request_id=request_id,
                idempotency_key=idempotency_key_of(request.headers),
                session=session_of(request.headers),
            ),
            timeout=timeout_s or self._config.completion_timeout_s,
        )

    def _open(self, exchange: Exchange, first: MessageT | None, wire: Wire[MessageT]) -> EventStream:
        headers = {**STREAM_HEADERS}
        if first is not None:
            headers.update(allowance_headers(first.reservation))
            headers.update(upstream_headers(first.upstream))
            headers.update(wire.headers(first))
        response = web.StreamResponse(headers=headers)
        exchange.stamp(response.headers)
        if self._drain.draining:
            response.force_close()
        return EventStream(response, comment_interval_s=self._config.comment_interval_s)


class _Passage(Generic[MessageT]):
    """Passes the messages of one call on to one client."""

    def __init__(
        self, call: CoreCall, read: Callable[[], Awaitable[Any]], exchange: Exchange, wire: Wire[MessageT]
    ) -> None:
        self._call = call
        self._read = read
        self._exchange = exchange
        self._wire = wire

    async def first_message(self) -> MessageT:
        """Returns the core's first message; raises ApiError when there is none, or the call fails."""
        first: Any = await self._call.receive(self._read())
        if first is grpc.aio.EOF:
            raise internal(self._exchange.request_id)
        message: MessageT = first
        return message

    async def run(self, request: web.Request, first: MessageT, stream: EventStream) -> web.StreamResponse:
        """Sends the head, the first message and the rest; ends as a complete stream or as a failed one, never both."""
        try:
            await stream.open(request)
            await self._pass_on(first, stream)
            await stream.end(self._wire.end)
        except ConnectionError:
            pass  # the client has gone; closing the call is all that is left to do
        except ApiError as error:
            await self.fail(stream, error)
        except Exception as error:  # the head is out, so nobody above could tell the client
            await self.fail(stream, unexpected(error, self._exchange))
        finally:
            stream.stop()
        return stream.response

    async def _pass_on(self, first: MessageT, stream: EventStream) -> None:
        """Raises ApiError when the call fails, or ends without the receipt that only complete answers have."""
        message: Any = first
        settled = False
        receive, read, make_frames = self._call.receive, self._read, self._wire.frames
        while message is not grpc.aio.EOF:
            settled = message.HasField("receipt")
            frames = make_frames(message)
            if frames:
                await stream.write(frames)
            message = await receive(read())
        if not settled:
            raise internal(self._exchange.request_id)

    async def fail(self, stream: EventStream, error: ApiError) -> None:
        """Ends a stream that was opened with the error."""
        try:
            await stream.fail(self._wire.failure(error))
        except ConnectionError:
            pass


def receipt_headers(receipt: Receipt, upstream: str) -> dict[str, str]:
    """Returns what a whole answer's head says of its charge, and of who answered."""
    charge = {MESSAGES_HEADER: str(receipt.counted_messages), **allowance_headers(receipt)}
    return charge | upstream_headers(upstream)


def upstream_headers(upstream: str) -> dict[str, str]:
    """Returns the header that says who answered; none where the core did not say."""
    return {UPSTREAM_HEADER: upstream} if upstream else {}
