"""The rules by which the snapshot is built, on offers made by hand: no library of model data is needed here."""

from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from build_snapshot import model_entry, snapshot_text
from snapshot_sources import Offer, genai_price, litellm_price, midnight_s, usd_text

CHEAP, DEAR = {"input": "1", "output": "2"}, {"input": "1.5", "output": "2"}


def _offer(name: str = "m", **members: Any) -> Offer:
    values = {"context_window": 100, "max_output_tokens": 10, "input_modalities": ("text",), "price": CHEAP}
    return Offer(name, **{**values, **members})


def _providers(*offers: tuple[str, Offer]) -> list[str]:
    return [upstream["provider"] for upstream in model_entry("openai/m", list(offers), 0)["upstreams"]]


@pytest.mark.parametrize(
    ("native", "openrouter", "order"),
    [
        (_offer(), _offer(), ["openai", "openrouter"]),
        (_offer(price=DEAR), _offer(), ["openrouter", "openai"]),
        (_offer(price=None), _offer(), ["openai", "openrouter"]),
        (_offer(), _offer(price=DEAR), ["openai", "openrouter"]),
        (_offer(context_window=79), _offer(), ["openrouter", "openai"]),
        (_offer(context_window=80), _offer(), ["openai", "openrouter"]),
        (_offer(context_window=None, max_output_tokens=None), _offer(), ["openai", "openrouter"]),
    ],
    ids=["alike", "dear", "unknown price", "cheap", "short", "short by the answer", "unknown window"],
)
def test_who_is_asked_first(native: Offer, openrouter: Offer, order: list[str]) -> None:
    """The maker, unless it charges more or holds less than nine tenths; what nobody knows counts as alike."""
    assert _providers(("openai", native), ("openrouter", openrouter)) == order


def test_of_two_limits_the_larger_is_taken() -> None:
    """OpenRouter's or the maker's: holds must not be too small; what a host of others says is not asked."""
    offers = [
        ("openai", _offer(context_window=300, max_output_tokens=None)),
        ("groq", _offer(context_window=900, max_output_tokens=900)),
        ("openrouter", _offer(context_window=200, max_output_tokens=50)),
    ]
    model = model_entry("openai/m", offers, 0)
    assert (model["context_window"], model["max_output_tokens"]) == (300, 50)


def test_an_answer_of_unknown_length_may_fill_the_window() -> None:
    """Where nobody says how long an answer may be, only the context window bounds it."""
    assert model_entry("x/m", [("openrouter", _offer(max_output_tokens=None))], 0)["max_output_tokens"] == 100


def test_what_nobody_tells_is_filled_in() -> None:
    """A model without a description has its name, and one without a date is as old as its first snapshot."""
    model = model_entry("x/m", [("openrouter", _offer(price=None))], 77)
    assert (model["description"], model["created"]) == ("m", 77)
    assert model["upstreams"] == [{"provider": "openrouter", "model": "m"}]


def test_a_price_has_a_tier_for_each_threshold_of_any_rate() -> None:
    """A rate without a tier of its own stays what it is in every tier."""
    tiers = [SimpleNamespace(start=200_000, price=Decimal("2.5"))]
    prices = SimpleNamespace(
        input_mtok=SimpleNamespace(base=Decimal("1.25"), tiers=tiers),
        output_mtok=Decimal(10),
        cache_read_mtok=None,
        cache_write_mtok=Decimal("0.10"),
    )
    assert genai_price(prices) == {
        "input": "1.25",
        "output": "10",
        "cache_write": "0.1",
        "tiers": [{"above_prompt_tokens": 200_000, "input": "2.5", "output": "10", "cache_write": "0.1"}],
    }
    assert genai_price(SimpleNamespace(input_mtok=Decimal(1))) is None


def test_floats_are_read_as_they_were_written() -> None:
    """litellm has dollars for one token as floats; their shortest texts are exact, and tiers inherit what they omit."""
    value = {
        "input_cost_per_token": 1.5e-07,
        "output_cost_per_token": 6e-07,
        "cache_read_input_token_cost": 7.5e-08,
        "input_cost_per_token_above_200k_tokens": 3e-07,
    }
    assert litellm_price(value) == {
        "input": "0.15",
        "output": "0.6",
        "cached_input": "0.075",
        "tiers": [{"above_prompt_tokens": 200_000, "input": "0.3", "output": "0.6", "cached_input": "0.075"}],
    }
    assert litellm_price({"input_cost_per_token": 1e-6}) is None


@pytest.mark.parametrize(
    ("amount", "text"), [("0.150", "0.15"), ("1E+2", "100"), ("0", "0"), ("1E-7", "0"), ("0.0000005", "0")]
)
def test_amounts_have_plain_texts(amount: str, text: str) -> None:
    """No exponent, no zeros at the end, and six decimals at most, as prices are read."""
    assert usd_text(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("day", "first"), [("2026-03-04", "2026-03-04"), ("2026-03", "2026-03-01"), ("2026", "2026-01-01")]
)
def test_days_may_be_told_roughly(day: str, first: str) -> None:
    """A month or a year begins with its first day."""
    assert midnight_s(day) == (date.fromisoformat(first) - date(1970, 1, 1)).days * 86_400


def test_a_model_is_a_line() -> None:
    """So that a change of one is a line in a diff, and the whole is JSON."""
    text = snapshot_text({"date": "2026-11-25"}, [{"id": "a/b"}, {"id": "ü"}])
    assert text == '{"date": "2026-11-25", "models": [\n{"id":"a/b"},\n{"id":"ü"}\n]}\n'
