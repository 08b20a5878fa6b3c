"""A stream of the Messages API as chunks of OpenAI's: one object follows one stream, event by event. Pure.

    message_start           the usage so far, and no more: an answer begins with its first words, so that an error
                              before them, such as an overload, can still be answered by another provider
    content_block_start     the head of a call; text, thought or input that the block begins with
    content_block_delta     text, thought, or a piece of a call's arguments
    content_block_stop      a whole thought for `reasoning_details`; `{}` for a call that had no arguments
    message_delta           the usage, which replaces the earlier
    message_stop            a chunk with the end: a stream that is cut before it has none
    error                   the error that it stands for
    others                  nothing

Calls are counted for themselves: a call's `index` is not that of its block.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk, ChatDelta
from quillgate_codec import JsonError, load_json
from quillgate_core.providers.anthropic_answer import (
    annotation_of,
    arguments_of,
    detail_of,
    encoded,
    finish_reason_of,
    refusal_of,
    usage_of,
)
from quillgate_core.providers.anthropic_wire import Block, Event, Message, StopDetails, Usage, decode_event
from quillgate_core.providers.provider_error import ProviderErrors

_THOUGHTS: Final = ("thinking", "redacted_thinking")


@dataclass(slots=True)
class _Open:
    """A block that has begun: where it stands, and what it has said so far."""

    block: Block
    start_character: int
    call_index: int = 0
    has_arguments: bool = False
    thought: list[str] = field(default_factory=list)
    signature: str = ""


class AnthropicStream:
    """Makes the chunks of one stream; `decode` each event's data in its order."""

    def __init__(self, errors: ProviderErrors) -> None:
        self._errors = errors
        self._id = ""
        self._model = ""
        self._has_begun = False
        self._blocks: dict[int, _Open] = {}
        self._calls = 0
        self._characters = 0
        self._usage = Usage()
        self._stop_reason: str | None = None
        self._stop_details: StopDetails | None = None

    def decode(self, data: bytes, chunks: list[ChatCompletionChunk]) -> bool:
        """Adds an event's chunks to the list, and tells whether it was the last; raises as Decode says."""
        try:
            event = decode_event(data)
        except (ValueError, RecursionError):
            raise JsonError("it is no event", code="invalid_value") from None
        handle = _HANDLERS.get(event.type)
        if handle is not None:
            handle(self, event, chunks)
            return event.type == "message_stop"
        if event.type == "error":
            raise self._errors.for_value(load_json(data)) or self._errors.unavailable("failed")
        return False

    def whole(self, message: Message) -> list[ChatCompletionChunk]:
        """Returns the chunks of a whole answer, from a server that cannot stream."""
        chunks: list[ChatCompletionChunk] = []
        self._begin(Event("message_start", message=message), chunks)
        self._end(Event("message_stop"), chunks)
        return chunks

    def _begin(self, event: Event, chunks: list[ChatCompletionChunk]) -> None:
        message = event.message
        if message is None:
            raise _unreadable("a message")
        self._id, self._model = message.id, message.model
        self._note_end(message.stop_reason, message.stop_details)
        self._note_usage(message.usage, chunks)
        for index, block in enumerate(message.content or ()):  # what is there already, which is seldom
            self._begin_block(Event("content_block_start", index, content_block=block), chunks)
            self._end_block(Event("content_block_stop", index), chunks)

    def _begin_block(self, event: Event, chunks: list[ChatCompletionChunk]) -> None:
        block = event.content_block
        if block is None:
            raise _unreadable("a content block")
        opened = self._blocks[event.index] = _Open(block, self._characters, self._calls)
        if block.type == "text":
            self._add_text(block.text, chunks)
            for citation in block.citations or ():
                self._add_citation(opened, citation, chunks)
        elif block.type in _THOUGHTS:
            opened.signature = block.signature or ""
            self._add_thought(opened, block.thinking, chunks)
        elif block.type == "tool_use":
            self._calls += 1
            call = self._chunk(chunks).tool_calls.add(index=opened.call_index, id=block.id or "", type="function")
            call.function.name = block.name or ""
            call.function.arguments = ""

    def _add(self, event: Event, chunks: list[ChatCompletionChunk]) -> None:
        delta, opened = event.delta, self._blocks.get(event.index)
        if delta is None or opened is None:
            raise _unreadable("a block that has begun")
        if delta.type == "text_delta":
            self._add_text(delta.text, chunks)
        elif delta.type == "input_json_delta":
            if delta.partial_json and opened.block.type == "tool_use":
                opened.has_arguments = True
                self._add_arguments(opened, delta.partial_json, chunks)
        elif delta.type == "thinking_delta":
            self._add_thought(opened, delta.thinking, chunks)
        elif delta.type == "signature_delta":
            opened.signature += delta.signature or ""
        elif delta.type == "citations_delta" and delta.citation is not None:
            self._add_citation(opened, delta.citation, chunks)

    def _end_block(self, event: Event, chunks: list[ChatCompletionChunk]) -> None:
        opened = self._blocks.pop(event.index, None)
        if opened is None:
            return
        block = opened.block
        if block.type == "tool_use" and not opened.has_arguments:
            self._add_arguments(opened, arguments_of(block.input), chunks)
        elif block.type in _THOUGHTS:
            block.thinking, block.signature = "".join(opened.thought), opened.signature
            place = {"after_characters": opened.start_character, "after_calls": opened.call_index}
            self._chunk(chunks).reasoning_details = encoded([detail_of(block, index=event.index, **place)])

    def _change(self, event: Event, chunks: list[ChatCompletionChunk]) -> None:
        if event.delta is not None:
            self._note_end(event.delta.stop_reason, event.delta.stop_details)
        self._note_usage(event.usage, chunks)

    def _end(self, event: Event, chunks: list[ChatCompletionChunk]) -> None:
        if self._stop_reason is None:
            return  # nobody said how it ended, so nobody must be told
        delta = self._chunk(chunks)
        if self._stop_reason == "refusal" and (
            refusal := refusal_of(self._stop_details, has_text=self._characters > 0)
        ):
            delta.refusal = refusal
        chunks[-1].choices[0].finish_reason = finish_reason_of(self._stop_reason)

    def _chunk(self, chunks: list[ChatCompletionChunk]) -> ChatDelta:
        """Adds a chunk and returns what it adds to the answer."""
        chunk = ChatCompletionChunk(id=self._id, model=self._model)
        chunks.append(chunk)
        delta = chunk.choices.add(index=0).delta
        delta.SetInParent()
        if not self._has_begun:
            self._has_begun = True
            delta.role = "assistant"
        return delta

    def _add_text(self, text: str | None, chunks: list[ChatCompletionChunk]) -> None:
        if text:
            self._chunk(chunks).content = text
            self._characters += len(text)

    def _add_thought(self, opened: _Open, thought: str | None, chunks: list[ChatCompletionChunk]) -> None:
        if thought:
            self._chunk(chunks).reasoning_content = thought
            opened.thought.append(thought)

    def _add_arguments(self, opened: _Open, text: str, chunks: list[ChatCompletionChunk]) -> None:
        self._chunk(chunks).tool_calls.add(index=opened.call_index).function.arguments = text

    def _add_citation(self, opened: _Open, citation: dict[str, Any], chunks: list[ChatCompletionChunk]) -> None:
        annotation = annotation_of(citation, start=opened.start_character, end=self._characters)
        if annotation is not None:
            self._chunk(chunks).annotations.append(annotation)

    def _note_end(self, stop_reason: str | None, details: StopDetails | None) -> None:
        self._stop_reason = stop_reason or self._stop_reason
        self._stop_details = details or self._stop_details

    def _note_usage(self, usage: Usage | None, chunks: list[ChatCompletionChunk]) -> None:
        """Counts are cumulative, and the last events have only some of them."""
        if usage is None:
            return
        known = {name: value for name, value in msgspec.structs.asdict(usage).items() if value is not None}
        self._usage = msgspec.structs.replace(self._usage, **known)
        chunk = ChatCompletionChunk(id=self._id, model=self._model)
        chunk.usage.CopyFrom(usage_of(self._usage))
        chunks.append(chunk)


def _unreadable(missing: str) -> JsonError:
    return JsonError(f"it lacks {missing}", code="invalid_value")


_HANDLERS: Final[Mapping[str, Callable[[AnthropicStream, Event, list[ChatCompletionChunk]], None]]] = {
    "content_block_delta": AnthropicStream._add,
    "content_block_start": AnthropicStream._begin_block,
    "content_block_stop": AnthropicStream._end_block,
    "message_start": AnthropicStream._begin,
    "message_delta": AnthropicStream._change,
    "message_stop": AnthropicStream._end,
}
