"""Puts one vendor's account before a scripted upstream, and follows its answers as the core does: adapter and tally."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from conformance.vendor import Content, Sent, Vendor
from fakes.scripted_upstream import ScriptedAnswer, ScriptedUpstream

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_codec import chat_chunk, chat_request, load_json, provider_chat_chunk
from quillgate_core.chat_json_tally import JsonChatTally
from quillgate_core.chat_tally import ChatTally, clean_answer
from quillgate_core.counting import Usage
from quillgate_core.errors import QuillgateError
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.upstream import ChatProvider

MODEL = "vendor-model"
TEST_LIMIT_S = 30.0
"""Nothing in the suite may take longer: what does, hangs."""


def asking(**members: Any) -> ChatCompletionRequest:
    """A request of one user turn; `members` are OpenAI's."""
    value = {"model": "public/model", "messages": [{"role": "user", "content": "hi"}], **members}
    return chat_request.from_value(value)


@dataclass
class Said:
    """What the pieces of one answer add up to."""

    text: str = ""
    thought: str = ""
    roles: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    """Id, name and arguments by index."""


@dataclass
class Outcome:
    """What came of one request; `failure` is what ended it, if anything did."""

    raw: list[ChatCompletionChunk] = field(default_factory=list)
    """The adapter's chunks."""
    clean: list[ChatCompletionChunk] = field(default_factory=list)
    """What a client gets."""
    answer: ChatCompletion | None = None
    usage: Usage | None = None
    usage_source: str = ""
    failure: QuillgateError | None = None

    @property
    def said(self) -> Said:
        """What was said, whole or streamed."""
        return said_whole(self.answer) if self.answer is not None else said_streamed(self.clean)


class Trial:
    """One vendor and an upstream that answers in its stead."""

    def __init__(self, vendor: Vendor, upstream: ScriptedUpstream, pool: HttpPool) -> None:
        self.vendor = vendor
        self.upstream = upstream
        self._pool = pool

    def provider(self, limits: ProviderLimits | None = None, *, base_url: str = "") -> ChatProvider:
        """The vendor's chat provider."""
        account = self.vendor.account(base_url or self.upstream.base_url, self._pool, limits or ProviderLimits())
        assert account.chat is not None
        return account.chat

    async def run(
        self,
        answer: ScriptedAnswer | None,
        *,
        stream: bool,
        request: ChatCompletionRequest | None = None,
        limits: ProviderLimits | None = None,
        base_url: str = "",
        max_output_tokens: int | None = None,
    ) -> Outcome:
        """Asks once, whole or streamed, with `answer` as the upstream's; other exceptions than ours pass."""
        if answer is not None:
            self.upstream.script(answer)
        asked = request or asking(stream_options={"include_usage": True})
        provider = self.provider(limits, base_url=base_url)
        outcome = Outcome()
        try:
            async with asyncio.timeout(TEST_LIMIT_S):
                await (_stream if stream else _whole)(provider, asked, outcome, max_output_tokens)
        except QuillgateError as error:
            outcome.failure = error
        return outcome

    async def say(self, content: Content, *, stream: bool, request: ChatCompletionRequest | None = None) -> Outcome:
        """Has the vendor answer with the content."""
        answer = self.vendor.stream(self.vendor.frames(content)) if stream else self.vendor.answer(content)
        return await self.run(answer, stream=stream, request=request)

    async def sent(
        self, request: ChatCompletionRequest, *, stream: bool = False, max_output_tokens: int | None = None
    ) -> Sent:
        """Sends a request, and returns what the vendor was asked."""
        content = Content(words=["fine"])
        answer = self.vendor.stream(self.vendor.frames(content)) if stream else self.vendor.answer(content)
        outcome = await self.run(answer, stream=stream, request=request, max_output_tokens=max_output_tokens)
        assert outcome.failure is None, outcome.failure
        return self.vendor.sent(self.upstream.requests[-1])

    def supports(self, capability: str) -> bool:
        """Tells whether the vendor can be asked for it."""
        return capability in self.provider().traits.supports


async def _whole(provider: ChatProvider, request: ChatCompletionRequest, outcome: Outcome, limit: int | None) -> None:
    prepared = provider.prepare_chat(request, model=MODEL, stream=False, max_output_tokens=limit)
    answer = await provider.create_chat(prepared)
    outcome.usage, outcome.usage_source = clean_answer(answer, request, fallback_id="chatcmpl-ours", created=1)
    outcome.answer = answer


async def _stream(provider: ChatProvider, request: ChatCompletionRequest, outcome: Outcome, limit: int | None) -> None:
    prepared = provider.prepare_chat(request, model=MODEL, stream=True, max_output_tokens=limit)
    tally = ChatTally(request, fallback_id="chatcmpl-ours", created=1, provider=provider.name)
    as_json = JsonChatTally(request, fallback_id="chatcmpl-ours", created=1, provider=provider.name)
    written: list[bytes] = []
    async with aclosing(provider.stream_chat(prepared)) as batches:  # type: ignore[type-var]
        async for chunks in batches:
            assert chunks, "an empty list of chunks"
            outcome.raw += [copy_of(chunk) for chunk in chunks]
            written += as_json.take([provider_chat_chunk.to_value(chunk) for chunk in chunks])
            outcome.clean += tally.take(chunks)
    tally.finish()
    as_json.finish()
    assert [_said(load_json(text)) for text in written] == [
        _said(chat_chunk.to_value(chunk)) for chunk in outcome.clean
    ]
    outcome.usage, outcome.usage_source = tally.usage()
    outcome.clean += tally.last()


_TEXTS = frozenset({"finish_reason", "role"})


def _said(value: Any) -> Any:
    """The value without what says nothing: nulls, and an end or a role that is no text, which only messages pass on."""
    if type(value) is dict:
        kept = {name: item for name, item in value.items() if name not in _TEXTS or type(item) is str}
        return {name: _said(item) for name, item in kept.items() if item is not None}
    return [_said(item) for item in value] if type(value) is list else value


def copy_of(chunk: ChatCompletionChunk) -> ChatCompletionChunk:
    """A copy, because the tally changes chunks."""
    copy = ChatCompletionChunk()
    copy.CopyFrom(chunk)
    return copy


def said_whole(answer: ChatCompletion) -> Said:
    """Reads the first choice of a whole answer."""
    choice = answer.choices[0]
    message = choice.message
    calls = [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls]
    text = message.content.text
    return Said(text, message.reasoning_content, [message.role], [choice.finish_reason], dict(enumerate(calls)))


def said_streamed(chunks: Sequence[ChatCompletionChunk]) -> Said:
    """Joins the pieces of choice 0 as clients do: calls by their index."""
    said = Said()
    for choice in (choice for chunk in chunks for choice in chunk.choices if choice.index == 0):
        delta = choice.delta
        said.text += delta.content
        said.thought += delta.reasoning_content
        said.roles += [delta.role] if delta.role else []
        said.ends += [choice.finish_reason] if choice.finish_reason else []
        for piece in delta.tool_calls:
            assert piece.HasField("index"), "a piece of a call without index"
            call = said.calls.setdefault(piece.index, ["", "", ""])
            call[0] += piece.id
            call[1] += piece.function.name
            call[2] += piece.function.arguments
    return said


def without_time(chunks: Sequence[ChatCompletionChunk]) -> list[ChatCompletionChunk]:
    """Copies without what differs from one answer to the next."""
    copies = [copy_of(chunk) for chunk in chunks]
    for chunk in copies:
        chunk.ClearField("id")
        chunk.ClearField("created")
    return copies


def held_by(words: Sequence[str], frames: Sequence[bytes]) -> str:
    """The words that the frames hold, each of which is found in a frame as it is written."""
    return "".join(word for word in words if any(word.encode() in frame for frame in frames))
