"""What a provider charges for a usage, at its list price, exactly: integers of picodollars and nothing else. Pure.

A price is written as people write it, decimal texts of USD for a million tokens, such as "0.15"; a millionth of a
dollar for a million tokens is one picodollar for a token. It must not guess: a usage without a price has no cost.
"""

from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Final

import msgspec

from quillgate_core.counting import Usage

PICODOLLARS: Final = 10**12
"""Picodollars in a dollar."""

MAX_COST_PICODOLLARS: Final = 2**63 - 1
"""The most that a cost can be, nine million dollars: what a column of the ledger holds."""

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
        """Returns what a sane usage costs.

        A cost that the ledger could not hold is MAX_COST_PICODOLLARS: a price or a usage is nonsense then.
        """
        rates: Price | PriceTier = self
        for tier in sorted(self.tiers, key=lambda tier: tier.above_prompt_tokens):
            if usage.prompt_tokens > tier.above_prompt_tokens:
                rates = tier
        written = usage.cache_write_tokens
        plain = usage.prompt_tokens - usage.cached_tokens - written
        cost = (
            plain * per_token(rates.input)
            + usage.cached_tokens * per_token(rates.cached_input or rates.input)
            + written * per_token(rates.cache_write or rates.input)
            + usage.completion_tokens * per_token(rates.output)
        )
        return min(cost, MAX_COST_PICODOLLARS)


@lru_cache(maxsize=4_096)
def per_token(usd_for_a_million: str) -> int:
    """Returns the picodollars of one token: "0.15" is 150,000."""
    return int(Decimal(usd_for_a_million) * 10**6)


@lru_cache(maxsize=4_096)
def usd_per_token(usd_for_a_million: str) -> str:
    """Returns the price of one token as an exact decimal text of USD: "0.15" is "0.00000015"; never an exponent."""
    text = f"{Decimal(usd_for_a_million).scaleb(-6):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
