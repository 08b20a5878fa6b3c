"""The metering RPCs through the whole gate on a real database: whose rows they touch, and that repeats are free."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from core.rpc.refusal import Refusal, refusal_of
from fakes.books import Books
from fakes.rpc_site import open_channel
from fakes.site import Site
from fakes.usage_stores import make_views_service
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import Engine

from quillgate.v1 import metering_service_pb2 as pb
from quillgate.v1.metering_service_pb2_grpc import MeteringServiceStub, add_MeteringServiceServicer_to_server
from quillgate_core.counting import MAX_TOKENS, Usage
from quillgate_core.errors import DuplicateRequest
from quillgate_core.key_usage import KeyUsages
from quillgate_core.metering import Metering, Reserve, Settle
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, USAGE_READ, WORKSPACE_ADMIN
from quillgate_core.rpc.capacity import Capacity
from quillgate_core.rpc.interceptor import CallInterceptor
from quillgate_core.rpc.metering_service import MeteringService
from quillgate_core.storage.daily_store import SqlDailyStore
from quillgate_core.storage.key_usage_store import SqlKeyUsageStore
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger
from quillgate_core.storage.writer import GroupedWriter

SMALL = pb.TokenUsage(prompt_tokens=10, completion_tokens=5)
LARGE = pb.TokenUsage(prompt_tokens=40_001, cached_tokens=10_001, completion_tokens=3_000)
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def _not_found(request_id: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND", {"request_id": request_id})


def _duplicate(request_id: str) -> Refusal:
    return Refusal(grpc.StatusCode.ALREADY_EXISTS, "DUPLICATE_REQUEST", {"request_id": request_id})


def _closed(request_id: str, state: str) -> Refusal:
    metadata = {"request_id": request_id, "state": state}
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_CLOSED", metadata)


def _no_workspace(workspace_id: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, "WORKSPACE_NOT_FOUND", {"workspace_id": workspace_id})


@dataclass(frozen=True)
class Desk:
    """The metering RPCs, the tables behind them, and one tenant."""

    site: Site
    metering: Metering
    books: Books
    stub: Any
    workspace_id: str
    secret: str

    def key(self, *scopes: str, workspace_id: str = "") -> str:
        """Make a key and return its secret."""
        return self.site.key(workspace_id or self.workspace_id, *scopes)[1]

    def call(self, method: str, secret: str = "", **fields: Any) -> Any:
        """Call a method with the tenant's key, or another one."""
        request = getattr(pb, f"{method}Request")(**fields)
        return getattr(self.stub, method)(request, metadata=(("authorization", f"Bearer {secret or self.secret}"),))

    async def completion(self, request_id: str = "r", *, is_settled: bool = False) -> None:
        """Reserve, and perhaps settle, as the gateway does for a completion of its own."""
        owner = self.metering.instance_id
        ids = {"workspace_id": self.workspace_id, "request_id": request_id, "owner": owner}
        await self.metering.reserve(Reserve(hold_messages=3, **ids))  # type: ignore[arg-type]
        if is_settled:
            usage = Usage(40_000, 0, 0)
            await self.metering.settle(Settle(usage=usage, usage_source="provider", **ids))  # type: ignore[arg-type]

    def row(self, request_id: str = "r", workspace_id: str = "") -> Any:
        """The ledger row of a request."""
        return self.books.row(request_id, workspace_id or self.workspace_id)


@pytest.fixture
async def desk(site: Site, engine: Engine, database_url: str) -> AsyncIterator[Desk]:
    """The service on a fresh database; afterwards the books must agree."""
    writer = GroupedWriter(connect=partial(connect_ledger, database_url), ledger=Ledger())
    metering = Metering(
        writer=writer,
        daily_store=SqlDailyStore(engine),
        lease_store=SqlLeaseStore(engine),
        instance_id="core_1",
    )
    capacity = Capacity(64, wait_s=1)
    writer.start()
    with ThreadPoolExecutor(4) as threads:
        interceptor = CallInterceptor(site.keys, threads, completions=capacity, admin=capacity)
        key_usages = KeyUsages(site.keys, SqlDailyStore(engine), SqlKeyUsageStore(engine))
        servicer = MeteringService(metering, key_usages, make_views_service())
        workspace_id = site.workspace("tenant").workspace_id
        secret = site.key(workspace_id, INFERENCE, USAGE_READ)[1]
        async with open_channel(
            "in process", interceptor, partial(add_MeteringServiceServicer_to_server, servicer)
        ) as channel:
            books = Books(engine)
            yield Desk(site, metering, books, MeteringServiceStub(channel), workspace_id, secret)
            books.check()
    assert await asyncio.to_thread(writer.close, 10.0)


async def test_reserve_and_settle(desk: Desk) -> None:
    """A reservation holds what its bound would count; its settlement charges what was used, on the same day."""
    held = (await desk.call("Reserve", request_id="r", max_usage=LARGE, model="m")).reservation
    assert (held.request_id, held.workspace_id, held.held_messages) == ("r", desk.workspace_id, 3)
    assert held.state == pb.RESERVATION_STATE_OPEN
    assert not held.HasField("remaining_messages")
    receipt = (await desk.call("Settle", request_id="r", usage=SMALL)).receipt
    assert (receipt.counted_messages, receipt.usage, receipt.day) == (1, SMALL, held.day)
    assert receipt.usage_source == pb.USAGE_SOURCE_CALLER
    row = desk.row()
    assert (row.owner, row.endpoint, row.model, row.state) == (None, "metering", "m", "settled")
    listed = await desk.call("ListDailyMessageCount")
    assert [(day.message_count, day.input_tokens, day.output_tokens) for day in listed.days] == [(1, 10, 5)]


async def test_repeats_change_nothing_and_answer_the_same(desk: Desk) -> None:
    """Every step may be sent again, even with other numbers: the first one stands."""
    first = await desk.call("Reserve", request_id="r", max_usage=LARGE)
    assert await desk.call("Reserve", request_id="r", max_usage=SMALL) == first
    settled = await desk.call("Settle", request_id="r", usage=SMALL)
    assert await desk.call("Settle", request_id="r", usage=LARGE) == settled
    again = (await desk.call("Reserve", request_id="r", max_usage=LARGE)).reservation
    assert again.state == pb.RESERVATION_STATE_SETTLED
    await desk.call("Reserve", request_id="s", max_usage=LARGE)
    released = await desk.call("Release", request_id="s")
    assert await desk.call("Release", request_id="s") == released
    recorded = await desk.call("Record", request_id="t", usage=LARGE)
    assert await desk.call("Record", request_id="t", usage=SMALL) == recorded
    assert recorded.receipt.counted_messages == 3
    assert desk.books.states() == {"settled": 2, "released": 1}
    assert desk.books.day(workspace_id=desk.workspace_id).message_count == 4


async def test_concurrent_repeats_count_once(desk: Desk) -> None:
    """The same step sent many times at once is one row and one charge."""
    answers = await asyncio.gather(*(desk.call("Record", request_id="r", usage=SMALL) for _ in range(20)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert desk.books.day(workspace_id=desk.workspace_id).message_count == 1


async def test_ends_contradict_each_other(desk: Desk) -> None:
    """What was settled cannot be released, nor the other way round, nor recorded while it runs."""
    await desk.call("Reserve", request_id="a", max_usage=SMALL)
    assert await refusal_of(desk.call("Record", request_id="a", usage=SMALL)) == _duplicate("a")
    await desk.call("Settle", request_id="a", usage=SMALL)
    assert await refusal_of(desk.call("Release", request_id="a")) == _closed("a", "settled")
    await desk.call("Reserve", request_id="b", max_usage=SMALL)
    await desk.call("Release", request_id="b")
    assert await refusal_of(desk.call("Settle", request_id="b", usage=SMALL)) == _closed("b", "released")
    assert await refusal_of(desk.call("Record", request_id="b", usage=SMALL)) == _closed("b", "released")


async def test_unknown_reservation(desk: Desk) -> None:
    """An id that was never reserved can be neither settled nor released."""
    assert await refusal_of(desk.call("Settle", request_id="x", usage=SMALL)) == _not_found("x")
    assert await refusal_of(desk.call("Release", request_id="x")) == _not_found("x")


@pytest.mark.parametrize("is_settled", [False, True])
@pytest.mark.parametrize("who", ["tenant", "platform admin", "platform admin of another workspace"])
async def test_completion_cannot_be_touched_by_anybody(desk: Desk, who: str, is_settled: bool) -> None:
    """A row of the gateway's own looks unknown: nobody ends a completion with a usage of their own choice."""
    await desk.completion("r", is_settled=is_settled)
    before = desk.row()
    secret, named = desk.secret, ""
    if who == "platform admin":
        secret = desk.key(PLATFORM_ADMIN)
    elif who == "platform admin of another workspace":
        secret, named = (
            desk.key(PLATFORM_ADMIN, workspace_id=desk.site.workspace("ops").workspace_id),
            desk.workspace_id,
        )
    fields = {"secret": secret, "request_id": "r", "workspace_id": named}
    assert await refusal_of(desk.call("Settle", usage=pb.TokenUsage(), **fields)) == _not_found("r")
    assert await refusal_of(desk.call("Release", **fields)) == _not_found("r")
    assert await refusal_of(desk.call("Record", usage=pb.TokenUsage(), **fields)) == _duplicate("r")
    assert await refusal_of(desk.call("Reserve", max_usage=SMALL, **fields)) == _duplicate("r")
    assert desk.row() == before


async def test_reserved_id_cannot_be_served_as_a_completion(desk: Desk) -> None:
    """The other way round: an id that a caller reserved is spent for the gateway; nothing is served under its hold."""
    await desk.call("Reserve", request_id="r", max_usage=SMALL)
    step = Reserve(workspace_id=desk.workspace_id, request_id="r", hold_messages=9, owner=desk.metering.instance_id)
    try:
        reservation = await desk.metering.reserve(step)
    except DuplicateRequest:
        return
    assert reservation.replayed


async def test_other_workspaces_are_unknown_to_a_tenant(desk: Desk) -> None:
    """A foreign workspace, existing or not, is answered alike by every method, and nothing is written there."""
    foreign = desk.site.workspace("foreign").workspace_id
    await desk.metering.reserve(Reserve(workspace_id=foreign, request_id="r", hold_messages=1))
    secret = desk.key(INFERENCE, USAGE_READ, WORKSPACE_ADMIN)
    for workspace_id in (foreign, "ws_" + "0" * 20):
        fields = {"secret": secret, "workspace_id": workspace_id, "request_id": "r"}
        expected = _no_workspace(workspace_id)
        assert await refusal_of(desk.call("Reserve", max_usage=SMALL, **fields)) == expected
        assert await refusal_of(desk.call("Settle", usage=SMALL, **fields)) == expected
        assert await refusal_of(desk.call("Release", **fields)) == expected
        assert await refusal_of(desk.call("Record", usage=SMALL, **fields)) == expected
        listing = desk.call("ListDailyMessageCount", secret=secret, workspace_id=workspace_id)
        assert await refusal_of(listing) == expected
    assert desk.row("r", foreign).state == "open"


async def test_same_id_in_two_workspaces_is_two_requests(desk: Desk) -> None:
    """Request ids are a workspace's own: a tenant cannot block, see or end another's."""
    other = desk.site.workspace("other").workspace_id
    secret = desk.key(INFERENCE, workspace_id=other)
    await desk.call("Reserve", request_id="r", max_usage=SMALL)
    assert await refusal_of(desk.call("Settle", secret=secret, request_id="r", usage=SMALL)) == _not_found("r")
    await desk.call("Reserve", secret=secret, request_id="r", max_usage=SMALL)
    await desk.call("Settle", secret=secret, request_id="r", usage=SMALL)
    assert (desk.row().state, desk.row("r", other).state) == ("open", "settled")


async def test_platform_admin_meters_for_another_workspace(desk: Desk) -> None:
    """An internal service with an admin's key reserves, settles, releases and records for any workspace."""
    secret = desk.key(PLATFORM_ADMIN, workspace_id=desk.site.workspace("ops").workspace_id)
    fields = {"secret": secret, "workspace_id": desk.workspace_id}
    held = (await desk.call("Reserve", request_id="a", max_usage=SMALL, **fields)).reservation
    assert held.workspace_id == desk.workspace_id
    assert (await desk.call("Settle", request_id="a", usage=SMALL, **fields)).receipt.counted_messages == 1
    await desk.call("Reserve", request_id="b", max_usage=SMALL, **fields)
    await desk.call("Release", request_id="b", **fields)
    await desk.call("Record", request_id="c", usage=SMALL, **fields)
    listed = await desk.call("ListDailyMessageCount", **fields)
    assert [(day.workspace_id, day.message_count) for day in listed.days] == [(desk.workspace_id, 2)]
    assert [row.key_id for row in desk.books.read("SELECT DISTINCT key_id FROM ledger")] == [None]
    assert desk.books.read("SELECT FROM key_daily_message_count") == []
    unknown = "ws_" + "0" * 20
    fields["workspace_id"] = unknown
    assert await refusal_of(desk.call("Reserve", request_id="a", max_usage=SMALL, **fields)) == _no_workspace(unknown)
    assert await refusal_of(desk.call("Record", request_id="a", usage=SMALL, **fields)) == _no_workspace(unknown)


async def test_allowance_refuses_reserve_but_not_record(desk: Desk) -> None:
    """Work that was done is counted beyond the allowance; work to come is not begun."""
    secret = desk.key(PLATFORM_ADMIN)
    desk.site.run("UPDATE workspaces SET daily_message_allowance = 2")
    refusal = await refusal_of(desk.call("Reserve", request_id="a", max_usage=LARGE))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ALLOWANCE_EXHAUSTED")
    reset_time = refusal.metadata.pop("reset_time")
    assert reset_time.endswith("T00:00:00Z")
    limit = {"limit": "daily_message_allowance", "allowance": "2", "remaining_messages": "2"}
    assert refusal.metadata == {"workspace_id": desk.workspace_id, **limit}
    held = (await desk.call("Reserve", secret=secret, request_id="b", max_usage=SMALL)).reservation
    assert held.remaining_messages == 1
    recorded = (await desk.call("Record", request_id="c", usage=LARGE)).receipt
    assert (recorded.counted_messages, recorded.remaining_messages) == (3, 0)
    assert recorded.HasField("remaining_messages")


@pytest.mark.parametrize(
    ("usage", "member", "code"),
    [
        (None, "", "missing_required_parameter"),
        (pb.TokenUsage(prompt_tokens=-1), ".prompt_tokens", "invalid_value"),
        (pb.TokenUsage(prompt_tokens=MAX_TOKENS + 1), ".prompt_tokens", "invalid_value"),
        (pb.TokenUsage(completion_tokens=-(2**63)), ".completion_tokens", "invalid_value"),
        (pb.TokenUsage(completion_tokens=2**63 - 1), ".completion_tokens", "invalid_value"),
        (pb.TokenUsage(prompt_tokens=5, cached_tokens=6), ".cached_tokens", "invalid_value"),
        (pb.TokenUsage(prompt_tokens=5, cached_tokens=-6), ".cached_tokens", "invalid_value"),
    ],
)
async def test_usage_must_be_one(desk: Desk, usage: pb.TokenUsage | None, member: str, code: str) -> None:
    """A usage that is missing or out of range is refused by name in every method, and nothing is written."""
    await desk.call("Reserve", request_id="open", max_usage=SMALL)
    for method, param, request_id in (
        ("Reserve", "max_usage", "r"),
        ("Settle", "usage", "open"),
        ("Record", "usage", "r"),
    ):
        expected = Refusal(INVALID, "INVALID_REQUEST", {"param": param + member, "code": code})
        assert await refusal_of(desk.call(method, request_id=request_id, **{param: usage})) == expected
    assert desk.books.states() == {"open": 1}


async def test_greatest_usage_is_counted(desk: Desk) -> None:
    """The bounds themselves are allowed."""
    usage = pb.TokenUsage(prompt_tokens=MAX_TOKENS, completion_tokens=MAX_TOKENS)
    held = (await desk.call("Reserve", request_id="r", max_usage=usage)).reservation
    receipt = (await desk.call("Settle", request_id="r", usage=usage)).receipt
    assert held.held_messages == receipt.counted_messages == 2 * MAX_TOKENS // 16_000


@pytest.mark.parametrize("request_id", ["", "with space", "x" * 129, "ü"])
async def test_request_id_must_be_one(desk: Desk, request_id: str) -> None:
    """An id that cannot be stored or shown is refused in every method."""
    expected = Refusal(INVALID, "INVALID_REQUEST", {"param": "request_id", "code": ""})
    assert await refusal_of(desk.call("Reserve", request_id=request_id, max_usage=SMALL)) == expected
    assert await refusal_of(desk.call("Settle", request_id=request_id, usage=SMALL)) == expected
    assert await refusal_of(desk.call("Release", request_id=request_id)) == expected
    assert await refusal_of(desk.call("Record", request_id=request_id, usage=SMALL)) == expected


@pytest.mark.parametrize("model", ["with space", "x" * 201, "a\0b"])
async def test_model_must_be_an_id(desk: Desk, model: str) -> None:
    """What is kept for the records is bounded too."""
    expected = Refusal(INVALID, "INVALID_REQUEST", {"param": "model", "code": "invalid_value"})
    assert await refusal_of(desk.call("Reserve", request_id="r", max_usage=SMALL, model=model)) == expected
    assert await refusal_of(desk.call("Record", request_id="r", usage=SMALL, model=model)) == expected


@pytest.mark.parametrize(
    "lifetime", [Duration(), Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=86_400, nanos=1)]
)
async def test_lifetime_is_one_second_to_one_day(desk: Desk, lifetime: Duration) -> None:
    """A lifetime out of range is refused under the name that the caller knows."""
    expected = Refusal(INVALID, "INVALID_REQUEST", {"param": "lifetime", "code": "invalid_value"})
    assert await refusal_of(desk.call("Reserve", request_id="r", max_usage=SMALL, lifetime=lifetime)) == expected


@pytest.mark.parametrize(
    ("lifetime", "seconds"), [(None, 600), (Duration(nanos=1), 1), (Duration(seconds=86_400), 86_400)]
)
async def test_reservation_expires_after_its_lifetime(desk: Desk, lifetime: Duration | None, seconds: int) -> None:
    """Ten minutes by default, else as asked, in whole seconds rounded up."""
    await desk.call("Reserve", request_id="r", max_usage=SMALL, lifetime=lifetime)
    row = desk.row()
    assert (row.expire_time - row.reserve_time).total_seconds() == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize("method", ["Reserve", "Settle", "Release", "Record"])
async def test_metering_needs_inference(desk: Desk, method: str) -> None:
    """A key that may only read usage counts nothing."""
    fields: dict[str, Any] = {"request_id": "r"}
    if method != "Release":
        fields["max_usage" if method == "Reserve" else "usage"] = SMALL
    refusal = await refusal_of(desk.call(method, secret=desk.key(USAGE_READ), **fields))
    assert refusal == Refusal(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", {"scope": INFERENCE})
