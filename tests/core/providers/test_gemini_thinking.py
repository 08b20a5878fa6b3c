"""How hard Gemini models are told to think: budgets and levels by generation, and when thoughts are asked for."""

from typing import Any

import pytest
from fakes.gemini_site import request_of

from quillgate_core.providers.gemini_thinking import GeminiModel, thinking_config

SHOWN = {"includeThoughts": True}


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("gemini-2.5-flash", (2, 5)),
        ("gemini-2.5-flash-preview-05-20", (2, 5)),
        ("models/gemini-3-pro-preview", (3, 0)),
        ("gemini-3.10-flash", (3, 10)),
        ("gemini-4-argon", (4, 0)),
        ("gemini-flash-latest", (99, 0)),
        ("gemini-flash-lite-latest", (99, 0)),
        ("gemini-exp-1206", (0, 0)),
        ("gemini-20250101", (0, 0)),
        ("gemma-3-27b-it", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_a_models_name_tells_its_generation(name: str, generation: tuple[int, int]) -> None:
    """What is no Gemini model has none, and the newest has no number."""
    assert GeminiModel.named(name).generation == generation


@pytest.mark.parametrize(
    ("model", "members", "config"),
    [
        # nothing asked: the model's own, with its thoughts, which show that it is alive
        ("gemini-2.5-flash", {}, SHOWN),
        ("gemini-2.5-flash-lite", {}, None),
        ("gemini-3.8-flash", {}, SHOWN),
        ("gemini-2.0-flash", {}, None),
        ("gemma-3-27b-it", {"reasoning_effort": "high"}, None),
        ("gemini-3-pro-image", {"reasoning_effort": "high"}, None),
        # budgets
        ("gemini-2.5-flash", {"reasoning_effort": "low"}, {"thinkingBudget": 1_024, **SHOWN}),
        ("gemini-2.5-flash", {"reasoning_effort": "medium"}, {"thinkingBudget": 8_192, **SHOWN}),
        ("gemini-2.5-pro", {"reasoning_effort": "high"}, {"thinkingBudget": 24_576, **SHOWN}),
        ("gemini-2.5-pro", {"reasoning_effort": "xhigh"}, {"thinkingBudget": 32_768, **SHOWN}),
        ("gemini-2.5-flash", {"reasoning_effort": "xhigh"}, {"thinkingBudget": 24_576, **SHOWN}),
        ("gemini-2.5-flash", {"reasoning_effort": "none"}, {"thinkingBudget": 0}),
        ("gemini-2.5-pro", {"reasoning_effort": "none"}, {"thinkingBudget": 128}),
        ("gemini-2.5-flash", {"reasoning": {"max_tokens": 5}}, {"thinkingBudget": 5, **SHOWN}),
        ("gemini-2.5-flash-lite", {"reasoning": {"max_tokens": 5}}, {"thinkingBudget": 512, **SHOWN}),
        ("gemini-2.5-flash-lite", {"reasoning": {"enabled": True}}, {"thinkingBudget": -1, **SHOWN}),
        ("gemini-2.5-flash", {"reasoning": {"enabled": False, "max_tokens": 5}}, {"thinkingBudget": 0}),
        ("gemini-2.5-flash", {"reasoning": {"exclude": True}}, None),
        ("gemini-2.5-flash", {"reasoning": {"effort": "low", "exclude": True}}, {"thinkingBudget": 1_024}),
        # levels
        ("gemini-3.1-pro", {"reasoning_effort": "minimal"}, {"thinkingLevel": "LOW", **SHOWN}),
        ("gemini-3.5-flash", {"reasoning_effort": "minimal"}, {"thinkingLevel": "MINIMAL", **SHOWN}),
        ("gemini-3.8-flash", {"reasoning_effort": "minimal"}, {"thinkingLevel": "LOW", **SHOWN}),
        ("gemini-3.8-flash", {"reasoning_effort": "none"}, {"thinkingLevel": "LOW"}),
        ("gemini-3-pro-preview", {"reasoning_effort": "medium"}, {"thinkingLevel": "HIGH", **SHOWN}),
        ("gemini-4-argon", {"reasoning_effort": "medium"}, {"thinkingLevel": "MEDIUM", **SHOWN}),
        ("gemini-pro-latest", {"reasoning_effort": "xhigh"}, {"thinkingLevel": "HIGH", **SHOWN}),
        ("gemini-3.8-flash", {"reasoning": {"max_tokens": 1_000}}, {"thinkingLevel": "LOW", **SHOWN}),
        ("gemini-3.8-flash", {"reasoning": {"max_tokens": 8_000}}, {"thinkingLevel": "MEDIUM", **SHOWN}),
        ("gemini-3.8-flash", {"reasoning": {"max_tokens": 9_000}}, {"thinkingLevel": "HIGH", **SHOWN}),
        ("gemini-3.8-flash", {"reasoning": {"enabled": False, "max_tokens": 9_000}}, {"thinkingLevel": "LOW"}),
        ("gemini-3.1-flash-lite", {"reasoning_effort": "low"}, {"thinkingLevel": "LOW", **SHOWN}),
    ],
)
def test_thinking_is_brought_to_what_the_model_takes(model: str, members: dict[str, Any], config: Any) -> None:
    """Up to 2.5 a budget within the model's range, from 3 on a level that it has; no thoughts without thinking."""
    assert thinking_config(request_of(members), GeminiModel.named(model)) == config
