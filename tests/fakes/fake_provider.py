"""A chat provider without a network: it answers what a test scripts, and notes what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_codec import provider_chat_answer, provider_chat_chunk
from quillgate_core.upstream import PreparedChat, Traits

TRAITS = Traits(cached_tokens="inside", cancel_stops_bill=True, supports=frozenset())

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def chunk(
    content: str | None = None, *, finish: str | None = None, index: int = 0, **members: Any
) -> ChatCompletionChunk:
    """A chunk as OpenAI streams it; `members` add to it or replace its own."""
    delta = {} if content is None else {"content": content}
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    value = {"id": "up-1", "object": "chat.completion.chunk", "created": 7, "model": "up", "choices": [choice]}
    return provider_chat_chunk.from_value({**value, **members})


def usage_chunk(**usage: Any) -> ChatCompletionChunk:
    """The chunk without choices that carries the usage."""
    return chunk(choices=[], usage=usage or USAGE)


def whole_answer(content: str = "Hello", **members: Any) -> ChatCompletion:
    """An answer in one piece; `members` add to it or replace its own."""
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    value = {
        "id": "up-1",
        "object": "chat.completion",
        "created": 7,
        "model": "up",
        "choices": [choice],
        "usage": USAGE,
    }
    return provider_chat_answer.from_value({**value, **members})


#: What a scripted answer does, step by step: give chunks, wait for ever, or fail.
Step = list[ChatCompletionChunk] | ChatCompletion | asyncio.Event | BaseException


@dataclass(frozen=True)
class Prepared:
    """One call of prepare_chat."""

    model: str
    stream: bool
    max_output_tokens: int | None


@dataclass
class FakeProvider:
    """Plays `steps` for each request; an event is waited for, an exception raised.

    `prepare_failures` are raised by the calls of prepare_chat in turn, None being none.
    """

    steps: Sequence[Step] = ()
    prepare_failures: list[Exception | None] = field(default_factory=list)
    name: str = "fake"
    traits: Traits = TRAITS
    prepared: list[Prepared] = field(default_factory=list)
    dispatched: int = 0
    closed: int = 0
    """How many streams have ended, whatever way."""
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def prepare_chat(
        self, request: ChatCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedChat:
        self.prepared.append(Prepared(model, stream, max_output_tokens))
        failure = self.prepare_failures.pop(0) if self.prepare_failures else None
        if failure is not None:
            raise failure
        return PreparedChat(body=b"{}", stream=stream)

    async def create_chat(self, prepared: PreparedChat) -> ChatCompletion:
        self.dispatched += 1
        for step in self.steps:
            if isinstance(step, ChatCompletion):
                return step
            await self._perform(step)
        raise AssertionError("the script has no answer")

    async def stream_chat(self, prepared: PreparedChat) -> AsyncIterator[list[ChatCompletionChunk]]:
        self.dispatched += 1
        try:
            for step in self.steps:
                if isinstance(step, list):
                    yield step
                else:
                    await self._perform(step)
        finally:
            self.closed += 1

    async def _perform(self, step: Step) -> None:
        if isinstance(step, BaseException):
            raise step
        assert isinstance(step, asyncio.Event)
        self.waiting.set()
        await step.wait()
