"""ListUsageBreakdown and ExportLedger: who may ask, what is translated, and that a slow reader slows us down."""

import asyncio
import gc
from datetime import UTC, datetime
from typing import Any

import pytest
from fakes.usage_stores import DAY, FakeExportStore, FakeUsageStore, group, make_views, make_views_service, row

from quillgate.v1 import metering_service_pb2 as pb
from quillgate_core.errors import InvalidRequest, Overloaded, ScopeMissing, WorkspaceNotFound
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, USAGE_READ, Principal
from quillgate_core.rpc.usage_views_service import BREAKDOWNS, MESSAGE_ROWS, UsageViewsService
from quillgate_core.usage_views import ExportAdjustment, ExportPlace


def principal(*scopes: str) -> Principal:
    """A key of `ws_1`."""
    return Principal("key_1", 1, "ws_1", frozenset(scopes or (USAGE_READ,)))


async def breakdown(store: FakeUsageStore, *scopes: str, **fields: Any) -> pb.ListUsageBreakdownResponse:
    """Asks for groups."""
    return await make_views_service(store).breakdown(principal(*scopes), pb.ListUsageBreakdownRequest(**fields))


async def exported(store: FakeExportStore, *scopes: str, **fields: Any) -> list[pb.ExportLedgerResponse]:
    """Every message of an export."""
    stream = make_views_service(export=store).export(principal(*scopes), pb.ExportLedgerRequest(**fields))
    return [message async for message in stream]


async def test_a_group_is_told_as_it_is() -> None:
    """Every member has its field."""
    made = group(key_id="key_1", key_name="laptop", model="m", endpoint="e", upstream="u", day=DAY, message_count=1)
    sums = {name: number for number, name in enumerate(made.__slots__[6:], start=1)}
    response = await breakdown(FakeUsageStore([group(**{**_fields(made), **sums})]))
    names = {"key_id": "key_1", "key_name": "laptop", "model": "m", "endpoint": "e", "upstream": "u"}
    assert response == pb.ListUsageBreakdownResponse(rows=[pb.UsageBreakdown(day="2030-01-01", **names, **sums)])


def _fields(made: Any) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__slots__}


async def test_every_dimension_is_asked_for() -> None:
    """The contract's dimensions are the store's, in any order, with the days and the limit."""
    store = FakeUsageStore()
    dimensions = [number for number in pb.UsageDimension.values() if number]
    await breakdown(store, dimensions=dimensions, start_day="2029-12-31", end_day="2030-01-01", limit=5)
    ((_, start_day, end_day, names, limit),) = store.asked
    assert names == ("key", "model", "endpoint", "upstream", "day")
    assert (start_day.isoformat(), end_day.isoformat(), limit) == ("2029-12-31", "2030-01-01", 6)


@pytest.mark.parametrize("number", [0, 99])
async def test_an_unknown_dimension_is_refused(number: int) -> None:
    """A dimension that this core does not know is not left out in silence."""
    with pytest.raises(InvalidRequest) as caught:
        await breakdown(FakeUsageStore(), dimensions=[number])
    assert caught.value.metadata == {"param": "dimensions", "code": "invalid_value"}


async def test_more_groups_are_told() -> None:
    """`truncated` says that the limit cut some off."""
    store = FakeUsageStore([group(model="a"), group(model="b")])
    assert (await breakdown(store, limit=1)).truncated
    assert not (await breakdown(store, limit=2)).truncated


async def test_few_breakdowns_run_at_once() -> None:
    """Those beyond the places wait, so that the threads are left for everything else."""
    gate, running = asyncio.Event(), []

    async def blocking(call: Any) -> Any:
        running.append(call)
        await gate.wait()
        return call()

    service = UsageViewsService(make_views(), blocking)
    asked = [
        asyncio.create_task(service.breakdown(principal(), pb.ListUsageBreakdownRequest()))
        for _ in range(BREAKDOWNS + 1)
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(running) == BREAKDOWNS
    gate.set()
    await asyncio.gather(*asked)
    assert len(running) == BREAKDOWNS + 1


@pytest.mark.parametrize("ask", [breakdown, exported])
async def test_views_need_their_scope(ask: Any) -> None:
    """A key that may only infer sees nothing; another workspace is unknown to all but the platform's admin."""
    store: Any = FakeUsageStore() if ask is breakdown else FakeExportStore()
    with pytest.raises(ScopeMissing) as caught:
        await ask(store, INFERENCE)
    assert caught.value.metadata == {"scope": USAGE_READ}
    with pytest.raises(WorkspaceNotFound):
        await ask(store, workspace_id="ws_2")
    await ask(store, PLATFORM_ADMIN, workspace_id="ws_2")
    assert "ws_2" in store.asked[-1]


async def test_all_workspaces_are_for_the_platform_admin() -> None:
    """The export of everything needs `platform.admin`, and excludes naming one workspace."""
    store = FakeExportStore([row(1)])
    with pytest.raises(ScopeMissing) as caught:
        await exported(store, all_workspaces=True)
    assert caught.value.metadata == {"scope": PLATFORM_ADMIN}
    with pytest.raises(InvalidRequest) as refused:
        await exported(store, PLATFORM_ADMIN, all_workspaces=True, workspace_id="ws_1")
    assert refused.value.metadata == {"param": "workspace_id", "code": "invalid_value"}
    assert store.asked == []
    await exported(store, PLATFORM_ADMIN, all_workspaces=True)
    assert store.asked[0][1] is None


async def test_a_row_is_told_as_it_is() -> None:
    """Every column has its field, and adjustments are with their row."""
    store = FakeExportStore([row(1, usage_clamped=True, byok=True, overage_messages=3, upstream_request_id="gen")])
    time = datetime(2030, 1, 2, tzinfo=UTC)
    store.adjustments["ws_1", "req_1"] = [ExportAdjustment("void", -1, -10, -4, -5, None, time, "key_9", "a mistake")]
    (message,) = await exported(store)
    adjustment = pb.LedgerAdjustment(
        source="void", counted_messages=-1, prompt_tokens=-10, cached_tokens=-4, completion_tokens=-5,
        actor_key_id="key_9", note="a mistake",
    )  # fmt: skip
    adjustment.create_time.FromDatetime(time)
    assert list(message.entries) == [
        pb.LedgerEntry(
            workspace_id="ws_1", request_id="req_1", day="2030-01-01", state=pb.RESERVATION_STATE_SETTLED,
            key_id="key_1", endpoint="chat.completions", model="a/model", upstream="openrouter",
            upstream_request_id="gen", held_messages=2, counted_messages=1, prompt_tokens=10, cached_tokens=4,
            completion_tokens=5, usage_source=pb.USAGE_SOURCE_PROVIDER, usage_clamped=True, byok=True,
            cost_picodollars=7, overage_messages=3, outcome="complete", reserve_time_us=1, settle_time_us=2,
            adjustments=[adjustment],
        )
    ]  # fmt: skip


async def test_a_cost_that_is_not_known_is_absent() -> None:
    """No price is not a price of 0."""
    (message,) = await exported(FakeExportStore([row(1, cost_picodollars=None), row(2, cost_picodollars=0)]))
    assert [entry.HasField("cost_picodollars") for entry in message.entries] == [False, True]


async def test_messages_are_bounded_and_each_can_be_resumed_from() -> None:
    """A page is cut into messages, and behind the cursor of each exactly the rest follows."""
    rows = [row(number) for number in range(1, MESSAGE_ROWS * 2 + 2)]
    store = FakeExportStore(rows, page_rows=len(rows))
    messages = await exported(store)
    assert [len(message.entries) for message in messages] == [MESSAGE_ROWS, MESSAGE_ROWS, 1]
    (_, *rest) = messages
    assert await exported(store, cursor=messages[0].cursor) == [
        pb.ExportLedgerResponse(entries=[*rest[0].entries], cursor=rest[0].cursor),
        rest[1],
    ]


async def test_a_message_stays_below_what_clients_take() -> None:
    """With the longest ids and names, a message is less than gRPC's default limit of 4 MiB."""
    long = {"key_id": "k" * 64, "endpoint": "e" * 40, "model": "m" * 200, "upstream": "u" * 64, "outcome": "o" * 40}
    big = {"request_id": "r" * 128, "workspace_id": "w" * 64, "upstream_request_id": "i" * 200}
    rows = [row(number, cost_picodollars=2**62, **long, **big) for number in range(MESSAGE_ROWS)]
    rows = [each._replace(reserve_time_us=2**51 + number) for number, each in enumerate(rows)]
    (message,) = await exported(FakeExportStore(rows, page_rows=MESSAGE_ROWS))
    assert message.ByteSize() < 4 * 1024 * 1024


async def test_only_one_page_is_read_ahead() -> None:
    """A reader that stops makes us stop: at most the page behind the one that it has."""
    store = FakeExportStore([row(number) for number in range(1, 20)])
    stream: Any = make_views_service(export=store).export(principal(), pb.ExportLedgerRequest())
    await anext(stream)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(store.asked) == 2
    await stream.aclose()


async def test_a_database_that_goes_away_ends_the_stream() -> None:
    """What was read is sent, then the error ends the stream, whose last cursor goes on behind it."""
    store = FakeExportStore([row(number) for number in range(1, 6)], fails_at=1)
    stream = make_views_service(export=store).export(principal(), pb.ExportLedgerRequest())
    messages = [await anext(stream)]
    with pytest.raises(Overloaded):
        await anext(stream)
    assert [entry.request_id for message in messages for entry in message.entries] == ["req_1", "req_2"]
    again = FakeExportStore(store.rows)
    await exported(again, cursor=messages[-1].cursor)
    assert again.asked[0][0] == ExportPlace(DAY, 2, "ws_1", "req_2")


async def test_a_reader_that_goes_away_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A stream that is closed after its next page failed says nothing of that to anybody."""
    store = FakeExportStore([row(number) for number in range(1, 6)], fails_at=1)
    stream: Any = make_views_service(export=store).export(principal(), pb.ExportLedgerRequest())
    await anext(stream)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(store.asked) == 2
    await stream.aclose()
    gc.collect()
    assert caplog.records == []


async def test_a_reader_that_goes_away_ends_the_reading() -> None:
    """A stream that is closed while its next page is read waits no longer for it."""
    store, calls = FakeExportStore([row(number) for number in range(1, 6)]), 0

    async def blocking(call: Any) -> Any:
        nonlocal calls
        calls += 1
        if len(store.asked) == 1 and calls > 3:
            await asyncio.Event().wait()
        return call()

    stream: Any = UsageViewsService(make_views(export=store), blocking).export(principal(), pb.ExportLedgerRequest())
    await anext(stream)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 2
    await stream.aclose()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
