"""Follows one streamed chat answer: makes its chunks clean OpenAI chunks and knows what it used. Pure, no I/O.

Providers differ: usage comes in a chunk of its own, in the finish chunk or in every chunk; ids, object and created are
missing or change; the end of a choice is told twice; a stream just stops. What leaves here has one id, one created, the
model that was asked for, one finish_reason for each choice, usage only in the last chunk and only when asked for.
"""

from collections.abc import Iterable

import msgspec

from quillgate.v1.chat_completion_pb2 import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChunkChoice,
    CompletionUsage,
)
from quillgate.v1.text_completion_pb2 import TextCompletion
from quillgate_core.chat_progress import ChatProgress, estimate
from quillgate_core.counting import Usage, sane
from quillgate_core.reservation import UsageSource


def usage_of(usage: CompletionUsage) -> Usage:
    """Returns the metered part; in OpenAI's convention the prompt tokens include the cached ones."""
    details = usage.prompt_tokens_details
    return Usage(
        usage.prompt_tokens,
        details.cached_tokens,
        usage.completion_tokens,
        # A provider that says nonsense of them has said nothing: only the cost depends on them.
        cache_write_tokens=min(max(details.cache_write_tokens, 0), max(0, usage.prompt_tokens - details.cached_tokens)),
    )


class ChatTally(ChatProgress[CompletionUsage]):
    """The state of one stream; `take` each batch of chunks in order, then `finish`."""

    _usage_of = usage_of

    def take(self, chunks: Iterable[ChatCompletionChunk]) -> list[ChatCompletionChunk]:
        """Returns the chunks to pass on; may be none."""
        return [chunk for chunk in chunks if self._take(chunk)]

    def _take(self, chunk: ChatCompletionChunk) -> bool:
        if chunk.HasField("usage"):
            if is_usage(chunk.usage):
                self._reported = _copy(chunk.usage)
                self._reported_bytes = self._output_bytes + sum(choice.delta.ByteSize() for choice in chunk.choices)
            chunk.ClearField("usage")
        for position in reversed(range(len(chunk.choices))):
            if self._is_repeated_end(chunk.choices[position]):
                del chunk.choices[position]
        if not chunk.choices:
            return False
        clean_extra(chunk)
        if not self._id:
            self._id = chunk.id or self._fallback_id
            self.upstream_id = chunk.id
            self._created = chunk.created or self._created
        chunk.id = self._id
        chunk.object = "chat.completion.chunk"
        chunk.created = self._created
        chunk.model = self._model
        self.started = True
        for choice in chunk.choices:
            self._take_choice(choice)
        return True

    def _is_repeated_end(self, choice: ChunkChoice) -> bool:
        """Tells a choice that has ended and says nothing more: some providers send one more to carry the usage."""
        if choice.index not in self._finished:
            return False
        says = {field.name for field, value in choice.delta.ListFields() if value != ""}
        return says <= {"role", "extra_json"} and not choice.HasField("logprobs")

    def _take_choice(self, choice: ChunkChoice) -> None:
        delta, index = choice.delta, choice.index
        self._output_bytes += delta.ByteSize()
        choice.index = index
        if index not in self._begun:
            self._begun.add(index)
            delta.role = delta.role or "assistant"
        else:
            delta.ClearField("role")  # clients that join the pieces of a delta would join the roles too
        delta.SetInParent()
        if choice.finish_reason and index not in self._finished:
            self._finished.add(index)
        else:
            choice.ClearField("finish_reason")  # some providers send "" until the end, or the reason in every chunk

    def last(self) -> list[ChatCompletionChunk]:
        """Returns the chunk that carries the usage, when the client asked for it."""
        if not self._include_usage:
            return []
        chunk = ChatCompletionChunk(
            id=self._id, object="chat.completion.chunk", created=self._created, model=self._model
        )
        chunk.usage.CopyFrom(self._reported if self._reported is not None else reported(self.usage()[0]))
        return [chunk]


def clean_answer(
    answer: ChatCompletion, request: ChatCompletionRequest, *, fallback_id: str, created: int, model: str = ""
) -> tuple[Usage, UsageSource]:
    """Makes a whole answer a clean OpenAI answer, in place, and returns what it used."""
    answer.id = answer.id or fallback_id
    answer.object = "chat.completion"
    answer.created = answer.created or created
    answer.model = model or request.model
    for index, choice in enumerate(answer.choices):
        choice.index = choice.index if choice.HasField("index") else index
        choice.message.role = choice.message.role or "assistant"
    if answer.HasField("usage") and is_usage(answer.usage):
        return usage_of(answer.usage), "provider"
    used = estimate(request.ByteSize(), sum(choice.message.ByteSize() for choice in answer.choices))
    answer.usage.CopyFrom(reported(used))
    return used, "estimate"


def is_usage(usage: CompletionUsage) -> bool:
    """Tells a usage that can be charged from placeholders (all zero) and nonsense (negative, cached > prompt)."""
    used = usage_of(usage)
    return used != Usage() and not sane(used)[1]


def reported(usage: Usage) -> CompletionUsage:
    """Returns a usage in OpenAI's form."""
    return CompletionUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def clean_extra(chunk: ChatCompletionChunk | TextCompletion) -> None:
    """Drops `error`, whose mere presence the official Go client takes for a failure, and a null `usage`.

    Providers send the latter because usage is always asked for; a client that did not ask must not see it.
    """
    extra_json = chunk.extra_json
    if b'"error"' not in extra_json and b'"usage"' not in extra_json:
        return
    members = msgspec.json.decode(extra_json)
    members.pop("error", None)
    members.pop("usage", None)
    chunk.ClearField("extra_json")  # empty text would be no JSON
    if members:
        chunk.extra_json = msgspec.json.encode(members)


def _copy(usage: CompletionUsage) -> CompletionUsage:
    copy = CompletionUsage()
    copy.CopyFrom(usage)
    return copy
