"""What a usage counts, in messages: pure integer arithmetic and nothing else.

    cached_discount  = floor(cached_tokens * 0.5)
    effective_input  = max(0, prompt_tokens - cached_discount)
    counted_messages = max(1, ceil((effective_input + completion_tokens) / 16000))

What is measured otherwise than in tokens, such as sound in seconds, counts its `minimum_messages`.

This is the only place that knows the formula. It must not do I/O, use floats, or know where a usage comes from.
"""

from typing import Final

import msgspec

TOKENS_PER_MESSAGE: Final = 16_000
"""LLM tokens that one message stands for."""

MAX_TOKENS: Final = 10**8
"""Most tokens that one member of a usage may have; more is a provider's mistake and is clamped."""

MAX_MINIMUM_MESSAGES: Final = 10**6
"""Most messages that a usage may count without tokens."""


class Usage(msgspec.Struct, frozen=True):
    """What one request used, in LLM tokens; `prompt_tokens` includes the cached ones.

    `minimum_messages` is what it counts at least: above 1 where tokens do not tell, as for a length of sound.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    minimum_messages: int = 1
    cache_write_tokens: int = 0
    """Those of the prompt tokens that were written to a cache: they count as any other, but may cost more."""


class Count(msgspec.Struct, frozen=True):
    """The formula's steps for one usage, so that a bill can be explained."""

    cached_discount: int
    effective_input: int
    counted_messages: int


def explain(usage: Usage) -> Count:
    """Count a usage step by step; a usage that is not sane is counted as it stands, never below 1."""
    cached_discount = usage.cached_tokens // 2
    effective_input = max(0, usage.prompt_tokens - cached_discount)
    messages = messages_for_tokens(effective_input + usage.completion_tokens)
    return Count(cached_discount, effective_input, max(messages, usage.minimum_messages))


def counted_messages(usage: Usage) -> int:
    """Messages that a usage counts, at least 1."""
    return explain(usage).counted_messages


def messages_for_tokens(tokens: int) -> int:
    """Messages that so many uncached tokens count, at least 1: also the hold for an upper bound of tokens."""
    return max(1, -(-tokens // TOKENS_PER_MESSAGE))


def sane(usage: Usage) -> tuple[Usage, bool]:
    """Force a reported usage into its ranges, and say whether it had to be clamped.

    Providers do report negative counts, more cached than prompt tokens, and numbers beyond reason; such a usage is
    charged as far as it makes sense and flagged, because losing the row would be worse.
    """
    if _is_sane(usage):
        return usage, False
    prompt_tokens = min(max(usage.prompt_tokens, 0), MAX_TOKENS)
    cached_tokens = min(max(usage.cached_tokens, 0), prompt_tokens)
    completion_tokens = min(max(usage.completion_tokens, 0), MAX_TOKENS)
    minimum_messages = min(max(usage.minimum_messages, 1), MAX_MINIMUM_MESSAGES)
    cache_write_tokens = min(max(usage.cache_write_tokens, 0), prompt_tokens - cached_tokens)
    clamped = Usage(prompt_tokens, cached_tokens, completion_tokens, minimum_messages, cache_write_tokens)
    return clamped, clamped != usage


def _is_sane(usage: Usage) -> bool:
    return (
        0 <= usage.cached_tokens <= usage.prompt_tokens <= MAX_TOKENS
        and 0 <= usage.completion_tokens <= MAX_TOKENS
        and 1 <= usage.minimum_messages <= MAX_MINIMUM_MESSAGES
        and 0 <= usage.cache_write_tokens <= usage.prompt_tokens - usage.cached_tokens
    )
