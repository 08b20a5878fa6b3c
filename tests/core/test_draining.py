"""Callers that leave a provider which bills its whole answer: it is read on to its usage, within bounds."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from fakes.fake_ledger_writer import FakeLedgerWriter
from fakes.fake_provider import FakeProvider, Step, chunk, usage_chunk, whole_answer
from fakes.routes import routed
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate.v1.text_completion_pb2 import TextCompletionRequest
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.completions import ChatBatch, Completions
from quillgate_core.counting import Usage
from quillgate_core.draining import QUEUE_BATCHES, Draining
from quillgate_core.errors import KeyInvalid, ProviderUnavailable
from quillgate_core.metering import Metering
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Release, Settle
from quillgate_core.running import Running
from quillgate_core.text_completions import TextCompletions
from quillgate_core.upstream import Account

PRINCIPAL = Principal("key_1", 3, "ws_1", frozenset({INFERENCE}))
REQUEST = ChatCompletionRequest(model="m", messages=[ChatMessage(role="user")])
PAID = Usage(10, 0, 5)
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def rest(stream: bool) -> list[Step]:
    """What ends a good answer of either form."""
    return [[chunk("Hello"), chunk(finish="stop")], [usage_chunk()]] if stream else [whole_answer()]


class Desk:
    """Chats with an upstream that drains and plays its steps, and another one that would come after it."""

    def __init__(self, *steps: Step, draining: Draining | None = None, drains: bool = True) -> None:
        self.provider = FakeProvider(steps, name="a")
        self.next = FakeProvider([whole_answer()], name="b")
        self.writer = FakeLedgerWriter()
        self.running = Running()
        metering = Metering(
            writer=self.writer, daily_store=FakeDailyStore(None), lease_store=FakeLeaseStore(), instance_id="core_1"
        )
        models = [Model("m", 100_000, 1_000, (ModelUpstream("a", "up"), ModelUpstream("b", "up")))]
        accounts = [Account("a", chat=self.provider, drains=drains), Account("b", chat=self.next)]
        draining = draining or Draining()
        admission, metered = routed(models, accounts, metering, running=self.running, draining=draining)
        self.completions = Completions(admission, metered)
        self.texts = TextCompletions(admission, metered)

    def open(self) -> AsyncGenerator[ChatBatch, None]:
        """Asks for a stream."""
        return self.completions.stream_chat(PRINCIPAL, "r", REQUEST)

    def begin(self, *, stream: bool) -> asyncio.Task[list[ChatBatch]]:
        """Asks in a task of its own, which returns what came."""

        async def ask() -> list[ChatBatch]:
            if stream:
                return [batch async for batch in self.open()]
            await self.completions.create_chat(PRINCIPAL, "r", REQUEST)
            return []

        return asyncio.create_task(ask())

    async def end(self) -> Settle | Release:
        """The one step that ended the request, once it is there."""
        async with asyncio.timeout(5):
            while not self.writer.ends:
                await asyncio.sleep(0.005)
        (end,) = self.writer.ends
        return end

    async def settled(self) -> tuple[str, str, Usage]:
        """How the one request was settled: outcome, source and usage."""
        end = await self.end()
        assert isinstance(end, Settle)
        return end.outcome, end.usage_source, end.usage


async def leave(task: "asyncio.Task[list[ChatBatch]]") -> None:
    """Leaves, and sees that nothing swallows it."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@WAYS
async def test_caller_who_stays_notices_nothing(stream: bool) -> None:
    """The answer comes whole and in order, and is settled as complete."""
    desk = Desk(*([[chunk("Hel")]] if stream else []), *rest(stream))
    batches = await desk.begin(stream=stream)
    pieces = [piece for batch in batches for piece in batch.pieces]
    assert [c.delta.content for p in pieces for c in p.choices] == (["Hel", "Hello", ""] if stream else [])
    assert await desk.settled() == ("complete", "provider", PAID)
    assert desk.running.all() == ()


@WAYS
@pytest.mark.parametrize("has_begun", [False, True])
async def test_provider_is_read_on_to_its_usage(stream: bool, has_begun: bool) -> None:
    """Before any output and after some, the row is settled with what the provider says at its end, as drained."""
    may_end = asyncio.Event()
    begun: list[Step] = [[chunk("Hel")]] if has_begun and stream else []
    desk = Desk(*begun, may_end, *rest(stream))
    task = desk.begin(stream=stream)
    await desk.provider.waiting.wait()
    await leave(task)
    assert (desk.writer.ends, desk.provider.closed) == ([], 0)
    may_end.set()
    assert await desk.settled() == ("drained", "provider", PAID)
    assert desk.running.all() == ()


async def test_reader_who_stops_between_two_reads_leaves_too() -> None:
    """A stream that is closed while nothing is awaited is read on as well, also when the queue was full."""
    many: list[Step] = [[chunk("x")] for _ in range(QUEUE_BATCHES * 3)]
    desk = Desk(*many, *rest(True))
    async with aclosing(desk.open()) as batches:
        await anext(batches)
        for _ in range(QUEUE_BATCHES * 10):
            await asyncio.sleep(0)
        assert desk.writer.ends == []  # as far as there is room, and no further
    assert await desk.settled() == ("drained", "provider", PAID)


@WAYS
async def test_cancel_is_the_default(stream: bool) -> None:
    """Where nothing else is said, the provider is left at once and what was observed is charged."""
    desk = Desk(asyncio.Event(), *rest(stream), drains=False)
    task = desk.begin(stream=stream)
    await desk.provider.waiting.wait()
    await leave(task)
    outcome, source, usage = await desk.settled()
    assert (outcome, source) == ("caller_gone", "estimate")
    assert usage != PAID
    assert desk.provider.closed == int(stream)


@WAYS
async def test_no_more_than_so_many_are_read_on(stream: bool) -> None:
    """Beyond the bound the provider is left, as by default; once one has ended there is room again."""
    draining, may_end = Draining(max_drains=1), asyncio.Event()
    desks = [Desk(may_end, *rest(stream), draining=draining) for _ in range(3)]
    for desk in desks[:2]:
        task = desk.begin(stream=stream)
        await desk.provider.waiting.wait()
        await leave(task)
    assert (await desks[1].settled())[:2] == ("caller_gone", "estimate")
    assert desks[0].writer.ends == []
    may_end.set()
    assert await desks[0].settled() == ("drained", "provider", PAID)
    may_end.clear()
    task = desks[2].begin(stream=stream)
    await desks[2].provider.waiting.wait()
    await leave(task)
    may_end.set()
    assert await desks[2].settled() == ("drained", "provider", PAID)


@WAYS
async def test_no_longer_than_so_long(stream: bool) -> None:
    """A provider that does not end in time is left, and what was observed is charged."""
    desk = Desk(asyncio.Event(), *rest(stream), draining=Draining(drain_s=0.05))
    task = desk.begin(stream=stream)
    await desk.provider.waiting.wait()
    await leave(task)
    assert (await desk.settled())[:2] == ("caller_gone", "estimate")
    assert (desk.provider.closed, desk.running.all()) == (int(stream), ())


@WAYS
async def test_stop_ends_them(stream: bool) -> None:
    """At the stop of the process what was observed is settled at once, and nothing is read on any more."""
    draining = Draining()
    desk, late = (Desk(asyncio.Event(), *rest(stream), draining=draining) for _ in range(2))
    task, late_task = desk.begin(stream=stream), late.begin(stream=stream)
    await asyncio.gather(desk.provider.waiting.wait(), late.provider.waiting.wait())
    await leave(task)
    await draining.stop()
    assert len(desk.writer.ends) == 1
    assert (await desk.settled())[:2] == ("caller_gone", "estimate")
    assert late.writer.ends == []
    await leave(late_task)
    assert (await late.settled())[:2] == ("caller_gone", "estimate")


@WAYS
async def test_nobody_else_is_asked_for_a_caller_who_left(stream: bool) -> None:
    """A provider that fails without output after that costs nothing, and the next one is not bothered."""
    may_fail = asyncio.Event()
    desk = Desk(may_fail, ProviderUnavailable("down", provider="a"))
    task = desk.begin(stream=stream)
    await desk.provider.waiting.wait()
    await leave(task)
    may_fail.set()
    assert isinstance(await desk.end(), Release)
    assert desk.next.dispatched == 0


@WAYS
async def test_leaving_at_every_step_ends_the_request(stream: bool) -> None:
    """At whichever await the caller leaves, also before the work has begun, the reservation is ended, and once."""
    for steps in range(30):
        desk = Desk(*([[chunk("Hel")]] if stream else []), *rest(stream))
        task = desk.begin(stream=stream)
        for _ in range(steps):
            await asyncio.sleep(0)
        was_reserved = bool(desk.writer.answered)
        task.cancel()
        await asyncio.wait((task,))
        for _ in range(30):
            await asyncio.sleep(0)
        assert desk.running.all() == ()
        assert len(desk.writer.ends) == int(was_reserved)


@WAYS
async def test_failure_reaches_the_caller(stream: bool) -> None:
    """What fails in the task of its own is raised where the answer was asked for."""
    desk = Desk(*([[chunk("Hel")]] if stream else []), RuntimeError("a bug of ours"))
    with pytest.raises(RuntimeError, match="a bug of ours"):
        await desk.begin(stream=stream)


@WAYS
async def test_cut_ends_what_drains(stream: bool) -> None:
    """A key that loses its right is cut as anywhere else, also when its caller has left before."""
    desk = Desk(asyncio.Event(), *rest(stream))
    task = desk.begin(stream=stream)
    await desk.provider.waiting.wait()
    await leave(task)
    (run,) = desk.running.all()
    run.cut(KeyInvalid())
    assert (await desk.settled())[:2] == ("cut", "estimate")
    assert desk.running.all() == ()


async def test_several_calls_are_not_gone_on_with() -> None:
    """Where prompts are asked one after the other, leaving is the end: the others would be sent for nobody."""
    may_end = asyncio.Event()
    desk = Desk(may_end, *rest(True))
    request = TextCompletionRequest(model="m")
    for text in ("one", "two"):
        request.prompt.list.items.add(text=text)

    async def ask() -> list[ChatBatch]:
        return [batch async for batch in desk.texts.stream(PRINCIPAL, "r", request)]  # type: ignore[misc]

    task = asyncio.create_task(ask())
    await desk.provider.waiting.wait()
    await leave(task)
    may_end.set()
    assert (await desk.settled())[0] == "caller_gone"
    assert desk.provider.dispatched == 1
