"""What a provider charges for a usage, at its list price, exactly: integers of picodollars and nothing else. Pure.

A price is written as people write it, decimal texts of USD for a million tokens, such as "0.15"; a millionth of a
dollar for a million tokens is one picodollar for a token. It must not guess: a usage without a price has no cost.
"""

from decimal import Decimal
from typing import Annotated, Final

import msgspec

from quillgate_core.counting import Usage

PICODOLLARS: Final = 10**12
"""Picodollars in a dollar."""

_Usd = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?$")]


class PriceTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a long prompt costs: for all tokens of a request of more than `above_prompt_tokens`."""

    above_prompt_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
    input: _Usd
    output: _Usd
    cached_input: _Usd | None = None
    cache_write: _Usd | None = None


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a million tokens cost in USD; cached or written ones cost as `input` where nothing else is said."""

    input: _Usd
    output: _Usd
    cached_input: _Usd | None = None
    cache_write: _Usd | None = None
    tiers: tuple[PriceTier, ...] = ()

    def cost_picodollars(self, usage: Usage) -> int:
        """Returns what a sane usage costs."""
        rates: Price | PriceTier = self
        for tier in sorted(self.tiers, key=lambda tier: tier.above_prompt_tokens):
            if usage.prompt_tokens > tier.above_prompt_tokens:
                rates = tier
        written = usage.cache_write_tokens
        plain = usage.prompt_tokens - usage.cached_tokens - written
        return (
            plain * per_token(rates.input)
            + usage.cached_tokens * per_token(rates.cached_input or rates.input)
            + written * per_token(rates.cache_write or rates.input)
            + usage.completion_tokens * per_token(rates.output)
        )


def per_token(usd_for_a_million: str) -> int:
    """Returns the picodollars of one token: "0.15" is 150,000."""
    return int(Decimal(usd_for_a_million) * 10**6)
