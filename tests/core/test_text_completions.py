"""Text completions: whatever way a request ends, exactly one step ends its reservation, with what was observed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from fakes.fake_ledger_writer import DAY, FakeLedgerWriter
from fakes.fake_provider import FakeProvider, chunk, usage_chunk, whole_answer
from fakes.fake_text_provider import USAGE, FakeTextProvider, piece, whole
from fakes.routes import routed
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate.v1.text_completion_pb2 import TextCompletionRequest
from quillgate_codec import text_completion_request
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.counting import Usage
from quillgate_core.errors import (
    DuplicateRequest,
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    ProviderTimeout,
    ProviderUnavailable,
    QuillgateError,
    ScopeMissing,
)
from quillgate_core.metering import Metering
from quillgate_core.principal import INFERENCE, USAGE_READ, Principal
from quillgate_core.reservation import Release, Reserve, Settle
from quillgate_core.text_completions import PieceBatch, TextCompletions
from quillgate_core.upstream import Account

REPORTED = Usage(10, 0, 5)
PRINCIPAL = Principal("key_1", 3, "ws_1", frozenset({INFERENCE}))
BOUND_S = 5.0
NATIVE, CHAT = "a/native", "a/chat"
BOTH = pytest.mark.parametrize("model", [NATIVE, CHAT])
EITHER = pytest.mark.parametrize("stream", [False, True])


@dataclass(frozen=True)
class _Desk:
    """The use case with everything around it faked, and the request that it is asked."""

    native: FakeTextProvider
    chat: FakeProvider
    writer: FakeLedgerWriter
    texts: TextCompletions
    request: TextCompletionRequest

    async def create(self) -> Any:
        """Ask for a whole answer."""
        return await self.texts.create(PRINCIPAL, "r", self.request)

    def stream(self) -> AsyncIterator[PieceBatch]:
        """Ask for a stream."""
        return self.texts.stream(PRINCIPAL, "r", self.request)

    async def ask(self, *, stream: bool) -> Any:
        """Ask in one of the two ways, to the end."""
        return [batch async for batch in self.stream()] if stream else await self.create()

    @property
    def dispatched(self) -> int:
        """How many calls of providers were made."""
        return self.native.dispatched + self.chat.dispatched

    def end(self) -> Settle | Release:
        """The one step that ended the reservation; it names the row exactly."""
        (end,) = self.writer.ends
        assert (end.workspace_id, end.request_id, end.owner, end.day) == ("ws_1", "r", "core_1", DAY)
        return end

    def assert_released(self) -> None:
        """Nothing was charged."""
        assert isinstance(self.end(), Release)

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


def _desk(*steps: Any, **request: Any) -> _Desk:
    """Makes a desk whose providers both play the steps."""
    native, chat, writer = FakeTextProvider(steps), FakeProvider(steps, name="chatty"), FakeLedgerWriter()
    metering = Metering(
        writer=writer, daily_store=FakeDailyStore(None), lease_store=FakeLeaseStore(), instance_id="core_1"
    )
    chatty, speaks = ModelUpstream("chatty", "up-chat"), ModelUpstream("native", "up-text")
    models = [
        Model(NATIVE, 100_000, 50_000, (chatty, speaks)),
        Model(CHAT, 100_000, 50_000, (chatty,)),
        Model("a/ear", 100_000, 50_000, (chatty,), endpoints=("audio.transcriptions",)),
    ]
    accounts = [Account("chatty", chat=chat), Account("native", text=native)]
    admission, metered = routed(models, accounts, metering, settle_wait_s=BOUND_S)
    texts = TextCompletions(admission, metered, clock=lambda: 99.0)
    asked = text_completion_request.from_value({"model": NATIVE, "prompt": "x" * 400, **request})
    return _Desk(native, chat, writer, texts, asked)


def _steps(model: str, *, stream: bool) -> list[Any]:
    """A sane answer of the provider that serves a model."""
    if model == CHAT:
        return [[chunk("Hel"), chunk("lo", finish="stop")], [usage_chunk()]] if stream else [whole_answer()]
    return [[piece("Hel"), piece("lo", finish="stop")], [piece(usage=USAGE)]] if stream else [[whole()]]


@BOTH
async def test_whole_answer_is_settled_with_its_usage(model: str) -> None:
    """The receipt is of the provider's usage, and the reservation carries who asked for what."""
    desk = _desk(*_steps(model, stream=False), model=model)
    answer, receipt = await desk.create()
    assert (answer.model, answer.object, answer.choices[0].text) == (model, "text_completion", "Hello")
    assert (receipt.counted_messages, receipt.usage) == (1, REPORTED)
    desk.assert_settled("complete", REPORTED)
    reserve = desk.writer.steps[0]
    assert isinstance(reserve, Reserve)
    assert (reserve.endpoint, reserve.model, reserve.key_id) == ("completions", model, "key_1")
    assert reserve.upstream == ("native" if model == NATIVE else "chatty")
    assert (reserve.hold_messages, reserve.min_hold_messages) == (4, 1)


async def test_upstream_that_speaks_it_is_preferred() -> None:
    """A provider that speaks text completions is asked even if the catalogue names another one first."""
    desk = _desk([whole()])
    await desk.create()
    assert (desk.native.models, desk.chat.prepared) == (["up-text"], [])


@BOTH
async def test_whole_stream_is_settled_before_its_last_batch(model: str) -> None:
    """The reservation comes with the first batch only, the receipt with the last only, and is durable then."""
    desk = _desk(*_steps(model, stream=True), model=model, stream_options={"include_usage": True})
    batches = []
    async for batch in desk.stream():
        assert (batch.receipt is not None) == bool(desk.writer.ends)
        batches.append(batch)
    assert [len(batch.pieces) for batch in batches] == [2, 1]
    assert [batch.reservation is not None for batch in batches] == [True, False]
    assert batches[-1].receipt is not None
    assert batches[-1].receipt.usage == REPORTED
    assert batches[-1].pieces[0].usage.prompt_tokens == 10
    desk.assert_settled("complete", REPORTED)


@BOTH
@EITHER
@pytest.mark.parametrize("error", [ProviderTimeout("m", provider="p"), RuntimeError("a bug")])
async def test_failure_before_any_output_costs_nothing(model: str, stream: bool, error: Exception) -> None:
    """Whatever the provider fails with goes to the caller as it is, and the hold is released."""
    desk = _desk(error, model=model)
    with pytest.raises(type(error)) as caught:
        await desk.ask(stream=stream)
    assert caught.value is error
    desk.assert_released()


@BOTH
async def test_failure_after_output_costs_what_was_observed(model: str) -> None:
    """An estimate without usage; the caller gets the error all the same."""
    first = chunk("Hel") if model == CHAT else piece("Hel")
    desk = _desk([first], ProviderUnavailable("m", provider="p"), model=model)
    with pytest.raises(ProviderUnavailable):
        await desk.ask(stream=True)
    desk.assert_settled("provider_failed")
    assert desk.native.closed + desk.chat.closed == 1


async def _cancel_at(desk: _Desk, *, stream: bool, waiting: asyncio.Event) -> None:
    task = asyncio.create_task(desk.ask(stream=stream))
    async with asyncio.timeout(BOUND_S):
        await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@BOTH
@EITHER
async def test_caller_gone_while_waiting_for_the_provider(model: str, stream: bool) -> None:
    """Even before the first byte the prompt was sent, so what was observed is charged."""
    desk = _desk(asyncio.Event(), model=model)
    await _cancel_at(desk, stream=stream, waiting=(desk.chat if model == CHAT else desk.native).waiting)
    desk.assert_settled("caller_gone")


@EITHER
async def test_caller_gone_while_reserving(stream: bool) -> None:
    """Nothing is dispatched and nothing is settled here: the writer undoes a reserve whose waiter went away."""
    desk = _desk([whole()])
    desk.writer.stalls[Reserve] = asyncio.Event()
    await _cancel_at(desk, stream=stream, waiting=desk.writer.waiting)
    assert (desk.writer.ends, desk.dispatched) == ([], 0)


@BOTH
@EITHER
async def test_cancelled_at_every_step_of_the_loop(model: str, stream: bool) -> None:
    """Cancelled after any number of turns of the event loop, a dispatched request is ended by exactly one step."""
    for prompt in ("one", ["one", "two", "three"]):
        for turns in range(16):
            gate = asyncio.Event()
            gate.set()
            desk = _desk(gate, *_steps(model, stream=stream), model=model, prompt=prompt)
            task = asyncio.create_task(desk.ask(stream=stream))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert len(desk.writer.ends) <= 1, turns
            assert bool(desk.writer.ends) or not desk.dispatched, turns
            assert len(asyncio.all_tasks()) == 1, turns


@pytest.mark.parametrize("read", [0, 1, 2])
async def test_reader_that_stops_between_batches(read: int) -> None:
    """Closing the stream at any yield charges what was observed, once, and closes the provider's stream."""
    desk = _desk([piece("a")], [piece("b")], [piece("", finish="stop")])
    async with aclosing(desk.stream()) as batches:  # type: ignore[type-var]
        for _ in range(read):
            await anext(batches)
    if read == 0:
        assert desk.writer.steps == []
    else:
        desk.assert_settled("caller_gone")
        assert desk.native.closed == 1


async def test_prompts_share_one_reservation() -> None:
    """Three chats are one request: held together, usage summed, choices numbered by prompt."""
    desk = _desk(whole_answer(), model=CHAT, prompt=["a", "b", "c"], max_tokens=40_000)
    answer, receipt = await desk.create()
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert receipt.usage == Usage(30, 0, 15)
    assert desk.chat.dispatched == 3
    reserve, _ = desk.writer.steps
    assert isinstance(reserve, Reserve)
    assert reserve.hold_messages == 8  # three times 40,000 tokens and a few for the prompts
    assert {prepared.max_output_tokens for prepared in desk.chat.prepared} == {40_000}


async def test_what_a_provider_reads_elsewhere_is_held() -> None:
    """A member that makes the provider search the web has no bound but the context window."""
    desk = _desk(whole_answer(), model=CHAT, max_tokens=1, web_search_options={})
    await desk.create()
    reserve = desk.writer.steps[0]
    assert isinstance(reserve, Reserve)
    assert reserve.hold_messages == 7  # 100,001 tokens


async def test_stream_asks_one_prompt_after_the_other() -> None:
    """A cut answer to one prompt ends the stream, and the prompts after it are not asked."""
    desk = _desk([chunk("one", finish="stop")], model=CHAT, prompt=["a", "b"])
    await desk.ask(stream=True)
    assert desk.chat.dispatched == 2
    desk = _desk([chunk("one")], model=CHAT, prompt=["a", "b"])
    with pytest.raises(ProviderUnavailable):
        await desk.ask(stream=True)
    assert desk.chat.dispatched == 1
    desk.assert_settled("provider_failed")


async def test_caller_gone_between_prompts() -> None:
    """What the first prompt used is charged, with an estimate of the second; the third was never sent."""
    desk = _desk([chunk("one", finish="stop"), usage_chunk()], model=CHAT, prompt=["a", "x" * 400, "y" * 4000])
    async with aclosing(desk.stream()) as batches:  # type: ignore[type-var]
        await anext(batches)
        await anext(batches)
    end = desk.end()
    assert isinstance(end, Settle)
    assert (end.outcome, end.usage_source) == ("caller_gone", "provider")
    assert end.usage == Usage(20, 0, 10)


@EITHER
async def test_refusal_before_the_reservation_costs_nothing(stream: bool) -> None:
    """What can be refused without the ledger is refused before it."""
    cases: list[tuple[_Desk, Principal, type[QuillgateError]]] = [
        (_desk(), Principal("k", 1, "ws_1", frozenset({USAGE_READ})), ScopeMissing),
        (_desk(), Principal("k", 1, "ws_1", frozenset({INFERENCE}), ("b",)), ModelNotAllowed),
        (_desk(model="b"), PRINCIPAL, ModelNotFound),
        (_desk(model="a/ear"), PRINCIPAL, InvalidRequest),
        (_desk(prompt=[]), PRINCIPAL, InvalidRequest),
        (_desk(model=CHAT, suffix="x"), PRINCIPAL, InvalidRequest),
    ]
    for desk, principal, error in cases:
        with pytest.raises(error):
            if stream:
                await anext(desk.texts.stream(principal, "r", desk.request))
            else:
                await desk.texts.create(principal, "r", desk.request)
        assert (desk.writer.steps, desk.dispatched) == ([], 0)


@EITHER
async def test_short_allowance_lowers_the_output_limit(stream: bool) -> None:
    """When less is left than the answer could cost, the provider is told to stop where the hold ends."""
    desk = _desk(*_steps(NATIVE, stream=stream), n=2, best_of=3)
    desk.writer.left_messages = 2
    await desk.ask(stream=stream)
    assert desk.native.limits == [None, (2 * 16_000 - desk.request.ByteSize()) // 3]


async def test_limit_above_the_models_is_lowered() -> None:
    """The provider is never asked for more than the model can."""
    desk = _desk([whole()], max_tokens=60_000)
    await desk.create()
    assert desk.native.limits == [50_000]


@EITHER
async def test_shortened_request_that_cannot_be_translated_is_released(stream: bool) -> None:
    """Nothing was dispatched, so nothing is charged."""
    desk = _desk([whole()])
    desk.writer.left_messages = 2
    desk.native.prepare_failures = [None, RuntimeError("a bug")]
    with pytest.raises(RuntimeError):
        await desk.ask(stream=stream)
    desk.assert_released()
    assert desk.dispatched == 0


@EITHER
async def test_used_request_id_dispatches_nothing(stream: bool) -> None:
    """A replayed reservation belongs to another request, so it is neither served nor ended here."""
    desk = _desk([whole()])
    desk.writer.is_replayed = True
    with pytest.raises(DuplicateRequest):
        await desk.ask(stream=stream)
    assert (desk.writer.ends, desk.dispatched) == ([], 0)


@BOTH
@EITHER
async def test_request_is_never_modified(model: str, stream: bool) -> None:
    """The gate may serve the same message again, and in process it is the caller's own."""
    desk = _desk(*_steps(model, stream=stream), model=model, max_tokens=60_000, top_k=1)
    desk.writer.left_messages = 2
    before = desk.request.SerializeToString(deterministic=True)
    await desk.ask(stream=stream)
    assert desk.request.SerializeToString(deterministic=True) == before
