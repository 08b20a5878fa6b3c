"""The two ways to make a response: by chat completions, or by a provider that speaks the Responses API.

Each prepares what is sent and brings the tally that follows it. Neither decides what to charge.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk
from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate_core.errors import InvalidRequest
from quillgate_core.response_answer import as_chunk
from quillgate_core.response_chat import ChatTranslation
from quillgate_core.response_tally import ChatResponseTally, NativeResponseTally
from quillgate_core.tally import Tally
from quillgate_core.upstream import ChatProvider, ResponseProvider


class Dispatch(Protocol):
    """One way for one request, translated for one candidate; `received` sends it, once."""

    @property
    def tally(self) -> Tally[Any, ResponseEvent]:
        """Follows what comes back."""

    @property
    def response(self) -> Response:
        """The response as it is now."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """What of the request is left out."""

    def received(self) -> AsyncGenerator[Sequence[Any], None]:
        """Sends the request and yields what comes back; one for a whole answer yields it at once."""


class ChatDispatch:
    """By chat completions; raises InvalidRequest when the provider can never serve the request."""

    def __init__(
        self,
        provider: ChatProvider,
        model: str,
        translation: ChatTranslation,
        tally: ChatResponseTally,
        *,
        stream: bool,
        max_output_tokens: int | None,
    ) -> None:
        if not translation.request.messages:
            raise InvalidRequest(
                "Invalid value for 'input': it has nothing that this model can read.",
                param="input",
                code="invalid_value",
            )
        self._provider = provider
        self._prepared = provider.prepare_chat(
            translation.request, model=model, stream=stream, max_output_tokens=max_output_tokens
        )
        self.tally = tally
        self.ignored = translation.ignored

    @property
    def response(self) -> Response:
        """The response as it is now."""
        return self.tally.response

    async def received(self) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Sends the request and yields chunks."""
        if not self._prepared.stream:
            yield [as_chunk(await self._provider.create_chat(self._prepared))]
            return
        async with aclosing(self._provider.stream_chat(self._prepared)) as batches:  # type: ignore[type-var]
            async for chunks in batches:
                yield chunks


class NativeDispatch:
    """By a provider that speaks the Responses API; `items` is the whole conversation."""

    ignored: tuple[str, ...] = ()

    def __init__(
        self,
        provider: ResponseProvider,
        model: str,
        request: ResponseRequest,
        items: Sequence[ResponseItem],
        tally: NativeResponseTally,
        *,
        stream: bool,
        max_output_tokens: int | None,
    ) -> None:
        self._provider = provider
        self._prepared = provider.prepare_response(
            request, items, model=model, stream=stream, max_output_tokens=max_output_tokens
        )
        self.tally = tally

    @property
    def response(self) -> Response:
        """The response as it is now."""
        return self.tally.response

    async def received(self) -> AsyncGenerator[list[ResponseEvent], None]:
        """Sends the request and yields events."""
        if not self._prepared.stream:
            answer = await self._provider.create_response(self._prepared)
            yield [ResponseEvent(type=f"response.{answer.status or 'completed'}", response=answer)]
            return
        async with aclosing(self._provider.stream_response(self._prepared)) as batches:  # type: ignore[type-var]
            async for events in batches:
                yield events
