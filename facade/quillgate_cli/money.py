"""Shows costs to people. Pure."""

from decimal import Decimal

_PICODOLLARS = 10**12


def dollars(picodollars: int, *, requests: int, unpriced_requests: int) -> str:
    """Returns a cost in USD; `+` where some requests' price is not known, `unknown` where that is so of all."""
    if requests and unpriced_requests >= requests:
        return "unknown"
    return f"{Decimal(picodollars) / _PICODOLLARS:,.4f}" + ("+" if unpriced_requests else "")
