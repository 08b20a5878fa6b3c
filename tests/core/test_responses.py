"""Responses: whatever way one ends, its reservation is ended once; it is kept whole or not at all."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from fakes.fake_ledger_writer import FakeLedgerWriter
from fakes.fake_provider import FakeProvider, Step, chunk, usage_chunk, whole_answer
from fakes.fake_response_provider import FakeResponseProvider, NativeStep
from fakes.fake_response_store import FakeResponseStore
from fakes.response_events import as_sent, check_stream
from fakes.routes import routed
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseRequest
from quillgate_codec import provider_response, provider_response_event, response_request
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.counting import Usage
from quillgate_core.errors import (
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuillgateError,
    ResponseNotFound,
    ScopeMissing,
)
from quillgate_core.metering import Metering
from quillgate_core.principal import INFERENCE, USAGE_READ, Principal
from quillgate_core.reservation import Release, Reserve, Settle
from quillgate_core.responses import Responses
from quillgate_core.stored_response import MAX_ITEMS_BYTES, StoredResponse
from quillgate_core.upstream import Account

REPORTED = Usage(10, 0, 5)
PRINCIPAL = Principal("key_1", 3, "ws_1", frozenset({INFERENCE}))
STRANGER = Principal("key_2", 1, "ws_2", frozenset({INFERENCE}))
BOUND_S = 5.0


class _BrokenStore(FakeResponseStore):
    """Finds everything and keeps nothing."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def save(self, workspace_id: str, stored: StoredResponse) -> None:
        raise self._error


@dataclass
class _Desk:
    """The use case with everything around it faked."""

    steps: Sequence[Step] = ()
    native_steps: Sequence[NativeStep] | None = None
    store: FakeResponseStore = field(default_factory=FakeResponseStore)
    writer: FakeLedgerWriter = field(default_factory=FakeLedgerWriter)
    blocking: Callable[[Callable[[], Any]], Any] | None = None

    def __post_init__(self) -> None:
        self.provider = FakeProvider(self.steps)
        self.native = FakeResponseProvider(self.native_steps or ())
        metering = Metering(
            writer=self.writer, daily_store=FakeDailyStore(None), lease_store=FakeLeaseStore(), instance_id="core_1"
        )
        upstreams = (ModelUpstream("fake", "up-m"), ModelUpstream("native", "up-n"))
        models = [
            Model(id="a/m", context_window=100_000, max_output_tokens=50_000, upstreams=upstreams),
            Model(
                id="a/ear",
                context_window=100_000,
                max_output_tokens=50_000,
                upstreams=upstreams,
                endpoints=("audio.transcriptions",),
            ),
        ]
        accounts = [Account("fake", chat=self.provider)]
        if self.native_steps is not None:
            accounts.append(Account("native", responses=self.native))
        admission, metered = routed(models, accounts, metering, settle_wait_s=0.2)
        self.responses = Responses(
            admission, metered, self.store, blocking=self.blocking or _at_once, clock=lambda: 99.0, save_wait_s=0.2
        )

    async def create(self, principal: Principal = PRINCIPAL, **members: Any) -> Response:
        """Asks for a whole response."""
        return (await self.responses.create(principal, "r", _request(**members)))[0]

    async def events(self, principal: Principal = PRINCIPAL, **members: Any) -> list[ResponseEvent]:
        """Asks for a stream and reads it to its end."""
        made = self.responses.stream(principal, "r", _request(**members))
        return [event async for part in made for event in part.batch.pieces]

    async def ask(self, *, stream: bool, **members: Any) -> Response:
        """Asks in one of the two ways."""
        if not stream:
            return await self.create(**members)
        return (await self.events(**members))[-1].response

    def charged(self) -> tuple[str, Usage, str]:
        """The one step that ended the reservation, which charged something."""
        (end,) = self.writer.ends
        assert isinstance(end, Settle)
        return end.outcome, end.usage, end.usage_source

    def assert_released(self) -> None:
        """Nothing was charged."""
        (end,) = self.writer.ends
        assert isinstance(end, Release)


async def _at_once(call: Callable[[], Any]) -> Any:
    return call()


def _request(**members: Any) -> ResponseRequest:
    return response_request.from_json(msgspec.json.encode({"model": "a/m", "input": "hi", **members}))


def _sane_stream() -> list[Step]:
    return [[chunk("Hel"), chunk("lo")], [chunk(finish="stop")], [usage_chunk()]]


def _sane(*, stream: bool) -> list[Step]:
    return _sane_stream() if stream else [whole_answer()]


@pytest.mark.parametrize("stream", [False, True])
async def test_whole_response(stream: bool) -> None:
    """It is settled with the provider's usage, kept, and the same however it was asked for."""
    desk = _Desk(_sane(stream=stream))
    made = await desk.ask(stream=stream)
    assert (made.status, made.created_at, made.completed_at, made.model, made.store) == (
        "completed",
        99,
        99,
        "a/m",
        True,
    )
    assert made.output[0].content.parts.parts[0].text == "Hello"
    assert (made.usage.input_tokens, made.usage.output_tokens) == (10, 5)
    assert desk.charged() == ("complete", REPORTED, "provider")
    reserve = desk.writer.steps[0]
    assert isinstance(reserve, Reserve)
    assert (reserve.endpoint, reserve.model, reserve.upstream) == ("responses", "a/m", "fake")
    stored = desk.store.get("ws_1", made.id)
    assert stored.response == made
    assert (len(stored.items), stored.own_input_from) == (1, 0)
    with pytest.raises(ResponseNotFound):
        desk.store.get("ws_2", made.id)


async def test_order_of_a_stream() -> None:
    """The events follow the grammar; settled and kept comes before the last event, with the receipt."""
    desk = _Desk(_sane_stream())
    events: list[ResponseEvent] = []
    receipts = []
    async for part in desk.responses.stream(PRINCIPAL, "r", _request(tools=[{"type": "web_search"}])):
        assert part.ignored == (() if events else ("tools[0]:web_search",))
        assert (part.batch.reservation is not None) == (not events)
        events += part.batch.pieces
        is_last = events[-1].type == "response.completed"
        assert (part.batch.receipt is not None) == is_last
        assert bool(desk.writer.ends) == is_last
        assert bool(len(desk.store)) == is_last
        receipts.append(part.batch.receipt)
    check_stream(events)
    assert receipts[-1] is not None
    assert receipts[-1].usage == REPORTED


@pytest.mark.parametrize("stream", [False, True])
async def test_missing_usage_is_estimated(stream: bool) -> None:
    """The response shows the estimate that is charged."""
    desk = _Desk([[chunk("x" * 400, finish="stop")]] if stream else [whole_answer("x" * 400, usage=None)])
    made = await desk.ask(stream=stream)
    outcome, usage, source = desk.charged()
    assert (outcome, source) == ("complete", "estimate")
    assert (made.usage.input_tokens, made.usage.output_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert usage.completion_tokens >= 100


@pytest.mark.parametrize("stream", [False, True])
async def test_failure_before_any_output(stream: bool) -> None:
    """Nothing is told, charged or kept, and the error keeps its status."""
    error = ProviderUnavailable("m", provider="fake")
    desk = _Desk([error])
    with pytest.raises(ProviderUnavailable) as caught:
        await desk.ask(stream=stream)
    assert caught.value is error
    desk.assert_released()
    assert len(desk.store) == 0


@pytest.mark.parametrize("steps", [[ProviderTimeout("m", provider="fake")], []], ids=["failure", "cut"])
async def test_failure_after_output(steps: list[Step]) -> None:
    """It is told in two events, raised, charged for what came, and not kept."""
    desk = _Desk([[chunk("Hel")], *steps])
    events: list[ResponseEvent] = []
    with pytest.raises(QuillgateError):
        async for part in desk.responses.stream(PRINCIPAL, "r", _request()):
            events += part.batch.pieces
    sent = check_stream(events)
    assert [event["type"] for event in sent[-2:]] == ["error", "response.failed"]
    outcome, usage, source = desk.charged()
    assert (outcome, source) == ("provider_failed", "estimate")
    assert sent[-1]["response"]["usage"]["input_tokens"] == usage.prompt_tokens
    assert len(desk.store) == 0


async def test_incomplete_is_kept() -> None:
    """An answer that reached its limit is an answer."""
    desk = _Desk([[chunk("Hel", finish="length")], [usage_chunk()]])
    made = await desk.ask(stream=True)
    assert made.incomplete_details.reason == "max_output_tokens"
    assert desk.charged() == ("complete", REPORTED, "provider")
    assert len(desk.store) == 1


@pytest.mark.parametrize("read", range(4))
async def test_reader_that_leaves(read: int) -> None:
    """Whoever closes the stream between any two batches pays for what came; only a whole response is kept."""
    desk = _Desk([[chunk("Hel")], [chunk("lo")], [chunk(finish="stop")], [usage_chunk()]])
    async with aclosing(desk.responses.stream(PRINCIPAL, "r", _request())) as batches:
        for _ in range(read):
            part = await anext(batches)
    is_whole = read > 0 and part.batch.receipt is not None
    assert is_whole == (read >= 3)
    if read == 0:
        assert desk.writer.steps == []
    else:
        assert desk.charged()[0] == ("complete" if is_whole else "caller_gone")
    assert len(desk.store) == int(is_whole)


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_at_every_step_of_the_loop(stream: bool) -> None:
    """Cancelled after any number of turns, a dispatched request is ended by one step, and kept whole or not at all."""
    for turns in range(16):
        gate = asyncio.Event()
        gate.set()
        desk = _Desk([gate, *_sane(stream=stream)])
        task = asyncio.create_task(desk.ask(stream=stream))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(desk.writer.ends) == desk.provider.dispatched, turns
        if len(desk.store):
            assert desk.charged()[0] == "complete"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [Overloaded("away"), RuntimeError("a bug")], ids=["away", "bug"])
async def test_response_that_cannot_be_kept_says_so(error: Exception, stream: bool) -> None:
    """It was paid for, so it is given, with `store: false`."""
    desk = _Desk(_sane(stream=stream), store=_BrokenStore(error))
    made = await desk.ask(stream=stream)
    assert (made.status, made.store) == ("completed", False)
    assert desk.charged() == ("complete", REPORTED, "provider")


async def test_keeping_takes_no_longer_than_settling() -> None:
    """A database that hangs delays the end of a response by a bounded time only."""

    async def blocking(call: Callable[[], Any]) -> Any:
        if call.func.__name__ == "save":  # type: ignore[attr-defined]
            await asyncio.Event().wait()
        return call()

    desk = _Desk([whole_answer()], blocking=blocking)
    async with asyncio.timeout(BOUND_S):
        assert not (await desk.create()).store


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_to_be_kept(stream: bool) -> None:
    """Neither with `store: false` nor in a workspace that keeps nothing; the response says so from the start."""
    for store, members in (
        (FakeResponseStore(), {"store": False}),
        (FakeResponseStore(refusing=frozenset({"ws_1"})), {}),
    ):
        desk = _Desk(_sane(stream=stream), store=store)
        assert not (await desk.ask(stream=stream, **members)).store
        assert len(store) == 0


async def test_conversation_goes_on() -> None:
    """The next turn reads all that was said; its row depends on no other, and instructions are not carried on."""
    desk = _Desk([whole_answer()])
    first = await desk.create(input="one", instructions="Be brief.")
    second = await desk.create(input="two", previous_response_id=first.id)
    third = await desk.create(input="three", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    stored = desk.store.get("ws_1", third.id)
    assert [item.role for item in stored.items] == ["user", "assistant", "user", "assistant", "user"]
    assert stored.own_input_from == 4
    assert stored.items[1] == first.output[0]


async def test_references_are_found() -> None:
    """Items are referred to by id, in earlier responses or in the same conversation; a type may be missing."""
    desk = _Desk([whole_answer()])
    first = await desk.create(input="one")
    second = await desk.create(input=[{"id": first.output[0].id}, {"role": "user", "content": "two"}])
    ids = [first.output[0].id, second.output[0].id]
    references = [{"type": "item_reference", "id": item_id} for item_id in ids]
    third = await desk.create(input=[*references, {"role": "user", "content": "three"}])
    items = desk.store.get("ws_1", third.id).items
    assert [item.id for item in items[:2]] == ids
    assert all(item.type == "message" for item in items)


@pytest.mark.parametrize("item_id", ["msg_" + "0" * 36, "msg_x", "rs_", "x" * 300])
async def test_unknown_reference(item_id: str) -> None:
    """A reference to nothing is refused by name."""
    desk = _Desk([whole_answer()])
    with pytest.raises(InvalidRequest) as caught:
        await desk.create(input=[{"type": "item_reference", "id": item_id}])
    assert caught.value.metadata["param"] == "input[0].id"
    assert desk.writer.steps == []


async def test_other_tenants_see_nothing() -> None:
    """Another workspace's response and its items are as unknown as any."""
    desk = _Desk([whole_answer()])
    made = await desk.create()
    with pytest.raises(ResponseNotFound):
        await desk.create(STRANGER, previous_response_id=made.id)
    with pytest.raises(InvalidRequest):
        await desk.create(STRANGER, input=[{"type": "item_reference", "id": made.output[0].id}])


@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_cost_nothing(stream: bool) -> None:
    """What can be refused is refused before anything is reserved or sent."""
    cases: list[tuple[Principal, dict[str, Any], type[QuillgateError]]] = [
        (Principal("k", 1, "ws_1", frozenset({USAGE_READ})), {}, ScopeMissing),
        (Principal("k", 1, "ws_1", frozenset({INFERENCE}), ("b",)), {}, ModelNotAllowed),
        (PRINCIPAL, {"model": "b"}, ModelNotFound),
        (PRINCIPAL, {"model": "a/ear"}, InvalidRequest),
        (PRINCIPAL, {"background": True}, InvalidRequest),
        (PRINCIPAL, {"previous_response_id": "resp_x"}, ResponseNotFound),
        (PRINCIPAL, {"input": [{"type": "computer_call", "id": "c"}]}, InvalidRequest),
        (PRINCIPAL, {"presence_penalty": 3}, InvalidRequest),
    ]
    for principal, members, error in cases:
        desk = _Desk(_sane(stream=stream))
        with pytest.raises(error):
            await (desk.events(principal, **members) if stream else desk.create(principal, **members))
        assert desk.writer.steps == []
        assert desk.provider.dispatched == 0


async def test_short_allowance_lowers_the_output_limit() -> None:
    """When less is left than the answer could cost, the provider is told to stop where the hold ends."""
    desk = _Desk([whole_answer()])
    desk.writer.left_messages = 2
    await desk.create()
    first, second = desk.provider.prepared
    assert first.max_output_tokens is None
    assert second.max_output_tokens is not None
    assert second.max_output_tokens < 32_000


async def test_shortened_request_that_cannot_be_translated_is_released() -> None:
    """Nothing was dispatched, so nothing is charged."""
    desk = _Desk([whole_answer()])
    desk.writer.left_messages = 2
    desk.provider.prepare_failures = [None, RuntimeError("a bug")]
    with pytest.raises(RuntimeError):
        await desk.create()
    desk.assert_released()
    assert desk.provider.dispatched == 0


async def test_limit_above_the_models_is_lowered() -> None:
    """The hold counts on the model's own limit, so a request for more is sent with that."""
    desk = _Desk([whole_answer()])
    await desk.create(max_output_tokens=60_000)
    assert [prepared.max_output_tokens for prepared in desk.provider.prepared] == [50_000]


async def test_conversation_that_is_too_large_to_be_kept() -> None:
    """It is refused before the provider is asked, unless it need not be kept."""
    large = "x" * (MAX_ITEMS_BYTES + 1)
    desk = _Desk([whole_answer()])
    with pytest.raises(InvalidRequest) as caught:
        await desk.create(input=large)
    assert caught.value.metadata["param"] == "input"
    assert desk.writer.steps == []
    assert (await desk.create(input=large, store=False)).status == "completed"


async def test_encrypted_thoughts_count_for_the_hold() -> None:
    """A provider that can read them charges for them, so the hold is larger by their size."""
    holds = []
    for members in ({}, {"encrypted_content": "x" * 64_000}):
        desk = _Desk(native_steps=[provider_response.from_value(_native_value())])
        thoughts = {"type": "reasoning", "summary": [], **members}
        await desk.create(input=[thoughts, {"role": "user", "content": "x"}])
        reserve = desk.writer.steps[0]
        assert isinstance(reserve, Reserve)
        holds.append(reserve.hold_messages)
    assert holds[1] == holds[0] + 4


def _native_events(*kinds: str) -> list[NativeStep]:
    item = {"type": "message", "id": "msg_up", "role": "assistant", "status": "completed", "content": []}
    known: dict[str, dict[str, Any]] = {
        "created": {"response": {"id": "resp_up", "status": "in_progress"}, "sequence_number": 7},
        "output_item.added": {"output_index": 0, "item": item},
        "something.new": {"surprise": [1]},
        "output_text.delta": {"output_index": 0, "content_index": 0, "item_id": "msg_up", "delta": "Hello"},
        "completed": {"response": _native_value()},
        "incomplete": {"response": _native_value() | {"status": "incomplete"}},
    }
    return [[provider_response_event.from_value({"type": f"response.{kind}", **known[kind]})] for kind in kinds]


def _native_value() -> dict[str, Any]:
    text = {"type": "output_text", "text": "Hello", "annotations": []}
    item = {"type": "message", "id": "msg_up", "role": "assistant", "status": "completed", "content": [text]}
    return {
        "id": "resp_up",
        "object": "response",
        "model": "up-n-2026",
        "status": "completed",
        "store": False,
        "output": [item],
        "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        "surprise": 1,
    }


async def test_native_stream() -> None:
    """A provider's own events pass on, unknown ones too, as a response of ours, numbered without gaps."""
    kinds = ("created", "output_item.added", "something.new", "output_text.delta", "completed")
    desk = _Desk(native_steps=_native_events(*kinds))
    events = await desk.events(metadata={"a": "b"})
    sent = [as_sent(event) for event in events]
    assert [event["sequence_number"] for event in sent] == list(range(6))
    assert [event["type"].removeprefix("response.") for event in sent] == [
        "created",
        "in_progress",
        "output_item.added",
        "something.new",
        "output_text.delta",
        "completed",
    ]
    assert sent[3]["surprise"] == [1]
    final = sent[-1]["response"]
    assert final["id"] == sent[0]["response"]["id"] != "resp_up"
    assert (final["model"], final["store"], final["metadata"], final["surprise"]) == ("a/m", True, {"a": "b"}, 1)
    assert final["usage"]["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert desk.charged() == ("complete", REPORTED, "provider")
    assert desk.store.get("ws_1", final["id"]).response == events[-1].response


async def test_native_whole_response() -> None:
    """The same in one piece; the next turn sends the conversation, because the provider keeps nothing."""
    desk = _Desk(native_steps=[provider_response.from_value(_native_value())])
    made, receipt, ignored = await desk.responses.create(PRINCIPAL, "r", _request(tools=[{"type": "web_search"}]))
    assert (made.id[:5], made.status, ignored) == ("resp_", "completed", ())
    assert receipt.usage == REPORTED
    await desk.create(previous_response_id=made.id)
    _, items, model, _ = desk.native.asked[-1]
    assert [item.role for item in items] == ["user", "assistant", "user"]
    assert model == "up-n"


@pytest.mark.parametrize("steps", [[ProviderTimeout("m", provider="native")], []], ids=["failure", "cut"])
async def test_native_failure_after_output(steps: list[NativeStep]) -> None:
    """It is told in two events, charged for what came, and not kept."""
    desk = _Desk(native_steps=[*_native_events("created", "output_text.delta"), *steps])
    events: list[ResponseEvent] = []
    with pytest.raises(QuillgateError):
        async for part in desk.responses.stream(PRINCIPAL, "r", _request()):
            events += part.batch.pieces
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert desk.charged()[0] == "provider_failed"
    assert len(desk.store) == 0


async def test_native_stream_without_usage() -> None:
    """It is estimated, and the response shows the estimate."""
    value = _native_value()
    del value["usage"]
    end = provider_response_event.from_value({"type": "response.completed", "response": value})
    desk = _Desk(native_steps=[[end]])
    made = await desk.ask(stream=True)
    outcome, usage, source = desk.charged()
    assert (outcome, source) == ("complete", "estimate")
    assert (made.usage.input_tokens, made.usage.output_tokens) == (usage.prompt_tokens, usage.completion_tokens)


async def test_native_incomplete() -> None:
    """The provider's word for an answer that reached its limit is kept."""
    desk = _Desk(native_steps=_native_events("created", "incomplete"))
    assert (await desk.events())[-1].type == "response.incomplete"
    assert desk.charged() == ("complete", REPORTED, "provider")


async def test_reader_that_leaves_a_native_stream() -> None:
    """What came is charged, the provider's stream is closed, and nothing is kept."""
    desk = _Desk(native_steps=_native_events("created", "output_text.delta", "completed"))
    async with aclosing(desk.responses.stream(PRINCIPAL, "r", _request())) as batches:
        await anext(batches)
    assert desk.charged()[0] == "caller_gone"
    assert desk.native.closed == 1
    assert len(desk.store) == 0
