"""An internal chat product that calls its own model and meters it, beside API traffic of the same workspace.

The product knows nothing but the package `quillgate-proto` and its service key.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from openai import RateLimitError
from openai_clients import Connect
from service import MODEL, RunningService, Tenant

from quillgate.v1 import key_service_pb2, key_service_pb2_grpc
from quillgate.v1 import metering_service_pb2 as metering
from quillgate.v1.metering_service_pb2_grpc import MeteringServiceStub
from quillgate_codec import error_info
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.lease_store import SqlLeaseStore

SHORT = metering.TokenUsage(prompt_tokens=900, cached_tokens=400, completion_tokens=80)
LONG = metering.TokenUsage(prompt_tokens=30_000, cached_tokens=10_000, completion_tokens=500)
BOUND = metering.TokenUsage(prompt_tokens=40_000, completion_tokens=2_000)
ONE_MESSAGE = metering.TokenUsage(prompt_tokens=1_000, completion_tokens=1_000)


AskModel = Callable[[], Awaitable[metering.TokenUsage]]


async def short_answer() -> metering.TokenUsage:
    """A model that has little to say."""
    return SHORT


async def long_answer() -> metering.TokenUsage:
    """A model with a long conversation, a third of it cached."""
    return LONG


class NoMessagesLeft(Exception):
    """What the product's users are told, with what the service said."""

    def __init__(self, facts: dict[str, str]) -> None:
        super().__init__("no messages left")
        self.facts = facts


class ProcessDied(BaseException):
    """The end of the product's process: nothing runs after it."""


class ChatProduct:
    """Answers turns with a model of its own: reserve, ask, settle; release when the model was never asked."""

    def __init__(self, channel: grpc.aio.Channel, key: str, ask_model: AskModel) -> None:
        self._stub: Any = MeteringServiceStub(channel)
        self._call = {"metadata": (("authorization", f"Bearer {key}"),), "timeout": 5}
        self._ask_model = ask_model
        self._ids = (f"turn-{number}" for number in itertools.count(1))
        self.asked = 0

    async def answer(
        self, *, bound: metering.TokenUsage = BOUND, lifetime_s: int = 180, request_id: str = ""
    ) -> metering.Receipt:
        """Serves one turn and returns what it was charged."""
        request_id = request_id or next(self._ids)
        reserve = metering.ReserveRequest(
            request_id=request_id, max_usage=bound, model="our/model", lifetime=Duration(seconds=lifetime_s)
        )
        try:
            await self._stub.Reserve(reserve, **self._call)
        except grpc.aio.AioRpcError as error:
            info = error_info(error)
            if info is not None and info.reason == "ALLOWANCE_EXHAUSTED":
                raise NoMessagesLeft(dict(info.metadata)) from None
            raise
        try:
            self.asked += 1
            usage = await self._ask_model()
        except ConnectionError:
            await self._stub.Release(metering.ReleaseRequest(request_id=request_id), **self._call)
            raise
        return await self.settle(request_id, usage)

    async def settle(self, request_id: str, usage: metering.TokenUsage) -> metering.Receipt:
        """Ends a turn, again if need be."""
        answer = await self._stub.Settle(metering.SettleRequest(request_id=request_id, usage=usage), **self._call)
        receipt: metering.Receipt = answer.receipt
        return receipt


class Desk:
    """A workspace with both: a product with its service key, and a developer with a client."""

    def __init__(self, service: RunningService, connect: Connect, tenant: Tenant, product: ChatProduct) -> None:
        self.service = service
        self.tenant = tenant
        self.product = product
        self._client = connect(tenant.key)

    async def api_request(self) -> None:
        """One chat completion over REST, of 10 prompt tokens and 5 of the answer."""
        await self._client.with_options(max_retries=0).chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=100
        )

    async def day(self) -> tuple[int, ...]:
        """The workspace's only day."""
        row = await self.service.daily(self.tenant)
        assert row is not None
        return row


def recover(database_url: str) -> int:
    """Charges the holds that are over, as a core does that has been up for longer than half a minute."""
    engine = make_engine(database_url)
    try:
        return SqlLeaseStore(engine).recover(100)
    finally:
        engine.dispose()


OpenDesk = Callable[..., Any]


@pytest.fixture
async def open_desk(service: RunningService, connect: Connect) -> AsyncIterator[OpenDesk]:
    """Makes a workspace with an allowance, a developer key and a service key, and starts the product."""
    channels: list[grpc.aio.Channel] = []

    async def make(*, allowance: int | None = None, ask_model: AskModel = long_answer) -> Desk:
        tenant = await service.tenant(allowance=allowance)
        keys: Any = key_service_pb2_grpc.KeyServiceStub(service.core.channel)
        request = key_service_pb2.CreateKeyRequest(workspace_id=tenant.workspace_id, name="chat product")
        created = await keys.CreateKey(request, metadata=service.metadata())
        channels.append(grpc.aio.insecure_channel(service.grpc_address))
        return Desk(service, connect, tenant, ChatProduct(channels[-1], created.secret, ask_model))

    yield make
    for channel in channels:
        await channel.close()


async def test_both_are_in_the_same_daily_row(open_desk: OpenDesk) -> None:
    """A turn of 30,000 prompt tokens, 10,000 of them cached, and 500 counts 2; the API's request 1: together 3."""
    desk = await open_desk(allowance=100)
    receipt = await desk.product.answer()
    assert (receipt.counted_messages, receipt.remaining_messages) == (2, 98)
    await desk.api_request()
    assert await desk.day() == (3, 0, 30_010, 10_000, 505, 2)
    rows = await desk.service.rows(
        "SELECT endpoint, model, usage_source, counted_messages FROM ledger WHERE workspace_id = %s ORDER BY endpoint",
        desk.tenant.workspace_id,
    )
    assert rows == [("chat.completions", MODEL, "provider", 1), ("metering", "our/model", "caller", 2)]


async def test_the_product_is_refused_when_the_api_has_used_it_up(open_desk: OpenDesk) -> None:
    """Its user is told which limit it is and until when; its model is never asked, and nothing is charged."""
    desk = await open_desk(allowance=2)
    for _ in range(2):
        await desk.api_request()
    with pytest.raises(NoMessagesLeft) as caught:
        await desk.product.answer(bound=ONE_MESSAGE)
    ((today,),) = await desk.service.rows("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date")
    assert caught.value.facts == {
        "workspace_id": desk.tenant.workspace_id,
        "limit": "daily_message_allowance",
        "allowance": "2",
        "remaining_messages": "0",
        "reset_time": f"{today + timedelta(days=1)}T00:00:00Z",
    }
    assert desk.product.asked == 0
    assert (await desk.day())[:2] == (2, 0)


async def test_the_api_is_refused_when_the_product_has_used_it_up(open_desk: OpenDesk) -> None:
    """A developer gets OpenAI's `insufficient_quota` for what the product has used."""
    desk = await open_desk(allowance=3)
    await desk.product.answer()
    await desk.api_request()
    with pytest.raises(RateLimitError) as caught:
        await desk.api_request()
    assert caught.value.code == "insufficient_quota"
    assert (await desk.day())[:2] == (3, 0)


async def test_what_a_turn_holds_is_nobody_elses(open_desk: OpenDesk) -> None:
    """While the product's model works, the API cannot use its hold; what it does not use is free again at its end."""
    working, done = asyncio.Event(), asyncio.Event()

    async def work() -> metering.TokenUsage:
        working.set()
        await done.wait()
        return SHORT

    desk = await open_desk(allowance=3, ask_model=work)
    turn = asyncio.create_task(desk.product.answer())
    async with asyncio.timeout(10):
        await working.wait()
        with pytest.raises(RateLimitError):
            await desk.api_request()
        done.set()
        await turn
    await desk.api_request()
    assert (await desk.day())[:2] == (2, 0)


async def test_a_bound_that_does_not_fit_tells_what_is_left(open_desk: OpenDesk) -> None:
    """The product asks for a shorter answer where that is enough, and the last message is usable."""
    desk = await open_desk(allowance=1, ask_model=short_answer)
    with pytest.raises(NoMessagesLeft) as caught:
        await desk.product.answer()
    assert caught.value.facts["remaining_messages"] == "1"
    assert (await desk.product.answer(bound=ONE_MESSAGE)).remaining_messages == 0


async def test_a_model_that_was_never_asked_costs_nothing(open_desk: OpenDesk) -> None:
    """The product gives back what it held, and the turn's id is spent."""

    async def refuse() -> metering.TokenUsage:
        raise ConnectionError("no model")

    desk = await open_desk(allowance=3, ask_model=refuse)
    with pytest.raises(ConnectionError):
        await desk.product.answer(request_id="turn-x")
    assert (await desk.day())[:2] == (0, 0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await desk.product.settle("turn-x", SHORT)
    info = error_info(caught.value)
    assert info is not None
    assert (info.reason, dict(info.metadata)) == ("RESERVATION_CLOSED", {"request_id": "turn-x", "state": "released"})


async def test_a_repeated_step_changes_nothing(open_desk: OpenDesk) -> None:
    """A product that did not hear the answer settles again, even with another usage: the first charge stands."""
    desk = await open_desk(allowance=10)
    receipt = await desk.product.answer(request_id="turn-x")
    assert await asyncio.gather(*(desk.product.settle("turn-x", usage) for usage in (LONG, SHORT))) == [receipt] * 2
    assert await desk.day() == (2, 0, 30_000, 10_000, 500, 1)


async def test_a_product_that_dies_is_charged_its_hold(open_desk: OpenDesk) -> None:
    """After the turn's lifetime, for its model may have worked; who settles later hears so, and the API feels it."""

    async def die() -> metering.TokenUsage:
        raise ProcessDied

    desk = await open_desk(allowance=3, ask_model=die)
    with pytest.raises(ProcessDied):
        await desk.product.answer(request_id="turn-x", lifetime_s=1)
    assert (await desk.day())[:2] == (0, 3)
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(recover, desk.service.database_url):
            await asyncio.sleep(0.1)
    assert await desk.day() == (3, 0, 0, 0, 0, 1)
    query = "SELECT state, counted_messages, usage_source FROM ledger WHERE workspace_id = %s"
    assert await desk.service.rows(query, desk.tenant.workspace_id) == [("recovered", 3, "hold")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await desk.product.settle("turn-x", SHORT)
    info = error_info(caught.value)
    assert info is not None
    assert (info.reason, dict(info.metadata)) == ("RESERVATION_CLOSED", {"request_id": "turn-x", "state": "recovered"})
    with pytest.raises(RateLimitError):
        await desk.api_request()
