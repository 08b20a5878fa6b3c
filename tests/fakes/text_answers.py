"""What a provider that speaks text completions answers: whole answers and streams for ScriptedUpstream."""

from collections.abc import Iterable, Mapping
from typing import Any

from fakes.scripted_upstream import (
    CREATED,
    DEFAULT_TEXT,
    DONE,
    MODEL,
    RecordedRequest,
    ScriptedAnswer,
    default_answer,
    json_answer,
    sse_answer,
    sse_event,
    usage,
)


def text_value(
    texts: Iterable[str] = (DEFAULT_TEXT,), *, finish_reason: str | None = "stop", **members: Any
) -> dict[str, Any]:
    """A whole text completion, or a piece, with one choice for each text; `members` add to it or replace its own."""
    choices = [
        {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}
        for index, text in enumerate(texts)
    ]
    return {
        "id": "cmpl-upstream",
        "object": "text_completion",
        "created": CREATED,
        "model": MODEL,
        "choices": choices,
        **members,
    }


def text_answer(*texts: str, extra: Mapping[str, Any] | None = None) -> ScriptedAnswer:
    """A whole text completion with usage 10 / 5."""
    return json_answer(200, {**text_value(texts or (DEFAULT_TEXT,)), "usage": usage(), **(extra or {})})


def text_stream(words: Iterable[str] = (DEFAULT_TEXT,), *, include_usage: bool = True) -> ScriptedAnswer:
    """A whole stream, one piece a word."""
    events = [sse_event(text_value([word], finish_reason=None)) for word in words]
    events.append(sse_event(text_value([""])))
    if include_usage:
        events.append(sse_event(text_value([], usage=usage())))
    return sse_answer(*events, DONE)


def text_or_chat(request: RecordedRequest) -> ScriptedAnswer:
    """Answers text completions as a sane provider does, and everything else as `default_answer`."""
    if request.path.endswith("/chat/completions") or not request.path.endswith("/completions"):
        return default_answer(request)
    asked = request.json
    if not asked.get("stream"):
        return text_answer()
    return text_stream(["Hello ", "from ", "upstream."])
