"""Posting events: what arrives, how it is signed, and what each answer and silence means."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from fakes.webhook_receiver import OTHER_SECRET, SECRET, WebhookReceiver

from quillgate_core.allowance_event import AllowanceEvent, Attempt
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.webhook import Webhook
from quillgate_core.secret import Secret
from quillgate_core.webhook_target import WebhookTarget

NOW = 1_903_910_400.9
EVENT = AllowanceEvent(
    event_id="evt_ws_1_2030-05-01_80",
    workspace_id="ws_1",
    workspace_name="Forschung & Lehre ☂",
    period="2030-05-01",
    percent=80,
    allowance_messages=500,
    message_count=401,
    create_time=datetime(2030, 5, 1, 12, 30, 0, 5, UTC),
    attempt_count=0,
)


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    """The operator's receiver."""
    async with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
async def pool() -> AsyncIterator[HttpPool]:
    """The connections of a process."""
    pool = HttpPool()
    yield pool
    await pool.close()


def webhook(url: str, pool: HttpPool, *, secrets: str = SECRET, send_s: float = 5.0) -> Webhook:
    """The sender, at a time that stands still."""
    return Webhook(WebhookTarget(Secret(url), Secret(secrets)), pool, send_s=send_s, clock=lambda: NOW)


async def test_an_event_arrives_signed(receiver: WebhookReceiver, pool: HttpPool) -> None:
    """The body says all there is to know, the headers are those of the specification, and the signature fits both."""
    assert await webhook(receiver.url, pool).send(EVENT) == Attempt(is_delivered=True)
    (heard,) = receiver.heard
    assert heard.event == {
        "type": "allowance.reached",
        "timestamp": "2030-05-01T12:30:00.000005Z",
        "data": {
            "workspace_id": "ws_1",
            "workspace_name": "Forschung & Lehre ☂",
            "limit": "daily_message_allowance",
            "period": "2030-05-01",
            "percent": 80,
            "allowance_messages": 500,
            "message_count": 401,
            "reset_time": "2030-05-02T00:00:00Z",
        },
    }
    assert heard.headers["content-type"] == "application/json"
    assert (heard.message_id, heard.headers["webhook-timestamp"]) == ("evt_ws_1_2030-05-01_80", "1903910400")
    assert heard.is_signed_with(SECRET) and not heard.is_signed_with(OTHER_SECRET)


@pytest.mark.parametrize(
    ("period", "limit", "reset_time"),
    [
        ("2030-12-31", "daily_message_allowance", "2031-01-01T00:00:00Z"),
        ("2030-01", "monthly_message_allowance", "2030-02-01T00:00:00Z"),
        ("2028-02", "monthly_message_allowance", "2028-03-01T00:00:00Z"),
        ("2030-12", "monthly_message_allowance", "2031-01-01T00:00:00Z"),
    ],
)
async def test_a_period_ends_at_its_reset(
    receiver: WebhookReceiver, pool: HttpPool, period: str, limit: str, reset_time: str
) -> None:
    """A day ends at the next midnight, a month at the first of the next one, over the turn of a year as well."""
    event = AllowanceEvent("evt_1", "ws", "n", period, 50, 2, 1, datetime(2030, 5, 1, tzinfo=UTC), 0)
    await webhook(receiver.url, pool).send(event)
    data = receiver.heard[0].event["data"]
    assert (data["limit"], data["period"], data["reset_time"]) == (limit, period, reset_time)


async def test_a_time_of_another_zone_is_told_in_utc(receiver: WebhookReceiver, pool: HttpPool) -> None:
    """Whatever zone the database session has, the timestamp ends with Z."""
    there = EVENT.create_time.astimezone(timezone(timedelta(hours=5)))
    event = AllowanceEvent("evt_1", "ws", "n", "2030-05", 50, 2, 1, there, 0)
    await webhook(receiver.url, pool).send(event)
    assert receiver.heard[0].event["timestamp"] == "2030-05-01T12:30:00.000005Z"


async def test_a_receiver_may_verify_with_either_secret(receiver: WebhookReceiver, pool: HttpPool) -> None:
    """While the secret is changed, both the old and the new one verify."""
    await webhook(receiver.url, pool, secrets=f"{OTHER_SECRET} {SECRET}").send(EVENT)
    assert receiver.heard[0].is_signed_with(SECRET) and receiver.heard[0].is_signed_with(OTHER_SECRET)


@pytest.mark.parametrize("status", [200, 202, 204, 299])
async def test_2xx_is_a_delivery(receiver: WebhookReceiver, pool: HttpPool, status: int) -> None:
    """Every one of them."""
    receiver.status = status
    assert await webhook(receiver.url, pool).send(EVENT) == Attempt(is_delivered=True)


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 429, 500, 503])
async def test_any_other_status_is_a_failure(receiver: WebhookReceiver, pool: HttpPool, status: int) -> None:
    """Redirects too, which are not followed; all but 410 are worth another attempt."""
    receiver.status = status
    receiver.answer_headers = {"location": receiver.url.replace("hooks", "elsewhere")}
    assert await webhook(receiver.url, pool).send(EVENT) == Attempt(cause=f"status {status}")
    assert len(receiver.heard) == 1


async def test_410_is_final(receiver: WebhookReceiver, pool: HttpPool) -> None:
    """The receiver wants to hear no more of it."""
    receiver.status = 410
    assert await webhook(receiver.url, pool).send(EVENT) == Attempt(is_final=True, cause="status 410")


@pytest.mark.parametrize(
    ("value", "seconds"), [("120", 120), (" 7 ", 7), ("-1", 0), ("1e9", 0), ("9" * 400, 0), ("soon", 0), ("٣", 0)]
)
async def test_retry_after_is_read(receiver: WebhookReceiver, pool: HttpPool, value: str, seconds: int) -> None:
    """Whole seconds are heard; anything else counts as nothing said."""
    receiver.status, receiver.answer_headers = 503, {"retry-after": value}
    assert (await webhook(receiver.url, pool).send(EVENT)).retry_after_s == seconds


async def test_silence_is_a_failure_after_a_while(receiver: WebhookReceiver, pool: HttpPool) -> None:
    """A receiver that never answers is given up on, and its connection closed."""
    receiver.status = 0
    async with asyncio.timeout(5):
        attempt = await webhook(receiver.url, pool, send_s=0.1).send(EVENT)
    assert attempt == Attempt(cause="no answer within 0.1 s")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/?token=hunter2", "http://hunter2.invalid/", "http://a..b/hunter2"])
async def test_a_receiver_that_is_not_there_is_a_failure(
    pool: HttpPool, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens, no such host, or no host at all: a cause without the URL, which may hold a token."""
    with caplog.at_level(logging.DEBUG):
        attempt = await webhook(url, pool).send(EVENT)
    assert not attempt.is_delivered and not attempt.is_final
    assert attempt.cause and "hunter2" not in attempt.cause + caplog.text
