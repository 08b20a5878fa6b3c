"""Events of a whole service at a real receiver: told as traffic comes, once by two cores, again after a crash."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from fakes.webhook_receiver import SECRET, Heard, WebhookReceiver
from serve_process import environment, serving
from service import RunningService, Tenant, start_service

READY = r"^Your key +\S+.*\n"


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    """The operator's receiver."""
    async with WebhookReceiver() as receiver:
        yield receiver


def settings(receiver: WebhookReceiver) -> dict[str, str]:
    """What an operator sets."""
    return {"QUILLGATE_WEBHOOK_URL": receiver.url, "QUILLGATE_WEBHOOK_SECRET": SECRET}


@pytest.fixture
async def hooked(database_url: str, tmp_path: Path, receiver: WebhookReceiver) -> AsyncIterator[RunningService]:
    """A service that tells the receiver."""
    async with start_service(database_url, tmp_path, **settings(receiver)) as service:
        yield service


async def ask(service: RunningService, key: str) -> int:
    """Has one message counted."""
    body = {"model": "quillgate/echo", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{service.base_url}/chat/completions", json=body) as response,
    ):
        await response.read()
        return response.status


async def all_delivered(service: RunningService, count: int, *, timeout_s: float = 30.0) -> None:
    """Waits until so many events are there and none is due any more."""
    query = "SELECT count(*), count(deliver_time), count(next_attempt_time) FROM allowance_events"
    async with asyncio.timeout(timeout_s):
        while await service.rows(query) != [(count, count, 0)]:
            await asyncio.sleep(0.05)


def told(heard: list[Heard], workspace_id: str) -> list[tuple[str, int, int, int]]:
    """What was heard of a workspace: the limit, the percentage, the count and the allowance."""
    data = [request.event["data"] for request in heard]
    names = ("limit", "percent", "message_count", "allowance_messages")
    found: list[Any] = [tuple(each[name] for name in names) for each in data if each["workspace_id"] == workspace_id]
    return found


async def test_the_operator_hears_what_is_used(hooked: RunningService, receiver: WebhookReceiver) -> None:
    """Each percentage when it is reached, in order, signed; a refused request adds nothing."""
    tenant = await hooked.tenant(allowance=2)
    assert await ask(hooked, tenant.key) == 200
    await all_delivered(hooked, 1)
    assert [await ask(hooked, tenant.key) for _ in range(2)] == [200, 429]
    await all_delivered(hooked, 3)
    daily = "daily_message_allowance"
    assert told(receiver.heard, tenant.workspace_id) == [(daily, 50, 1, 2), (daily, 80, 2, 2), (daily, 100, 2, 2)]
    assert all(request.is_signed_with(SECRET) for request in receiver.heard)
    ids = await hooked.rows("SELECT event_id FROM allowance_events ORDER BY percent")
    assert [request.message_id for request in receiver.heard] == [event_id for (event_id,) in ids]


async def test_a_month_is_told_beside_its_days(hooked: RunningService, receiver: WebhookReceiver) -> None:
    """The monthly allowance has events of its own, from the month's sum."""
    tenant = await hooked.tenant()
    await hooked.rows(
        "UPDATE workspaces SET monthly_message_allowance = 2 WHERE workspace_id = %s RETURNING 1", tenant.workspace_id
    )
    assert await ask(hooked, tenant.key) == 200
    await all_delivered(hooked, 1)
    assert told(receiver.heard, tenant.workspace_id) == [("monthly_message_allowance", 50, 1, 2)]


async def test_a_refused_event_comes_again(hooked: RunningService, receiver: WebhookReceiver) -> None:
    """The same id and body, with a new time and signature; the higher percentages do not wait for it."""
    receiver.script = [503]
    tenant = await hooked.tenant(allowance=1)
    assert await ask(hooked, tenant.key) == 200
    await all_delivered(hooked, 3)
    assert [request.event["data"]["percent"] for request in receiver.heard[:1]] == [50]
    first, *others = [request for request in receiver.heard if request.message_id.endswith("_50")]
    (again,) = others
    assert (again.message_id, again.body) == (first.message_id, first.body)
    assert int(again.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    assert again.is_signed_with(SECRET)
    assert await hooked.rows("SELECT percent, attempt_count FROM allowance_events ORDER BY 1") == [
        (50, 2),
        (80, 1),
        (100, 1),
    ]


async def test_a_receiver_that_hangs_harms_no_request(hooked: RunningService, receiver: WebhookReceiver) -> None:
    """While an attempt is under way, requests are answered and settled as ever."""
    receiver.status = 0
    tenant = await hooked.tenant(allowance=10)
    assert [await ask(hooked, tenant.key) for _ in range(5)] == [200] * 5
    await receiver.wait_for(1)
    async with asyncio.timeout(5):
        assert [await ask(hooked, tenant.key) for _ in range(6)] == [200] * 5 + [429]
    assert (await hooked.settled(tenant))[0] == 10


async def test_without_a_url_no_events_are_made(database_url: str, tmp_path: Path) -> None:
    """A core that has nobody to tell leaves no rows behind; one that has, on the same database, tells all of today."""
    async with start_service(database_url, tmp_path) as service:
        tenant = await service.tenant(allowance=1)
        assert await ask(service, tenant.key) == 200
        admin_key = service.admin_key
        await asyncio.sleep(3.5)  # longer than the period of the chore
        assert await service.rows("SELECT * FROM allowance_events") == []
    async with (
        WebhookReceiver() as receiver,
        start_service(database_url, tmp_path, admin_key=admin_key, **settings(receiver)) as service,
    ):
        await all_delivered(service, 3)


async def test_two_cores_deliver_once(database_url: str, tmp_path: Path, receiver: WebhookReceiver) -> None:
    """Whichever notices and whichever sends: every event of every workspace arrives once, in its order."""
    hooks = settings(receiver)
    async with (
        start_service(database_url, tmp_path, **hooks) as first,
        start_service(database_url, tmp_path, admin_key=first.admin_key, **hooks) as second,
    ):
        cores = (first, second)
        tenants = [await first.tenant(allowance=1) for _ in range(12)]

        async def use(number: int, tenant: Tenant) -> int:
            return await ask(cores[number % 2], tenant.key)

        assert await asyncio.gather(*(use(*pair) for pair in enumerate(tenants))) == [200] * 12
        await all_delivered(first, 36)
    assert len({request.message_id for request in receiver.heard}) == len(receiver.heard) == 36
    for tenant in tenants:
        assert [event[1] for event in told(receiver.heard, tenant.workspace_id)] == [50, 80, 100]


@pytest.mark.slow
async def test_a_core_that_dies_while_it_sends(database_url: str, tmp_path: Path, receiver: WebhookReceiver) -> None:
    """The receiver may have heard it or not: whoever runs next sends it again, under the same id."""
    receiver.script = [0]
    environ = environment(tmp_path, QUILLGATE_DATABASE_URL=database_url, **settings(receiver))
    connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
    async with connection:
        with serving(["--new-key"], environ, ready=READY) as core:
            await connection.execute("UPDATE workspaces SET daily_message_allowance = 2")
            body = {"model": "quillgate/echo", "messages": [{"role": "user", "content": "Hi"}]}
            headers = {"authorization": f"Bearer {core.find('Your key')}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                await session.post(f"{core.base_url}/chat/completions", json=body)
            await receiver.wait_for(1)
            core.process.send_signal(signal.SIGKILL)
            core.process.wait(10)
        query = "SELECT event_id, attempt_count FROM allowance_events"
        (row,) = await (await connection.execute(query)).fetchall()
        assert row == (receiver.heard[0].message_id, 0)
        # What the claim's minute would bring.
        await connection.execute("UPDATE allowance_events SET next_attempt_time = clock_timestamp()")
        with serving([], environ, ready=r"^Base URL"):
            await receiver.wait_for(2)
    first, again = receiver.heard
    assert (first.message_id, first.body) == (again.message_id, again.body)
