"""Prices for people: USD for a million tokens, from the contract's USD for one. Pure and exact."""

from decimal import Decimal, InvalidOperation

from quillgate.v1.model_service_pb2 import ModelPricing, ModelPricingTier

UNKNOWN = "unknown"


def per_million(usd_for_a_token: str) -> str:
    """Returns the price of a million tokens, such as `0.15`; "unknown" for what is no price."""
    try:
        amount = Decimal(usd_for_a_token).scaleb(6)
    except InvalidOperation:
        return UNKNOWN
    if not amount.is_finite() or abs(amount) >= 10**9:
        return UNKNOWN
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def price_lines(pricing: ModelPricing) -> list[str]:
    """Returns what a model costs, a line for the usual price and one for each tier of long prompts."""
    return [
        _line(pricing),
        *(f"prompts above {tier.above_prompt_tokens:,}: {_line(tier)}" for tier in pricing.tiers),
    ]


def _line(rates: ModelPricing | ModelPricingTier) -> str:
    parts = [f"in {per_million(rates.prompt)}", f"out {per_million(rates.completion)}"]
    if rates.HasField("input_cache_read"):
        parts.append(f"cached {per_million(rates.input_cache_read)}")
    if rates.HasField("input_cache_write"):
        parts.append(f"cache write {per_million(rates.input_cache_write)}")
    return ", ".join(parts)
