"""How a text completion reaches its provider: as it is, or prompt by prompt through chat. Reserves and meters nothing.

route = NativeText(...) or ChatText(...)        checks what the way can carry; pure
dispatch = route.prepare(stream=..., ...)       translates; pure
dispatch.answers(tally) / dispatch.pieces(tally)   sends; each call is told to the tally before it is sent
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from quillgate.v1.text_completion_pb2 import TextCompletionRequest
from quillgate_core.catalogue import Model
from quillgate_core.holds import chat_hold
from quillgate_core.text_chat import answer_of, chat_requests, pieces_of, prompts_of
from quillgate_core.text_rules import prompt_count
from quillgate_core.text_tally import TextBatch, TextCall, TextTally
from quillgate_core.upstream import ChatProvider, PreparedChat, PreparedText, TextProvider

MAX_CHATS_AT_ONCE = 4
"""How many prompts of one request are asked at the same time, where answers come in one piece."""


class TextDispatch(Protocol):
    """A text completion that is ready to be sent."""

    def answers(self, tally: TextTally) -> AsyncGenerator[TextBatch, None]:
        """Yields the whole answer of each call as it comes; raises as providers do."""

    def pieces(self, tally: TextTally) -> AsyncGenerator[TextBatch, None]:
        """Yields the pieces of one call after the other; raises as providers do."""


class TextRoute(Protocol):
    """A way to serve one request."""

    @property
    def provider(self) -> str:
        """The provider's name."""

    @property
    def prompts(self) -> int:
        """How many texts are continued."""

    @property
    def calls(self) -> Sequence[TextCall]:
        """What each call sends and gets back."""

    def prompt_tokens(self, model: Model) -> int:
        """Returns the most tokens that all prompts together may be to the model."""

    def prepare(self, *, stream: bool, max_output_tokens: int | None) -> TextDispatch:
        """Translates; the limit replaces the request's own when it is not None. Raises InvalidRequest."""


class NativeText:
    """One call to a provider that speaks text completions."""

    def __init__(self, provider: TextProvider, request: TextCompletionRequest, *, model: str) -> None:
        self._provider = provider
        self._request = request
        self._model = model
        self.provider = provider.name
        self.prompts = prompt_count(request)
        self.calls = (TextCall(request.ByteSize()),)

    def prompt_tokens(self, model: Model) -> int:
        """Returns the bytes of the request: a token of text is at least one, and so is a token id."""
        return self._request.ByteSize()

    def prepare(self, *, stream: bool, max_output_tokens: int | None) -> TextDispatch:
        """Translates the request for the provider."""
        prepared = self._provider.prepare_text(
            self._request, model=self._model, stream=stream, max_output_tokens=max_output_tokens
        )
        return _NativeDispatch(self._provider, prepared)


class _NativeDispatch:
    def __init__(self, provider: TextProvider, prepared: PreparedText) -> None:
        self._provider = provider
        self._prepared = prepared

    async def answers(self, tally: TextTally) -> AsyncGenerator[TextBatch, None]:
        tally.begin(0)
        answer = await self._provider.create_text(self._prepared)
        yield TextBatch(0, [answer], answer.id)

    async def pieces(self, tally: TextTally) -> AsyncGenerator[TextBatch, None]:
        tally.begin(0)
        received = self._provider.stream_text(self._prepared)
        async with aclosing(received) as batches:  # type: ignore[type-var]
            async for pieces in batches:
                yield TextBatch(0, pieces, pieces[0].id if pieces else "")


class ChatText:
    """A chat for each prompt, at a provider that speaks chat."""

    def __init__(self, provider: ChatProvider, request: TextCompletionRequest, *, model: str) -> None:
        self._provider = provider
        self._model = model
        self._choices = max(1, request.n)
        self._limit = request.max_tokens if request.HasField("max_tokens") else None
        self._chats = chat_requests(request)
        self.provider = provider.name
        self.prompts = len(self._chats)
        self.calls = tuple(
            TextCall(chat.ByteSize(), prompt if request.echo else "")
            for chat, prompt in zip(self._chats, prompts_of(request), strict=True)
        )

    def prompt_tokens(self, model: Model) -> int:
        """Returns the sum over the chats, any of which may have members that let the provider read more."""
        return sum(chat_hold(chat, model).prompt_tokens for chat in self._chats)

    def prepare(self, *, stream: bool, max_output_tokens: int | None) -> TextDispatch:
        """Translates each chat for the provider, which gives the output limit the name that it knows."""
        limit = self._limit if max_output_tokens is None else max_output_tokens
        prepared = [
            self._provider.prepare_chat(chat, model=self._model, stream=stream, max_output_tokens=limit)
            for chat in self._chats
        ]
        return _ChatDispatch(self._provider, prepared, choices=self._choices)


class _ChatDispatch:
    def __init__(self, provider: ChatProvider, prepared: Sequence[PreparedChat], *, choices: int) -> None:
        self._provider = provider
        self._prepared = prepared
        self._choices = choices

    async def answers(self, tally: TextTally) -> AsyncGenerator[TextBatch, None]:
        gate = asyncio.Semaphore(MAX_CHATS_AT_ONCE)

        async def ask(call: int) -> TextBatch:
            async with gate:
                tally.begin(call)
                answer = await self._provider.create_chat(self._prepared[call])
            return TextBatch(call, [answer_of(answer, first_index=call * self._choices)], answer.id)

        if len(self._prepared) == 1:
            yield await ask(0)
            return
        tasks = [asyncio.create_task(ask(call)) for call in range(len(self._prepared))]
        try:
            for answered in asyncio.as_completed(tasks):
                yield await answered
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def pieces(self, tally: TextTally) -> AsyncGenerator[TextBatch, None]:
        for call, prepared in enumerate(self._prepared):
            tally.begin(call)
            received = self._provider.stream_chat(prepared)
            async with aclosing(received) as batches:  # type: ignore[type-var]
                async for chunks in batches:
                    upstream_id = chunks[0].id if chunks else ""
                    yield TextBatch(call, pieces_of(chunks, first_index=call * self._choices), upstream_id)
            tally.check(call)
