"""The counting formula against an exact, slow reference in fractions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.counting import (
    MAX_TOKENS,
    TOKENS_PER_MESSAGE,
    Count,
    Usage,
    counted_messages,
    explain,
    messages_for_tokens,
    sane,
)

TOKENS = st.one_of(st.integers(0, 70_000), st.integers(0, MAX_TOKENS))
ANY_INT = st.one_of(st.integers(-10, 10), st.integers(-(10**12), 10**12))
BOUNDARIES = [0, 1, 15_999, 16_000, 16_001, 31_999, 32_000, 32_001]


@st.composite
def sane_usages(draw: st.DrawFn) -> Usage:
    """Any usage within its ranges."""
    prompt_tokens = draw(TOKENS)
    return Usage(prompt_tokens, draw(st.integers(0, prompt_tokens)), draw(TOKENS))


def reference(usage: Usage) -> int:
    """The formula as the design writes it, in exact fractions."""
    cached_discount = math.floor(usage.cached_tokens * Fraction(1, 2))
    effective_input = max(0, usage.prompt_tokens - cached_discount)
    return max(1, math.ceil(Fraction(effective_input + usage.completion_tokens, 16000)))


@given(sane_usages())
def test_i09_equals_the_exact_reference(usage: Usage) -> None:
    """Every sane usage counts what the exact formula says, and at least 1."""
    assert counted_messages(usage) == reference(usage) >= 1


@given(sane_usages(), st.integers(0, 50_000), st.integers(0, 50_000))
def test_i09_more_tokens_never_count_less(usage: Usage, more_prompt: int, more_completion: int) -> None:
    """The count is monotone in prompt and completion tokens."""
    more = Usage(usage.prompt_tokens + more_prompt, usage.cached_tokens, usage.completion_tokens + more_completion)
    assert counted_messages(more) >= counted_messages(usage)


@given(sane_usages())
def test_i09_cached_tokens_lower_the_input_by_half_at_most(usage: Usage) -> None:
    """Cached tokens lower the counted input by exactly floor(0.5 * cached), never more."""
    uncached = Usage(usage.prompt_tokens, 0, usage.completion_tokens)
    saved = explain(uncached).effective_input - explain(usage).effective_input
    assert saved == math.floor(usage.cached_tokens * Fraction(1, 2))
    assert counted_messages(usage) <= counted_messages(uncached)


@pytest.mark.parametrize("tokens", BOUNDARIES)
def test_boundaries(tokens: int) -> None:
    """A started message counts whole, on either side of each boundary, wherever the tokens come from."""
    expected = max(1, math.ceil(Fraction(tokens, TOKENS_PER_MESSAGE)))
    assert messages_for_tokens(tokens) == expected
    assert counted_messages(Usage(tokens, 0, 0)) == expected
    assert counted_messages(Usage(0, 0, tokens)) == expected


def test_the_example_of_the_design() -> None:
    """Prompt 10 and completion 5 count one message."""
    assert explain(Usage(10, 0, 5)) == Count(cached_discount=0, effective_input=10, counted_messages=1)


def test_explains_the_cached_discount() -> None:
    """An odd number of cached tokens is discounted by the lower half."""
    assert explain(Usage(40_001, 10_001, 3_000)) == Count(5_000, 35_001, 3)


@given(st.builds(Usage, ANY_INT, ANY_INT, ANY_INT))
def test_any_usage_becomes_sane(usage: Usage) -> None:
    """A clamped usage is within its ranges, clamping it again changes nothing, and the flag tells the truth."""
    result, clamped = sane(usage)
    assert 0 <= result.cached_tokens <= result.prompt_tokens <= MAX_TOKENS
    assert 0 <= result.completion_tokens <= MAX_TOKENS
    assert sane(result) == (result, False)
    assert clamped == (result != usage)


@given(sane_usages())
def test_a_sane_usage_is_left_alone(usage: Usage) -> None:
    """A usage within its ranges is neither changed nor flagged."""
    assert sane(usage) == (usage, False)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (Usage(-5, 0, 3), Usage(0, 0, 3)),
        (Usage(100, 101, 0), Usage(100, 100, 0)),
        (Usage(100, -1, -1), Usage(100, 0, 0)),
        (Usage(10**9, 10**9, 10**9), Usage(MAX_TOKENS, MAX_TOKENS, MAX_TOKENS)),
        (Usage(-(10**9), 7, 0), Usage(0, 0, 0)),
    ],
)
def test_insane_usages_are_clamped_and_flagged(reported: Usage, expected: Usage) -> None:
    """What providers really send is brought back into range and flagged."""
    assert sane(reported) == (expected, True)
