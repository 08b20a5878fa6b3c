"""Chat completions: whatever way a request ends, exactly one step ends its reservation, with what was observed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from fakes.fake_ledger_writer import DAY, FakeLedgerWriter
from fakes.fake_provider import FakeProvider, Step, chunk, usage_chunk, whole_answer
from fakes.routes import routed
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.completions import ChatBatch, Completions
from quillgate_core.counting import Usage
from quillgate_core.errors import (
    DuplicateRequest,
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    Overloaded,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QuillgateError,
    ReservationClosed,
    ReservationNotFound,
    ScopeMissing,
)
from quillgate_core.metering import Metering
from quillgate_core.principal import INFERENCE, USAGE_READ, Principal
from quillgate_core.reservation import KeyStale, Release, Reserve, Settle
from quillgate_core.upstream import Account

REPORTED = Usage(10, 0, 5)
PRINCIPAL = Principal("key_1", 3, "ws_1", frozenset({INFERENCE}))
PROVIDER_ERRORS = [
    ProviderRejected("m", provider="fake", code="c", param=""),
    ProviderUnavailable("m", provider="fake"),
    ProviderTimeout("m", provider="fake"),
    Overloaded("m"),
    RuntimeError("a bug in the provider"),
]
BOUND_S = 5.0


@dataclass(frozen=True)
class _Desk:
    """The use case with everything around it faked, and the request that it is asked."""

    provider: FakeProvider
    writer: FakeLedgerWriter
    completions: Completions
    request: ChatCompletionRequest

    async def create(self) -> Any:
        """Ask for a whole answer."""
        return await self.completions.create_chat(PRINCIPAL, "r", self.request)

    def stream(self) -> AsyncIterator[ChatBatch]:
        """Ask for a stream."""
        return self.completions.stream_chat(PRINCIPAL, "r", self.request)

    async def read(self) -> list[ChatBatch]:
        """Ask for a stream and read it to its end."""
        return [batch async for batch in self.stream()]

    async def ask(self, *, stream: bool) -> Any:
        """Ask in one of the two ways, to the end."""
        return await (self.read() if stream else self.create())

    def end(self) -> Settle | Release:
        """The one step that ended the reservation; it names the row exactly."""
        (end,) = self.writer.ends
        assert (end.workspace_id, end.request_id, end.owner, end.day) == ("ws_1", "r", "core_1", DAY)
        return end

    def assert_released(self) -> None:
        """Nothing was charged."""
        end = self.end()
        assert isinstance(end, Release)
        assert end.outcome == "provider_failed"

    def assert_settled(self, outcome: str, usage: Usage | None = None) -> None:
        """It was charged once: the provider's usage, or an estimate if none is given."""
        end = self.end()
        assert isinstance(end, Settle)
        assert end.outcome == outcome
        if usage is None:
            assert end.usage_source == "estimate"
            assert end.usage.prompt_tokens > 0
        else:
            assert (end.usage, end.usage_source) == (usage, "provider")


def _desk(
    *steps: Step, settle_wait_s: float = BOUND_S, clock: Callable[[], float] = lambda: 99.0, **request: Any
) -> _Desk:
    provider, writer = FakeProvider(steps), FakeLedgerWriter()
    metering = Metering(
        writer=writer, daily_store=FakeDailyStore(None), lease_store=FakeLeaseStore(), instance_id="core_1"
    )
    model = Model(
        id="a/m", context_window=100_000, max_output_tokens=50_000, upstreams=(ModelUpstream("fake", "up-m"),)
    )
    admission, metered = routed([model], [Account("fake", chat=provider)], metering, settle_wait_s=settle_wait_s)
    completions = Completions(admission, metered, clock=clock)
    chat = ChatCompletionRequest(**{"model": "a/m", "messages": [ChatMessage(role="user", name="n" * 400)], **request})
    return _Desk(provider, writer, completions, chat)


def _sane_stream() -> list[Step]:
    return [[chunk("Hel"), chunk("lo")], [chunk(finish="stop")], [usage_chunk()]]


async def test_whole_answer_is_settled_with_its_usage() -> None:
    """The receipt is of the provider's usage, and the reservation carries who asked for what."""
    desk = _desk(whole_answer())
    answer, receipt = await desk.create()
    assert (answer.model, answer.choices[0].message.content.text) == ("a/m", "Hello")
    assert (receipt.counted_messages, receipt.usage) == (1, REPORTED)
    desk.assert_settled("complete", REPORTED)
    reserve = desk.writer.steps[0]
    assert isinstance(reserve, Reserve)
    assert (reserve.workspace_id, reserve.request_id, reserve.owner) == ("ws_1", "r", "core_1")
    assert (reserve.key_id, reserve.key_revision) == ("key_1", 3)
    assert (reserve.endpoint, reserve.model, reserve.upstream) == ("chat.completions", "a/m", "fake")
    assert (reserve.hold_messages, reserve.min_hold_messages) == (4, 1)
    assert desk.provider.prepared[0].model == "up-m"


async def test_whole_stream_is_settled_before_its_last_batch() -> None:
    """The reservation comes with the first batch only, the receipt with the last only, and is durable then."""
    desk = _desk(*_sane_stream())
    batches = []
    async for batch in desk.stream():
        assert (batch.receipt is not None) == bool(desk.writer.ends)
        batches.append(batch)
    assert [len(batch.pieces) for batch in batches] == [2, 1, 0]
    assert [batch.reservation is not None for batch in batches] == [True, False, False]
    assert batches[-1].receipt is not None
    assert batches[-1].receipt.usage == REPORTED
    desk.assert_settled("complete", REPORTED)


async def test_usage_chunk_is_in_the_last_batch_when_asked_for() -> None:
    """What the client sees as usage is what is charged."""
    desk = _desk(*_sane_stream(), stream_options={"include_usage": True})
    *_, last = await desk.read()
    (shown,) = last.pieces
    assert last.receipt is not None
    assert (shown.usage.prompt_tokens, shown.usage.completion_tokens) == (10, 5)
    assert last.receipt.usage == REPORTED


@pytest.mark.parametrize("stream", [False, True])
async def test_missing_usage_is_estimated(stream: bool) -> None:
    """A complete answer without usage is charged by its size, and the ledger knows that it is an estimate."""
    desk = _desk(*([[chunk("x" * 4_000, finish="stop")]] if stream else [whole_answer("x" * 4_000, usage=None)]))
    await desk.ask(stream=stream)
    desk.assert_settled("complete")
    end = desk.end()
    assert isinstance(end, Settle)
    assert end.usage.completion_tokens >= 1_000


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", PROVIDER_ERRORS, ids=lambda error: type(error).__name__)
async def test_failure_before_any_output_costs_nothing(error: Exception, stream: bool) -> None:
    """Whatever the provider fails with before it said anything goes to the caller, and the hold is released."""
    desk = _desk(error)
    with pytest.raises(type(error)) as caught:
        await desk.ask(stream=stream)
    assert caught.value is error
    desk.assert_released()


@pytest.mark.parametrize("error", PROVIDER_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("with_usage", [False, True])
async def test_failure_after_output_costs_what_was_observed(error: Exception, with_usage: bool) -> None:
    """The provider's early usage if it sent one, else an estimate; the caller gets the error all the same."""
    members = {"usage": {"prompt_tokens": 10, "completion_tokens": 5}} if with_usage else {}
    desk = _desk([chunk("Hel", **members)], error)
    batches = desk.stream()
    assert len((await anext(batches)).pieces) == 1
    with pytest.raises(type(error)) as caught:
        await anext(batches)
    assert caught.value is error
    desk.assert_settled("provider_failed", REPORTED if with_usage else None)
    assert desk.provider.closed == 1


@pytest.mark.parametrize("steps", [[], [[usage_chunk()]]])
async def test_stream_without_any_choice_costs_nothing(steps: Sequence[Step]) -> None:
    """A stream that ends without having said anything is the provider's failure."""
    desk = _desk(*steps)
    with pytest.raises(ProviderUnavailable):
        await desk.read()
    desk.assert_released()


async def test_cut_stream_is_no_success() -> None:
    """A stream that just stops is charged for what came, and is never ended as if it were whole."""
    desk = _desk([chunk("Hel")])
    with pytest.raises(ProviderUnavailable):
        await desk.read()
    desk.assert_settled("provider_failed")


async def _cancel_at(desk: _Desk, *, stream: bool, waiting: asyncio.Event) -> None:
    task = asyncio.create_task(desk.ask(stream=stream))
    async with asyncio.timeout(BOUND_S):
        await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("stream", [False, True])
async def test_caller_gone_while_reserving(stream: bool) -> None:
    """Nothing is dispatched and nothing is settled here: the writer undoes a reserve whose waiter went away."""
    desk = _desk(whole_answer())
    desk.writer.stalls[Reserve] = asyncio.Event()
    await _cancel_at(desk, stream=stream, waiting=desk.writer.waiting)
    assert desk.writer.ends == []
    assert desk.provider.dispatched == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_caller_gone_while_waiting_for_the_provider(stream: bool) -> None:
    """Even before the first byte the prompt was sent, so what was observed is charged."""
    desk = _desk(asyncio.Event())
    await _cancel_at(desk, stream=stream, waiting=desk.provider.waiting)
    desk.assert_settled("caller_gone")
    assert desk.provider.closed == (1 if stream else 0)


async def test_caller_gone_in_the_stream() -> None:
    """What was observed until then is charged, with the provider's own usage if it sent one."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    desk = _desk([chunk("Hel", usage=usage)], asyncio.Event())
    await _cancel_at(desk, stream=True, waiting=desk.provider.waiting)
    desk.assert_settled("caller_gone", REPORTED)
    assert desk.provider.closed == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_caller_gone_while_settling(stream: bool) -> None:
    """The settlement that is on its way lands; no second step is sent."""
    desk = _desk(*(_sane_stream() if stream else [whole_answer()]))
    desk.writer.stalls[Settle] = asyncio.Event()
    await _cancel_at(desk, stream=stream, waiting=desk.writer.waiting)
    desk.assert_settled("complete", REPORTED)


@pytest.mark.parametrize("stream", [False, True])
async def test_caller_gone_while_releasing(stream: bool) -> None:
    """The release that is on its way lands; no second step is sent."""
    desk = _desk(ProviderUnavailable("m", provider="fake"))
    desk.writer.stalls[Release] = asyncio.Event()
    await _cancel_at(desk, stream=stream, waiting=desk.writer.waiting)
    desk.assert_released()


async def test_caller_gone_while_a_failure_is_settled() -> None:
    """A stream that failed after output is charged once, also when its reader leaves at that moment."""
    desk = _desk([chunk("Hel")], ProviderUnavailable("m", provider="fake"))
    desk.writer.stalls[Settle] = asyncio.Event()
    await _cancel_at(desk, stream=True, waiting=desk.writer.waiting)
    desk.assert_settled("provider_failed")


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_at_every_step_of_the_loop(stream: bool) -> None:
    """Cancelled after any number of turns of the event loop, a dispatched request is ended by exactly one step."""
    for turns in range(12):
        gate = asyncio.Event()
        gate.set()
        desk = _desk(*([gate, *_sane_stream()] if stream else [gate, whole_answer()]))
        task = asyncio.create_task(desk.ask(stream=stream))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # A cancelled reserve is the writer's to undo, and one that was answered has ended here.
        assert len(desk.writer.ends) == desk.provider.dispatched, turns


@pytest.mark.parametrize("read", [0, 1, 2, 3])
async def test_reader_that_stops_between_batches(read: int) -> None:
    """Closing the stream at any yield charges what was observed, once, and closes the provider's stream."""
    desk = _desk(*_sane_stream())
    async with aclosing(desk.stream()) as batches:  # type: ignore[type-var]
        for _ in range(read):
            await anext(batches)
    if read == 0:
        assert desk.writer.steps == []
    elif read < 3:
        desk.assert_settled("caller_gone")
        assert desk.provider.closed == 1
    else:
        desk.assert_settled("complete", REPORTED)


@pytest.mark.parametrize("stream", [False, True])
async def test_refusal_before_the_reservation_costs_nothing(stream: bool) -> None:
    """What can be refused without the ledger is refused before it."""
    cases: list[tuple[_Desk, Principal, type[QuillgateError]]] = [
        (_desk(), Principal("k", 1, "ws_1", frozenset({USAGE_READ})), ScopeMissing),
        (_desk(), Principal("k", 1, "ws_1", frozenset({INFERENCE}), ("b",)), ModelNotAllowed),
        (_desk(model="b"), PRINCIPAL, ModelNotFound),
        (_desk(messages=[]), PRINCIPAL, InvalidRequest),
    ]
    for desk, principal, error in cases:
        with pytest.raises(error):
            if stream:
                await anext(desk.completions.stream_chat(principal, "r", desk.request))
            else:
                await desk.completions.create_chat(principal, "r", desk.request)
        assert desk.writer.steps == []
        assert desk.provider.dispatched == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_request_that_cannot_be_translated_costs_nothing(stream: bool) -> None:
    """The provider's adapter refuses before anything is reserved."""
    desk = _desk()
    desk.provider.prepare_failures = [InvalidRequest("m", param="tools")]
    with pytest.raises(InvalidRequest):
        await desk.ask(stream=stream)
    assert desk.writer.steps == []


@pytest.mark.parametrize("stream", [False, True])
async def test_short_allowance_lowers_the_output_limit(stream: bool) -> None:
    """When less is left than the answer could cost, the provider is told to stop where the hold ends."""
    desk = _desk(*(_sane_stream() if stream else [whole_answer()]))
    desk.writer.left_messages = 2
    await desk.ask(stream=stream)
    first, second = desk.provider.prepared
    assert (first.max_output_tokens, first.stream) == (None, stream)
    size = desk.request.ByteSize()
    assert (second.max_output_tokens, second.stream) == (2 * 16_000 - size, stream)
    assert desk.provider.dispatched == 1


async def test_limit_above_the_models_is_lowered() -> None:
    """The hold counts on the model's own limit, so a request for more is sent with that."""
    for asked in (
        {"max_tokens": 60_000},
        {"max_completion_tokens": 60_000},
        {"max_tokens": 60_000, "max_completion_tokens": 1},
    ):
        desk = _desk(whole_answer(), **asked)
        await desk.create()
        assert [prepared.max_output_tokens for prepared in desk.provider.prepared] == [50_000]
    desk = _desk(whole_answer(), max_tokens=50_000)
    await desk.create()
    assert [prepared.max_output_tokens for prepared in desk.provider.prepared] == [None]


@pytest.mark.parametrize("stream", [False, True])
async def test_shortened_request_that_cannot_be_translated_is_released(stream: bool) -> None:
    """Nothing was dispatched, so nothing is charged."""
    desk = _desk(whole_answer())
    desk.writer.left_messages = 2
    desk.provider.prepare_failures = [None, RuntimeError("a bug")]
    with pytest.raises(RuntimeError):
        await desk.ask(stream=stream)
    desk.assert_released()
    assert desk.provider.dispatched == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_used_request_id_dispatches_nothing(stream: bool) -> None:
    """A replayed reservation belongs to another request, so it is neither served nor ended here."""
    desk = _desk(whole_answer())
    desk.writer.is_replayed = True
    with pytest.raises(DuplicateRequest) as caught:
        await desk.ask(stream=stream)
    assert caught.value.metadata == {"request_id": "r"}
    assert desk.writer.ends == []
    assert desk.provider.dispatched == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("refusal", [KeyStale(), Overloaded("m")])
async def test_refused_reservation_passes_through(refusal: Exception, stream: bool) -> None:
    """What the ledger refuses, such as a key that has changed, is for the gate to handle; nothing needs an end."""
    desk = _desk(whole_answer())
    desk.writer.refusals[Reserve] = refusal
    with pytest.raises(type(refusal)):
        await desk.ask(stream=stream)
    assert desk.writer.ends == []
    assert desk.provider.dispatched == 0


async def _receipt_of(desk: _Desk, *, stream: bool) -> Any:
    if stream:
        return (await desk.read())[-1].receipt
    return (await desk.create())[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_does_not_wait_for_the_database_for_ever(stream: bool) -> None:
    """When settling takes too long the answer goes out with a pending receipt; the settlement lands later."""
    desk = _desk(*(_sane_stream() if stream else [whole_answer()]), settle_wait_s=0.01)
    desk.writer.stalls[Settle] = asyncio.Event()
    async with asyncio.timeout(BOUND_S):
        receipt = await _receipt_of(desk, stream=stream)
    assert (receipt.is_pending, receipt.counted_messages, receipt.usage) == (True, 1, REPORTED)
    desk.assert_settled("complete", REPORTED)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "refusal",
    [ReservationClosed("r", "recovered"), ReservationNotFound("r"), QuillgateError("m"), Overloaded("m")],
    ids=lambda error: type(error).__name__,
)
async def test_answer_survives_a_refused_settlement(
    refusal: Exception, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A hold that was charged meanwhile is no reason to keep the answer back; the log tells."""
    desk = _desk(*(_sane_stream() if stream else [whole_answer()]))
    desk.writer.refusals[Settle] = refusal
    assert (await _receipt_of(desk, stream=stream)).is_pending
    desk.assert_settled("complete", REPORTED)
    assert "request r could not be ended" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stalls", [False, True])
async def test_refused_release_does_not_hide_the_failure(stream: bool, stalls: bool) -> None:
    """The caller hears what the provider did, whatever becomes of the release."""
    desk = _desk(ProviderTimeout("m", provider="fake"), settle_wait_s=0.01)
    desk.writer.refusals[Release] = ReservationClosed("r", "recovered")
    if stalls:
        desk.writer.stalls[Release] = asyncio.Event()
    with pytest.raises(ProviderTimeout):
        await desk.ask(stream=stream)
    desk.assert_released()


@pytest.mark.parametrize("stream", [False, True])
async def test_request_is_never_modified(stream: bool) -> None:
    """The gate may serve the same message again, and in process it is the caller's own."""
    desk = _desk(*(_sane_stream() if stream else [whole_answer()]), max_tokens=60_000, extra_json=b'{"top_k":1}')
    desk.writer.left_messages = 2
    before = desk.request.SerializeToString(deterministic=True)
    await desk.ask(stream=stream)
    assert desk.request.SerializeToString(deterministic=True) == before
