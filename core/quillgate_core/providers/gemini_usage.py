"""Gemini's `usageMetadata` in OpenAI's convention. Pure.

    prompt_tokens           promptTokenCount, which includes cachedContentTokenCount, and toolUsePromptTokenCount
    completion_tokens       candidatesTokenCount and thoughtsTokenCount
    cached_tokens           cachedContentTokenCount
    reasoning_tokens        thoughtsTokenCount

In a stream every event has the sums so far: the last one counts, nothing is added up.
"""

from typing import Any, Final

from quillgate.v1.chat_completion_pb2 import CompletionUsage

_MAX: Final = 2**53
_PROMPT_DETAILS: Final = {"AUDIO": "audio_tokens", "IMAGE": "image_tokens", "TEXT": "text_tokens"}


def completion_usage(metadata: dict[str, Any]) -> CompletionUsage:
    """Returns the usage; counts that are no integers are left out."""
    cached, thoughts = _count(metadata, "cachedContentTokenCount"), _count(metadata, "thoughtsTokenCount")
    prompt = _count(metadata, "promptTokenCount") + _count(metadata, "toolUsePromptTokenCount")
    completion = _count(metadata, "candidatesTokenCount") + thoughts
    usage = CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
    usage.prompt_tokens_details.cached_tokens = cached
    usage.completion_tokens_details.reasoning_tokens = thoughts
    details = metadata.get("promptTokensDetails")
    for detail in details if type(details) is list else ():
        name = _PROMPT_DETAILS.get(str(detail.get("modality"))) if type(detail) is dict else None
        if name is not None:
            setattr(usage.prompt_tokens_details, name, _count(detail, "tokenCount"))
    return usage


def _count(metadata: dict[str, Any], name: str) -> int:
    """Returns a count as it is, insane or not: judging it is the caller's."""
    value = metadata.get(name)
    return value if type(value) is int and -_MAX < value < _MAX else 0
