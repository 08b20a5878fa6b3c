"""How a request says how hard to think, and how thoughts travel to a client and back unchanged. Pure.

Anthropic signs each thought and wants it back in the next turn of a loop of tools, unchanged and in its place. A client
gets it as an entry of `reasoning_details`, in OpenRouter's form, and sends the entry back as it is:

    thinking            {"type": "reasoning.text", "text", "signature", "id", "format", "index"}
    redacted_thinking   {"type": "reasoning.encrypted", "data", "id", "format", "index"}

OpenAI's message has one text and then its calls, so the thought's place is in the id: `at-120-1` stood after 120
characters of text and one call. LiteLLM's `thinking_blocks` are read too, and stand first.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.anthropic_generation import Generation
from quillgate_core.providers.anthropic_parts import Block, members, raw_json

FORMAT: Final = "anthropic-claude-v1"
MIN_BUDGET_TOKENS: Final = 1_024
"""Anthropic's own lower limit."""
MAX_BUDGET_TOKENS: Final = 32_000
"""What an effort is worth at most; more is Anthropic's advice for batches only. A budget in tokens may ask for more."""

_MOST: Final = 80
"""The share of `max_tokens` that a budget in tokens may have, in percent: the rest is for the answer."""
_SHARES: Final = {"minimal": 10, "low": 20, "medium": 50, "high": 80, "xhigh": 95, "max": 95}
"""What an effort is worth where thinking has a budget, in percent of `max_tokens`: OpenRouter's shares."""
_EFFORTS: Final = ("none", *_SHARES)
_PLACE: Final = re.compile(r"at-(\d{1,9})-(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Thinking:
    """What to send: `config` is the member `thinking`, `effort` that of `output_config`; None: nothing."""

    config: Block | None = None
    effort: str | None = None

    @property
    def is_on(self) -> bool:
        """Whether thinking was asked for in so many words."""
        return self.config is not None and self.config.get("type") in ("enabled", "adaptive")


@dataclass(frozen=True, slots=True)
class Thought:
    """A block of thinking and where it stood among the text and the calls of its turn."""

    block: Block
    after_characters: int = 0
    after_calls: int = 0


def thinking_of(
    request: ChatCompletionRequest,
    native: Any,
    generation: Generation,
    *,
    max_tokens: int,
    is_forced: bool,
    is_unthought: bool,
) -> Thinking:
    """Returns how to think; without a wish, nothing is said and the model does as it does.

    `native` is Anthropic's own `thinking`, which goes through. `is_forced` says that a tool must be called and
    `is_unthought` that the last calls came without a thought: Anthropic refuses a budget with either, and what a model
    of the generations between does with a forced tool is not told, so that the call wins.
    """
    if type(native) is dict:
        return Thinking(_fitting(native, max_tokens))
    asked = request.reasoning
    effort = request.reasoning_effort or asked.effort
    if effort and effort not in _EFFORTS:
        message = f"Invalid value: '{effort[:64]}'. Supported values are: {', '.join(_EFFORTS)}."
        param = "reasoning_effort" if request.reasoning_effort else "reasoning.effort"
        raise InvalidRequest(message, param=param, code="invalid_value")
    if effort == "none" or (asked.HasField("enabled") and not asked.enabled):
        return _off(generation)
    if not (effort or asked.max_tokens or asked.enabled) or generation.thinking == "none":
        return Thinking()
    display = {"display": "omitted" if asked.exclude else "summarized"}
    if generation.thinking == "adaptive":
        level = generation.effort(effort) if effort else None
        if is_forced and generation.not_thinking == "absent":
            return Thinking(effort=level)
        return Thinking({"type": "adaptive", **display}, level)
    budget = _budget(asked.max_tokens, effort, max_tokens)
    if is_forced or is_unthought or budget >= max_tokens:
        return Thinking()
    return Thinking({"type": "enabled", "budget_tokens": budget} | (display if asked.exclude else {}))


def detail(words: Block, *, index: int, after_characters: int, after_calls: int) -> Block:
    """Returns the entry of `reasoning_details` that says `words` and where they stood."""
    return {**words, "id": f"at-{after_characters}-{after_calls}", "format": FORMAT, "index": index}


def thoughts_of(message: ChatMessage, path: str) -> list[Thought]:
    """Returns the thoughts that a client sends back, in their order; those of other providers are left out.

    So are those without a signature: Anthropic refuses them.
    """
    if message.reasoning_details:
        details = raw_json(message.reasoning_details, f"{path}.reasoning_details")
        return [thought for entry in _dicts(details) if (thought := _thought_of(entry)) is not None]
    blocks = members(message.extra_json, path).get("thinking_blocks")
    return [Thought(block) for block in _dicts(blocks) if _is_whole(block)]


def _off(generation: Generation) -> Thinking:
    if generation.not_thinking == "absent":
        return Thinking()
    if generation.not_thinking == "low_effort":
        return Thinking(effort="low")
    return Thinking({"type": generation.not_thinking})


def _budget(asked_tokens: int, effort: str, max_tokens: int) -> int:
    """The tokens to think with, below `max_tokens` where there is room at all."""
    if asked_tokens:
        return max(min(asked_tokens, max_tokens * _MOST // 100), MIN_BUDGET_TOKENS)
    share = max_tokens * _SHARES[effort or "medium"] // 100
    return max(min(share, MAX_BUDGET_TOKENS), MIN_BUDGET_TOKENS)


def _fitting(native: Block, max_tokens: int) -> Block:
    """A lowered limit on the output must not make a budget invalid that was valid with the client's own."""
    budget = native.get("budget_tokens")
    if type(budget) is not int or budget < max_tokens:
        return native
    if max_tokens <= MIN_BUDGET_TOKENS:
        return {"type": "disabled"}
    return {**native, "budget_tokens": max(max_tokens * _MOST // 100, MIN_BUDGET_TOKENS)}


def _thought_of(entry: Block) -> Thought | None:
    if entry.get("format") not in (None, FORMAT):
        return None
    if entry.get("type") == "reasoning.encrypted":
        block = {"type": "redacted_thinking", "data": entry.get("data")}
    else:
        text, signature = entry.get("text"), entry.get("signature")
        block = {"type": "thinking", "thinking": "" if text is None else text, "signature": signature}
    if not _is_whole(block):
        return None
    place = _PLACE.fullmatch(str(entry.get("id")))
    return Thought(block, int(place[1]), int(place[2])) if place else Thought(block)


def _is_whole(block: Block) -> bool:
    if block.get("type") == "redacted_thinking":
        return type(block.get("data")) is str and bool(block["data"])
    is_text = type(block.get("thinking")) is str and type(block.get("signature")) is str
    return block.get("type") == "thinking" and is_text and bool(block["signature"])


def _dicts(value: Any) -> list[Block]:
    return [item for item in value if type(item) is dict] if type(value) is list else []
