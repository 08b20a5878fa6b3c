"""The headers that tell what is left of the day."""

from datetime import UTC, datetime, timedelta

import pytest

from quillgate.v1.metering_service_pb2 import Limit, LimitState, Receipt, Reservation
from quillgate_facade.allowance import allowance_headers


@pytest.mark.parametrize(
    ("hour", "minute", "second", "reset"),
    [(17, 57, 0, "6h3m0s"), (23, 58, 59, "1m1s"), (23, 59, 58, "2s"), (0, 0, 0, "24h0m0s")],
)
def test_what_is_left_in_both_words(hour: int, minute: int, second: int, reset: str) -> None:
    """The allowance is told in messages, and in OpenAI's words as the bounds of requests and tokens until midnight."""
    receipt = Receipt(day="2030-01-01", remaining_messages=3, daily_message_allowance=10)
    now = datetime(2030, 1, 1, hour, minute, second, tzinfo=UTC)
    assert allowance_headers(receipt, lambda: now) == {
        "x-quillgate-messages-remaining": "3",
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-limit-tokens": "160000",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-remaining-tokens": "48000",
        "x-ratelimit-reset-requests": reset,
        "x-ratelimit-reset-tokens": reset,
    }


def test_after_the_day_is_over() -> None:
    """A request that ends after midnight is told to come back in a second: its day's allowance is reset."""
    receipt = Receipt(day="2030-01-01", remaining_messages=0, daily_message_allowance=1)
    headers = allowance_headers(receipt, lambda: datetime(2030, 1, 2, 0, 5, tzinfo=UTC))
    assert headers["x-ratelimit-reset-requests"] == "1s"


NOW = datetime(2030, 1, 1, 23, 58, 0, tzinfo=UTC)


def _state(name: str, value: int, remaining: int, reset: datetime | None = None) -> LimitState:
    """A limit that is whole again then; of requests that run nobody knows."""
    state = LimitState(limit=Limit.Value(f"LIMIT_{name}"), value=value, remaining=remaining)
    if reset is not None:
        state.reset_time.FromDatetime(reset)
    return state


MIDNIGHT, NEXT_MONTH = datetime(2030, 1, 2, tzinfo=UTC), datetime(2030, 2, 1, tzinfo=UTC)
DAY = _state("DAILY_MESSAGE_ALLOWANCE", 10, 8, MIDNIGHT)
MONTH = _state("MONTHLY_MESSAGE_ALLOWANCE", 100, 20, NEXT_MONTH)
KEY_DAY = _state("KEY_DAILY_MESSAGES", 7, 5, MIDNIGHT)
KEY_MONTH = _state("KEY_MONTHLY_MESSAGES", 9, 5, NEXT_MONTH)
REQUESTS = _state("KEY_REQUESTS_PER_MINUTE", 60, 59, datetime(2030, 1, 1, 23, 59, 0, 500_000, tzinfo=UTC))
TOKENS = _state("KEY_TOKENS_PER_MINUTE", 90_000, 70_000, datetime(2030, 1, 1, 23, 58, 30, tzinfo=UTC))
AT_ONCE = _state("KEY_CONCURRENT_REQUESTS", 3, 0)


def _headers(*limits: LimitState, **fields: int) -> dict[str, str]:
    reservation = Reservation(day="2030-01-01", limits=limits, **fields)  # type: ignore[arg-type]
    return allowance_headers(reservation, lambda: NOW)


def _messages(limit: int, remaining: int, reset: str) -> dict[str, str]:
    """What is told of a limit in messages."""
    return {
        "x-quillgate-messages-remaining": str(remaining),
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-limit-tokens": str(limit * 16_000),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-remaining-tokens": str(remaining * 16_000),
        "x-ratelimit-reset-requests": reset,
        "x-ratelimit-reset-tokens": reset,
    }


RPM = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1m1s",
}
TPM = {
    "x-ratelimit-limit-tokens": "90000",
    "x-ratelimit-remaining-tokens": "70000",
    "x-ratelimit-reset-tokens": "30s",
}


def test_the_tightest_limit_in_messages_is_told() -> None:
    """The least that is left bounds what can be used, whoever's limit it is; of equals the one that lasts longest."""
    assert _headers(DAY, MONTH) == _messages(10, 8, "2m0s")
    assert _headers(DAY, MONTH, KEY_DAY) == _messages(7, 5, "2m0s")
    assert _headers(DAY, MONTH, KEY_DAY, KEY_MONTH) == _messages(9, 5, "720h2m0s")


def test_limits_by_the_minute_come_first() -> None:
    """Where a key has a limit of requests or tokens a minute, OpenAI's headers tell that, and ours the messages."""
    assert _headers(REQUESTS, TOKENS) == RPM | TPM
    assert _headers(DAY, REQUESTS) == _messages(10, 8, "2m0s") | RPM
    assert _headers(DAY, TOKENS, KEY_DAY) == _messages(7, 5, "2m0s") | TPM


def test_requests_that_run_are_not_told() -> None:
    """OpenAI has no word for a limit of requests at once."""
    assert _headers(AT_ONCE) == {}


def test_what_is_left_after_the_charge_is_newer() -> None:
    """A receipt knows what is left of the day after the charge; its limits are as they stood at the reservation."""
    assert _headers(DAY, MONTH, remaining_messages=9, daily_message_allowance=10) == _messages(10, 9, "2m0s")


def test_without_a_limit() -> None:
    """A workspace without a limit hears of none."""
    assert allowance_headers(Receipt(day="2030-01-01")) == {}


@pytest.mark.parametrize(
    ("end", "now", "reset"),
    [(10_200_000, 9_900_000, "1s"), (10_200_000, 9_199_999, "2s"), (11_000_000, 9_000_000, "2s")],
)
def test_a_second_that_has_begun_counts(end: int, now: int, reset: str) -> None:
    """To the microsecond, whatever the parts of a second are."""
    minute = datetime(2030, 1, 1, tzinfo=UTC)
    state = _state("KEY_REQUESTS_PER_MINUTE", 60, 59, minute + timedelta(microseconds=end))
    reservation = Reservation(day="2030-01-01", limits=[state])
    headers = allowance_headers(reservation, lambda: minute + timedelta(microseconds=now))
    assert headers["x-ratelimit-reset-requests"] == reset
