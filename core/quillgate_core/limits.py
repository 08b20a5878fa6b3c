"""The limits that a reservation is checked against, and how far one is used. Pure declarations."""

from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias

LimitName: TypeAlias = Literal[
    "daily_message_allowance",
    "monthly_message_allowance",
    "key_daily_messages",
    "key_monthly_messages",
    "key_requests_per_minute",
    "key_tokens_per_minute",
    "key_concurrent_requests",
]
"""The first two are the workspace's, the others the key's."""

MESSAGE_LIMITS: Final[frozenset[LimitName]] = frozenset(
    {"daily_message_allowance", "monthly_message_allowance", "key_daily_messages", "key_monthly_messages"}
)
"""Those in messages."""


class LimitState(NamedTuple):
    """One limit: its value and what is left of it, at least 0, in messages, requests or tokens."""

    limit: LimitName
    value: int
    remaining: int
    reset_time: datetime | None
    """When all of it is there again, if nothing more is used; None for requests that run."""
