"""What an answer's head says of the workspace's daily allowance, in our words and in OpenAI's.

OpenAI's clients read `x-ratelimit-*`. The one limit there is, is the allowance of messages: a request counts at least
one, and one stands for 16,000 tokens, so what is left of it bounds both the requests and the tokens of the day.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

from quillgate.v1.metering_service_pb2 import Receipt, Reservation

REMAINING_HEADER = "x-quillgate-messages-remaining"
TOKENS_PER_MESSAGE = 16_000


def utc_now() -> datetime:
    """Returns the time."""
    return datetime.now(UTC)


def allowance_headers(account: Receipt | Reservation, now: Callable[[], datetime] = utc_now) -> dict[str, str]:
    """Returns the headers for what is left after this request; none for a workspace without a limit."""
    if not account.HasField("remaining_messages"):
        return {}
    left = account.remaining_messages
    headers = {REMAINING_HEADER: str(left)}
    if account.HasField("daily_message_allowance"):
        allowance, reset = account.daily_message_allowance, _until_end_of(account.day, now())
        headers |= {
            "x-ratelimit-limit-requests": str(allowance),
            "x-ratelimit-limit-tokens": str(allowance * TOKENS_PER_MESSAGE),
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-remaining-tokens": str(left * TOKENS_PER_MESSAGE),
            "x-ratelimit-reset-requests": reset,
            "x-ratelimit-reset-tokens": reset,
        }
    return headers


def _until_end_of(day: str, now: datetime) -> str:
    """Returns the time until the UTC day is over as OpenAI writes it, such as `6h3m0s`; at least `1s`."""
    end = datetime.combine(date.fromisoformat(day), time(), UTC) + timedelta(days=1)
    seconds = max(1, round((end - now).total_seconds()))
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
