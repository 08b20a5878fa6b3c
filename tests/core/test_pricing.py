"""What a usage costs is exact: the code against a slow reference in fractions, and the texts against themselves."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from quillgate_core.counting import MAX_TOKENS, Usage, sane
from quillgate_core.pricing import MAX_COST_PICODOLLARS, PICODOLLARS, Price, PriceTier, per_token, usd_per_token

usd = st.decimals(0, 999_999, places=6, allow_nan=False).map(lambda amount: f"{amount:f}")
maybe_usd = st.none() | usd


@st.composite
def tiers(draw: st.DrawFn) -> PriceTier:
    """A tier anywhere."""
    return PriceTier(draw(st.integers(1, 2 * 10**6)), draw(usd), draw(usd), draw(maybe_usd), draw(maybe_usd))


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """A price with up to three tiers, in any order."""
    return Price(
        draw(usd),
        draw(usd),
        draw(maybe_usd),
        draw(maybe_usd),
        tuple(draw(st.lists(tiers(), max_size=3, unique_by=lambda tier: tier.above_prompt_tokens))),
    )


@st.composite
def usages(draw: st.DrawFn, most: int = 3 * 10**6) -> Usage:
    """A sane usage."""
    prompt = draw(st.integers(0, most))
    return Usage(prompt, draw(st.integers(0, prompt)), draw(st.integers(0, most)))


def _reference(price: Price, usage: Usage, written: int) -> Fraction:
    """The cost in dollars, token by kind of token."""
    passed = [tier for tier in price.tiers if usage.prompt_tokens > tier.above_prompt_tokens]
    rates: Price | PriceTier = max(passed, key=lambda tier: tier.above_prompt_tokens, default=price)  # type: ignore[type-var, arg-type]
    cached = rates.cached_input if rates.cached_input is not None else rates.input
    write = rates.cache_write if rates.cache_write is not None else rates.input
    uncached = usage.prompt_tokens - usage.cached_tokens
    written = max(0, min(written, uncached))
    parts = [
        (uncached - written, rates.input),
        (usage.cached_tokens, cached),
        (written, write),
        (usage.completion_tokens, rates.output),
    ]
    return sum((tokens * Fraction(rate) / 10**6 for tokens, rate in parts), Fraction(0))


@given(prices(), usages(), st.integers(-5, 4 * 10**6))
def test_cost_is_exact(price: Price, usage: Usage, written: int) -> None:
    """Whole picodollars, equal to the reference in fractions; more written than there is counts as what there is."""
    cost = _reference(price, usage, written) * PICODOLLARS
    assert cost.denominator == 1
    expected = min(int(cost), MAX_COST_PICODOLLARS)
    told = sane(replace(usage, cache_write_tokens=written))[0]
    assert price.cost_picodollars(told) == expected


@pytest.mark.parametrize(("prompt", "cost"), [(1_000, 1_000), (1_001, 2_002), (2_000, 4_000), (2_001, 6_003)])
def test_a_tier_begins_above_its_threshold(prompt: int, cost: int) -> None:
    """A prompt of as many tokens as the threshold still costs the lower price; one more, and all cost the higher."""
    price = Price("1", "0", tiers=(PriceTier(2_000, "3", "0"), PriceTier(1_000, "2", "0")))
    assert price.cost_picodollars(Usage(prompt_tokens=prompt)) == cost * 10**6


def test_a_tier_says_all_of_its_prices() -> None:
    """What a tier leaves open costs as its own input, not as the base price says."""
    price = Price("1", "1", "0.1", "1.25", tiers=(PriceTier(10, "2", "3"),))
    usage = Usage(prompt_tokens=100, cached_tokens=40, completion_tokens=1, cache_write_tokens=10)
    assert price.cost_picodollars(usage) == (100 * 2 + 3) * 10**6


def test_free_is_free() -> None:
    """A price of nothing is a price, also for cached tokens."""
    price = Price("5", "0", cached_input="0")
    assert price.cost_picodollars(Usage(prompt_tokens=7, cached_tokens=7, completion_tokens=9)) == 0


def test_no_cost_is_more_than_the_ledger_holds() -> None:
    """The dearest price for the longest usage stays within the column."""
    usage = Usage(MAX_TOKENS, 0, MAX_TOKENS)
    assert Price("999999", "999999").cost_picodollars(usage) == MAX_COST_PICODOLLARS


@given(usd)
def test_price_of_a_token_is_exact(text: str) -> None:
    """The text of one token's price is that of a million's, without an exponent or zeros at its end."""
    token = usd_per_token(text)
    assert Fraction(token) * 10**6 == Fraction(text)
    assert Fraction(per_token(text), PICODOLLARS) == Fraction(token)
    assert "e" not in token.lower()
    assert token == "0" or not token.endswith(".")
    assert "." not in token or not token.endswith("0")


@pytest.mark.parametrize(
    ("million", "token"),
    [("0.15", "0.00000015"), ("0", "0"), ("0.000001", "0.000000000001"), ("10", "0.00001"), ("250000", "0.25")],
)
def test_price_of_a_token_as_clients_read_it(million: str, token: str) -> None:
    """The texts are those that OpenRouter's own list has."""
    assert usd_per_token(million) == token


@pytest.mark.parametrize("text", ["-1", "1e3", ".5", "1.", "1.0000001", "1000000", "NaN", "", " 1", "1,5"])
def test_what_is_no_price_is_refused(text: str) -> None:
    """A price that could not be exact is refused when it is read, not rounded."""
    for member in ("input", "output", "cached_input", "cache_write"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"input": "1", "output": "1", member: text}, Price)
