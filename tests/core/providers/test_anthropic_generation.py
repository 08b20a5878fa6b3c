"""What a Claude model accepts is read from its name."""

import pytest

from quillgate_core.providers.anthropic_generation import generation_of


@pytest.mark.parametrize(
    ("model", "max_output_tokens", "thinking", "not_thinking", "sampling"),
    [
        ("claude-opus-5-5", 128_000, "adaptive", "low_effort", "none"),
        ("claude-fable-5-1", 128_000, "adaptive", "low_effort", "none"),
        ("claude-mythos-preview", 128_000, "adaptive", "low_effort", "none"),
        ("claude-sonnet-5-5", 128_000, "adaptive", "between_tools", "none"),
        ("claude-haiku-5-5", 128_000, "adaptive", "disabled", "none"),
        ("claude-opus-5", 128_000, "adaptive", "disabled", "none"),
        ("claude-opus-5-20260724", 128_000, "adaptive", "disabled", "none"),
        ("claude-sonnet-5", 128_000, "adaptive", "disabled", "none"),
        ("claude-opus-4-8", 128_000, "adaptive", "absent", "none"),
        ("claude-opus-4-7", 128_000, "adaptive", "absent", "none"),
        ("claude-opus-4-6", 128_000, "adaptive", "absent", "one"),
        ("claude-sonnet-4-6", 64_000, "adaptive", "absent", "one"),
        ("anthropic/claude-sonnet-4.6", 64_000, "adaptive", "absent", "one"),
        ("claude-sonnet-4-5-20250929", 64_000, "budget", "absent", "one"),
        ("claude-haiku-4-5", 64_000, "budget", "absent", "one"),
        ("claude-opus-4-5-20251101", 64_000, "budget", "absent", "one"),
        ("claude-opus-4-1-20250805", 32_000, "budget", "absent", "all"),
        ("claude-opus-4-20250514", 32_000, "budget", "absent", "all"),
        ("claude-sonnet-4@20250514", 64_000, "budget", "absent", "all"),
        ("claude-3-7-sonnet-20250219", 64_000, "budget", "absent", "all"),
        ("claude-3-5-haiku-latest", 8_192, "none", "absent", "all"),
        ("claude-3-opus-20240229", 4_096, "none", "absent", "all"),
        ("claude-3-haiku-20240307", 4_096, "none", "absent", "all"),
        ("claude-2.1", 4_096, "none", "absent", "all"),
        ("claude-opus-latest", 128_000, "adaptive", "low_effort", "none"),
        ("claude-future-9", 128_000, "adaptive", "disabled", "none"),
        ("MiniMax-M3", 8_192, "budget", "absent", "all"),
    ],
)
def test_a_name_tells_the_generation(
    model: str, max_output_tokens: int, thinking: str, not_thinking: str, sampling: str
) -> None:
    """Dates are no versions, a new Claude is like the newest, and what is no Claude accepts everything."""
    generation = generation_of(model)
    assert (generation.max_output_tokens, generation.thinking) == (max_output_tokens, thinking)
    assert (generation.not_thinking, generation.sampling) == (not_thinking, sampling)


@pytest.mark.parametrize(
    ("model", "efforts"),
    [
        ("claude-opus-5-5", ["low", "low", "medium", "high", "xhigh", "max"]),
        ("claude-opus-4-6", ["low", "low", "medium", "high", "max", "max"]),
        ("claude-sonnet-4-6", ["low", "low", "medium", "high", "high", "high"]),
    ],
)
def test_efforts_are_the_nearest_that_a_model_has(model: str, efforts: list[str]) -> None:
    """An effort that a model refuses becomes the next below, and the highest where there is one."""
    asked = ["minimal", "low", "medium", "high", "xhigh", "max"]
    assert [generation_of(model).effort(effort) for effort in asked] == efforts
