"""The two ways to make a response: by chat completions, or by a provider that speaks the Responses API.

Each prepares what is sent and says what Metered is to follow. Neither decides what to charge.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk, ChatCompletionRequest
from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate_core.errors import InvalidRequest
from quillgate_core.metered import Batch, Metered
from quillgate_core.reservation import Reservation
from quillgate_core.response_answer import as_chunk
from quillgate_core.response_chat import ChatTranslation, bound_of
from quillgate_core.response_messages import encrypted_contents
from quillgate_core.response_tally import ChatResponseTally, NativeResponseTally
from quillgate_core.upstream import ChatProvider, PreparedChat, PreparedResponse, ResponseProvider


class Dispatch(Protocol):
    """One way for one request: `prepare`, perhaps again with another limit, then `serve` once."""

    @property
    def provider(self) -> str:
        """The provider's name."""

    @property
    def bound(self) -> ChatCompletionRequest:
        """A chat request that costs at least what this one does."""

    @property
    def response(self) -> Response:
        """The response as it is now."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """What of the request is left out."""

    def prepare(self, *, stream: bool, max_output_tokens: int | None) -> None:
        """Translates the request; raises InvalidRequest when the provider can never serve it."""

    def serve(
        self, metered: Metered, reservation: Reservation, *, before_last: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[Batch[ResponseEvent], None]:
        """Sends the request and returns its events; a request for a whole answer has them too."""


class ChatDispatch:
    """By chat completions."""

    def __init__(
        self, provider: ChatProvider, model: str, translation: ChatTranslation, tally: ChatResponseTally
    ) -> None:
        if not translation.request.messages:
            raise InvalidRequest(
                "Invalid value for 'input': it has nothing that this model can read.",
                param="input",
                code="invalid_value",
            )
        self._provider = provider
        self._model = model
        self._tally = tally
        self._prepared: PreparedChat | None = None
        self.provider = provider.name
        self.bound = translation.request
        self.ignored = translation.ignored

    @property
    def response(self) -> Response:
        """The response as it is now."""
        return self._tally.response

    def prepare(self, *, stream: bool, max_output_tokens: int | None) -> None:
        """Translates the request."""
        self._prepared = self._provider.prepare_chat(
            self.bound, model=self._model, stream=stream, max_output_tokens=max_output_tokens
        )

    def serve(
        self, metered: Metered, reservation: Reservation, *, before_last: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[Batch[ResponseEvent], None]:
        """Sends the request and returns its events."""
        assert self._prepared is not None
        return metered.stream(reservation, self._received(self._prepared), self._tally, before_last=before_last)

    async def _received(self, prepared: PreparedChat) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        if not prepared.stream:
            yield [as_chunk(await self._provider.create_chat(prepared))]
            return
        async with aclosing(self._provider.stream_chat(prepared)) as batches:  # type: ignore[type-var]
            async for chunks in batches:
                yield chunks


class NativeDispatch:
    """By a provider that speaks the Responses API; `items` is the whole conversation."""

    def __init__(
        self,
        provider: ResponseProvider,
        model: str,
        request: ResponseRequest,
        items: Sequence[ResponseItem],
        translation: ChatTranslation,
        tally: NativeResponseTally,
    ) -> None:
        self._provider = provider
        self._model = model
        self._request = request
        self._items = items
        self._tally = tally
        self._prepared: PreparedResponse | None = None
        self.provider = provider.name
        self.bound = bound_of(translation, encrypted_contents(items))
        self.ignored: tuple[str, ...] = ()

    @property
    def response(self) -> Response:
        """The response as it is now."""
        return self._tally.response

    def prepare(self, *, stream: bool, max_output_tokens: int | None) -> None:
        """Translates the request."""
        self._prepared = self._provider.prepare_response(
            self._request, self._items, model=self._model, stream=stream, max_output_tokens=max_output_tokens
        )

    def serve(
        self, metered: Metered, reservation: Reservation, *, before_last: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[Batch[ResponseEvent], None]:
        """Sends the request and returns its events."""
        assert self._prepared is not None
        return metered.stream(reservation, self._received(self._prepared), self._tally, before_last=before_last)

    async def _received(self, prepared: PreparedResponse) -> AsyncGenerator[list[ResponseEvent], None]:
        if not prepared.stream:
            answer = await self._provider.create_response(prepared)
            yield [ResponseEvent(type=f"response.{answer.status or 'completed'}", response=answer)]
            return
        async with aclosing(self._provider.stream_response(prepared)) as batches:  # type: ignore[type-var]
            async for events in batches:
                yield events
