"""The headers that tell what is left of the day."""

from datetime import UTC, datetime

import pytest

from quillgate.v1.metering_service_pb2 import Receipt
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


def test_without_a_limit() -> None:
    """A workspace without a limit hears of none."""
    assert allowance_headers(Receipt(day="2030-01-01")) == {}
