"""Makes what vendors of OpenAI's API answer one thing: usage, thoughts, ends and failures, in place. Pure.

It goes by what an answer holds and not by who sent it, so that servers nobody has heard of are understood too:

    usage           in `x_groq`; cached tokens as `prompt_cache_hit_tokens`, `cached_tokens`, `num_cached_tokens`
    completion      without the tokens of thoughts, where the total has them (xAI)
    thoughts        `reasoning` (OpenRouter, Groq, Ollama, vLLM), `reasoning_details`, parts of the content (Mistral)
    failures        `choices[].error` and the end `error` (OpenRouter), `x_groq.error`, ends that are failures

A vendor's own members stay beside ours.
"""

from typing import Any, Final

from quillgate_core.providers.provider_error import ProviderErrors

_CACHED: Final = ("prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens")
_ENDS: Final = {
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "model_length": "length",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}
_FAILURES: Final = frozenset({"error", "insufficient_system_resource"})


def clean_value(value: dict[str, Any], errors: ProviderErrors) -> dict[str, Any]:
    """Returns the answer or chunk, cleaned; raises the failure that it tells of."""
    if value.get("usage") is not None or "x_groq" in value:
        _clean_usage(value)
    choices = value.get("choices")
    if type(choices) is list:
        for choice in choices:
            if type(choice) is dict:
                _clean_choice(choice, errors)
    groq = value.get("x_groq")
    if type(groq) is dict and groq.get("error"):
        raise errors.unavailable("stopped in the middle of its answer")
    return value


def _clean_choice(choice: dict[str, Any], errors: ProviderErrors) -> None:
    if "error" in choice:
        failure = errors.for_value({"error": choice.pop("error")})
        if failure is not None:
            raise failure
    end = choice.get("finish_reason")
    if type(end) is str:
        if end in _FAILURES:
            raise errors.unavailable("failed in the middle of its answer")
        choice["finish_reason"] = _ENDS.get(end, end)
    for name in ("delta", "message"):
        said = choice.get(name)
        if type(said) is dict:
            _clean_said(said)


def _clean_said(said: dict[str, Any]) -> None:
    if type(said.get("content")) is list:
        _join_parts(said)
    if not said.get("reasoning_content"):
        thought = said.get("reasoning")
        if type(thought) is not str or not thought:
            thought = _detailed_thought(said.get("reasoning_details")) if "reasoning_details" in said else ""
        if thought:
            said["reasoning_content"] = thought


def _detailed_thought(details: Any) -> str:
    """OpenRouter's list: texts or summaries; encrypted ones say nothing."""
    found = [item for item in details if type(item) is dict] if type(details) is list else []
    texts = [item.get("text") or item.get("summary") for item in found]
    return "".join(text for text in texts if type(text) is str)


def _join_parts(said: dict[str, Any]) -> None:
    """Mistral's reasoning models answer in parts: `thinking`, which is a list again, and `text`."""
    parts = [part for part in said["content"] if type(part) is dict]
    said["content"] = "".join(_text_of(part) for part in parts if part.get("type") != "thinking")
    thoughts = [part.get("thinking") for part in parts if part.get("type") == "thinking"]
    inner = [item for thought in thoughts for item in (thought if type(thought) is list else [thought])]
    thought = "".join(item if type(item) is str else _text_of(item) for item in inner)
    if thought:
        said["reasoning_content"] = thought


def _text_of(part: Any) -> str:
    text = part.get("text") if type(part) is dict else None
    return text if type(text) is str else ""


def _clean_usage(value: dict[str, Any]) -> None:
    usage = value.get("usage")
    if type(usage) is not dict:
        groq = value.get("x_groq")
        usage = groq.get("usage") if type(groq) is dict else None
        if type(usage) is not dict:
            return
        value["usage"] = usage
    details = usage.get("prompt_tokens_details")
    details = details if type(details) is dict else {}
    if details.get("cached_tokens") is None:
        cached = next((usage[name] for name in _CACHED if type(usage.get(name)) is int), None)
        if cached is not None:
            usage["prompt_tokens_details"] = {**details, "cached_tokens": cached}
    _count_thoughts(usage)


def _count_thoughts(usage: dict[str, Any]) -> None:
    """Adds the tokens of thoughts where the vendor's own total shows that its completion tokens lack them."""
    details = usage.get("completion_tokens_details")
    thought = details.get("reasoning_tokens") if type(details) is dict else None
    if type(thought) is not int or thought <= 0:
        return
    prompt, completion, total = (usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if type(prompt) is not int or type(completion) is not int:
        return
    if total == prompt + completion + thought:
        usage["completion_tokens"] = completion + thought
