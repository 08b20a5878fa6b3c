"""A whole answer of the Messages API as OpenAI's chat completion: text, thoughts, calls, the end, and the usage. Pure.

Usage convention: Anthropic's `input_tokens` are neither those read from a cache nor those written to one; here both are
inside `prompt_tokens`. `output_tokens` have the thoughts inside, as OpenAI's.

    end_turn, stop_sequence                     stop
    max_tokens, model_context_window_exceeded   length
    pause_turn                                  length: a limit on Anthropic's own tools cut the turn short
    tool_use                                    tool_calls
    refusal                                     content_filter, with its explanation as the message's refusal
"""

from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import Annotation, ChatCompletion, ChatMessage, CompletionUsage
from quillgate_core.providers.anthropic_thinking import detail
from quillgate_core.providers.anthropic_wire import Block, Message, StopDetails, Usage

REFUSED: Final = "The model declined to answer."
"""Said where Anthropic gives no explanation and the answer has no text."""

_ENDS: Final = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_MAX_COUNT: Final = 2**53
_dumps = msgspec.json.Encoder().encode


def answer_of(message: Message) -> ChatCompletion:
    """Returns the answer, without usage where there is none; blocks of Anthropic's own tools are left out."""
    answer = ChatCompletion(id=message.id, model=message.model)
    choice = answer.choices.add(index=0)
    choice.message.role = "assistant"
    _fill(choice.message, message.content or [])
    choice.finish_reason = finish_reason_of(message.stop_reason or "")
    if message.stop_reason == "refusal":
        choice.message.refusal = refusal_of(message.stop_details, has_text=choice.message.HasField("content"))
        if not choice.message.refusal:
            choice.message.ClearField("refusal")
    elif not choice.message.HasField("content") and not choice.message.tool_calls:
        choice.message.content.text = ""
    if message.usage is not None:
        answer.usage.CopyFrom(usage_of(message.usage))
    return answer


def finish_reason_of(stop_reason: str) -> str:
    """Returns OpenAI's word for how an answer ended; an unknown reason is an end like any other."""
    return _ENDS.get(stop_reason, "stop")


def refusal_of(details: StopDetails | None, *, has_text: bool) -> str:
    """Returns why an answer was refused; empty where nothing is known and the answer has a text."""
    explanation = details.explanation if details is not None else None
    return explanation or ("" if has_text else REFUSED)


def usage_of(usage: Usage) -> CompletionUsage:
    """Returns the usage in OpenAI's convention; unknown counts are 0."""
    read, written = _count(usage.cache_read_input_tokens), _count(usage.cache_creation_input_tokens)
    prompt, completion = _count(usage.input_tokens) + read + written, _count(usage.output_tokens)
    made = CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
    if usage.cache_read_input_tokens is not None:
        made.prompt_tokens_details.cached_tokens = read
    if usage.cache_creation_input_tokens is not None:
        made.prompt_tokens_details.cache_write_tokens = written
    thinking_tokens = (usage.output_tokens_details or {}).get("thinking_tokens")
    if type(thinking_tokens) is int:
        made.completion_tokens_details.reasoning_tokens = _count(thinking_tokens)
    return made


def annotation_of(citation: dict[str, Any], *, start: int, end: int) -> Annotation | None:
    """Returns the source that a part of the text relies on, if it is on the web; others have no form in OpenAI's."""
    url = citation.get("url")
    if type(url) is not str:
        return None
    annotation = Annotation(type="url_citation")
    annotation.url_citation.start_index = start
    annotation.url_citation.end_index = end
    annotation.url_citation.url = url
    annotation.url_citation.title = citation["title"] if type(citation.get("title")) is str else ""
    return annotation


def arguments_of(value: Any) -> str:
    """Returns a call's input as the JSON text of OpenAI's arguments: order and big integers as they were."""
    return _dumps({} if value is None else value).decode("utf-8")


def detail_of(block: Block, *, index: int, after_characters: int, after_calls: int) -> dict[str, Any]:
    """Returns the entry of `reasoning_details` that brings a block of thinking back."""
    words: dict[str, Any] = {"type": "reasoning.text", "text": block.thinking or "", "signature": block.signature or ""}
    if block.type == "redacted_thinking":
        words = {"type": "reasoning.encrypted", "data": block.data or ""}
    return detail(words, index=index, after_characters=after_characters, after_calls=after_calls)


def encoded(details: list[dict[str, Any]]) -> bytes:
    """Returns the JSON text of `reasoning_details`."""
    return _dumps(details)


def _fill(message: ChatMessage, blocks: list[Block]) -> None:
    text, characters = [], 0
    thoughts, details = [], []
    for index, block in enumerate(blocks):
        if block.type == "text":
            text.append(block.text or "")
            end = characters + len(text[-1])
            for citation in block.citations or ():
                annotation = annotation_of(citation, start=characters, end=end)
                message.annotations.extend([annotation] if annotation is not None else [])
            characters = end
        elif block.type in ("thinking", "redacted_thinking"):
            calls = len(message.tool_calls)
            thoughts.append(block.thinking or "")
            details.append(detail_of(block, index=index, after_characters=characters, after_calls=calls))
        elif block.type == "tool_use":
            call = message.tool_calls.add(id=block.id or "", type="function")
            call.function.name = block.name or ""
            call.function.arguments = arguments_of(block.input)
    if any(text):
        message.content.text = "".join(text)
    if any(thoughts):
        message.reasoning_content = "".join(thoughts)
    if details:
        message.reasoning_details = encoded(details)


def _count(value: int | None) -> int:
    """What protobuf can hold; whether it makes sense is decided where usage is charged."""
    return 0 if value is None else max(-_MAX_COUNT, min(value, _MAX_COUNT))
