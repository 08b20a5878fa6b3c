"""What an answer's head says of the limits that the request is under, in our words and in OpenAI's.

OpenAI's clients read `x-ratelimit-*`. For a key with a limit of requests or tokens a minute they tell that. Otherwise
they tell the tightest limit in messages: a request counts at least one, and one stands for 16,000 tokens, so what is
left of it bounds both the requests and the tokens until it resets.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from quillgate.v1.metering_service_pb2 import (
    LIMIT_DAILY_MESSAGE_ALLOWANCE,
    LIMIT_KEY_DAILY_MESSAGES,
    LIMIT_KEY_MONTHLY_MESSAGES,
    LIMIT_KEY_REQUESTS_PER_MINUTE,
    LIMIT_KEY_TOKENS_PER_MINUTE,
    LIMIT_MONTHLY_MESSAGE_ALLOWANCE,
    LimitState,
    Receipt,
    Reservation,
)

REMAINING_HEADER = "x-quillgate-messages-remaining"
TOKENS_PER_MESSAGE = 16_000

MESSAGE_LIMITS = frozenset(
    {
        LIMIT_DAILY_MESSAGE_ALLOWANCE,
        LIMIT_MONTHLY_MESSAGE_ALLOWANCE,
        LIMIT_KEY_DAILY_MESSAGES,
        LIMIT_KEY_MONTHLY_MESSAGES,
    }
)
"""The limits whose unit is messages."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY_S = 86_400


def utc_now() -> datetime:
    """Returns the time."""
    return datetime.now(UTC)


def allowance_headers(account: Receipt | Reservation, now: Callable[[], datetime] = utc_now) -> dict[str, str]:
    """Returns the headers for what is left after this request; none where nothing is limited.

    Of a receipt, what is left of the day's allowance is after the charge, and of other limits as at the reservation.
    """
    states = {state.limit: state for state in account.limits}
    day = _day_of(account)
    if day is not None:
        states[LIMIT_DAILY_MESSAGE_ALLOWANCE] = day
    if not states:
        return {REMAINING_HEADER: str(account.remaining_messages)} if account.HasField("remaining_messages") else {}
    headers: dict[str, str] = {}
    rates = {"requests": states.get(LIMIT_KEY_REQUESTS_PER_MINUTE), "tokens": states.get(LIMIT_KEY_TOKENS_PER_MINUTE)}
    tightest = tightest_of(states.values())
    if tightest is not None:
        headers[REMAINING_HEADER] = str(tightest.remaining)
        rates["requests"] = rates["requests"] or tightest
        rates["tokens"] = rates["tokens"] or in_tokens(tightest)
    elif account.HasField("remaining_messages"):
        headers[REMAINING_HEADER] = str(account.remaining_messages)
    time = now()
    for unit, state in rates.items():
        if state is not None:
            headers.update(rate_headers(unit, state, time))
    return headers


def tightest_of(states: Iterable[LimitState]) -> LimitState | None:
    """Returns the limit in messages of which least is left, the one that lasts longest among equals; None of none."""
    limits = [state for state in states if state.limit in MESSAGE_LIMITS]
    return min(limits, key=lambda state: (state.remaining, -state.reset_time.seconds), default=None)


def rate_headers(unit: str, state: LimitState, now: datetime) -> dict[str, str]:
    """Returns OpenAI's three headers of a limit; `unit` is `requests` or `tokens`."""
    headers = {
        f"x-ratelimit-limit-{unit}": str(state.value),
        f"x-ratelimit-remaining-{unit}": str(state.remaining),
    }
    if state.HasField("reset_time"):
        headers[f"x-ratelimit-reset-{unit}"] = _until(state.reset_time, now)
    return headers


def _day_of(account: Receipt | Reservation) -> LimitState | None:
    """Returns the state of the day's allowance, which accounts have in fields of its own too; None without a limit."""
    if not account.HasField("remaining_messages") or not account.HasField("daily_message_allowance"):
        return None
    state = LimitState(
        limit=LIMIT_DAILY_MESSAGE_ALLOWANCE,
        value=account.daily_message_allowance,
        remaining=account.remaining_messages,
    )
    state.reset_time.seconds = (date.fromisoformat(account.day) - _EPOCH.date()).days * _DAY_S + _DAY_S
    return state


def in_tokens(state: LimitState) -> LimitState:
    """Returns a limit in messages as one in tokens."""
    tokens = LimitState(value=state.value * TOKENS_PER_MESSAGE, remaining=state.remaining * TOKENS_PER_MESSAGE)
    if state.HasField("reset_time"):
        tokens.reset_time.CopyFrom(state.reset_time)
    return tokens


def _until(end: Timestamp, now: datetime) -> str:
    """Returns the time until then as OpenAI writes it, such as `6h3m0s`; at least `1s`, so that waiting helps."""
    late_us = (now - _EPOCH) // _MICROSECOND - end.seconds * 1_000_000 - end.nanos // 1_000
    seconds = max(1, -(late_us // 1_000_000))  # one that has begun counts
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
