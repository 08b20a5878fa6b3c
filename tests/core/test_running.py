"""What is cut and what is not, and that a cut is never mistaken for a caller who leaves, nor the other way round."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import date
from typing import Any

import pytest
from fakes.candidates import candidate
from fakes.fake_ledger_writer import FakeLedgerWriter
from fakes.fake_provider import FakeProvider, Step, chunk, usage_chunk
from fakes.fake_standings import FakeStandings, standing
from fakes.routes import routed
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.completions import ChatBatch, Completions
from quillgate_core.errors import (
    AllowanceExhausted,
    KeyInvalid,
    ModelNotAllowed,
    QuillgateError,
    ScopeMissing,
    WorkspaceDisabled,
)
from quillgate_core.metering import Metering
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, USAGE_READ, Principal
from quillgate_core.reservation import Reservation, Settle
from quillgate_core.routing import Candidate
from quillgate_core.running import Cutting, Run, Running, Standing
from quillgate_core.upstream import Account

PRINCIPAL = Principal("key_1", 3, "ws_1", frozenset({INFERENCE}))
REQUEST = ChatCompletionRequest(model="m", messages=[ChatMessage(role="user")])


def reservation(key_id: str = "key_1") -> Reservation:
    """One that the key made in its third revision."""
    return Reservation("ws_1", "r", date(2030, 1, 1), 1, "open", None, False, key_id=key_id, key_revision=3)


async def here(call: Callable[[], Any]) -> Any:
    """Runs what would block elsewhere."""
    return call()


async def looked(store: FakeStandings, serving: Candidate, **options: Any) -> QuillgateError | None:
    """Looks once at one run, and returns why it was cut."""
    running = Running()
    run = running.enter(reservation(), lambda: serving)
    await Cutting(running, store, blocking=here, **options).look()
    return run.error


@pytest.mark.parametrize(
    ("now", "error"),
    [
        (standing(), None),
        (standing(revision=4), None),
        (standing(revision=4, models=("x", "m")), None),
        (standing(revision=4, models=("x", "fast")), None),
        (standing(revision=4, scopes=[PLATFORM_ADMIN]), None),
        (standing("key_2"), KeyInvalid),
        (standing(has_ended=True), KeyInvalid),
        (standing(revision=4, scopes=[USAGE_READ]), ScopeMissing),
        (standing(revision=4, models=("x",)), ModelNotAllowed),
        (standing(is_disabled=True), WorkspaceDisabled),
        (standing(closed="daily_message_allowance"), AllowanceExhausted),
    ],
)
async def test_what_lost_its_right_is_cut(now: Standing, error: type[QuillgateError] | None) -> None:
    """It ends with what a new request would be refused with; an allow-list may name the model or an alias of it."""
    found = await looked(FakeStandings((now,)), candidate(), names_of=lambda model_id: (model_id, "fast"))
    assert type(found) is (error or type(None))


async def test_error_of_a_withdrawn_allowance_has_its_metadata() -> None:
    """It is the one that a new request gets: whose allowance, how much, and when it is there again."""
    found = await looked(FakeStandings((standing(closed="daily_message_allowance"),)), candidate())
    assert found is not None
    assert found.metadata == {
        "workspace_id": "ws_1",
        "limit": "daily_message_allowance",
        "allowance": "0",
        "remaining_messages": "0",
        "reset_time": "2030-01-02T00:00:00Z",
    }


async def test_own_key_needs_no_allowance() -> None:
    """What the workspace's own provider key serves goes on when the allowance is taken away."""
    own = Candidate(candidate().model, candidate().upstream, Account("a", byok=True), owner="ws_1")
    assert await looked(FakeStandings((standing(closed="daily_message_allowance"),)), own) is None


async def test_idle_process_asks_nothing() -> None:
    """The database is asked only while something runs, once for each key, and not for requests without one."""
    running, store = Running(), FakeStandings((standing(),))
    cutting = Cutting(running, store, blocking=here)
    running.enter(reservation(""), candidate)
    await cutting.look()
    assert store.asked == []
    runs = [running.enter(reservation(), candidate) for _ in range(3)]
    await cutting.look()
    assert store.asked == [{"key_1"}]
    for run in runs:
        running.leave(run)
    await cutting.look()
    assert len(store.asked) == 1


async def test_request_that_begins_while_rights_are_read_is_left_alone() -> None:
    """It was reserved with what may be newer than what was read."""
    running, late = Running(), list[Run]()
    store = FakeStandings((standing(has_ended=True),))
    store.during = lambda: late.append(running.enter(reservation(), candidate))
    early = running.enter(reservation(), candidate)
    await Cutting(running, store, blocking=here).look()
    assert (type(early.error), late[0].error) == (KeyInvalid, None)


async def test_cut_leaves_no_trace_in_the_task() -> None:
    """The task that was interrupted gets the error, goes on, and can be cancelled afterwards as ever."""
    run, seen = Run(reservation(), candidate), list[object]()

    async def serve() -> None:
        try:
            with run:
                await asyncio.Event().wait()
        except KeyInvalid as error:
            seen.append(error)
        await asyncio.sleep(0)
        seen.append("on")
        await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    run.cut(KeyInvalid())
    run.cut(ScopeMissing(INFERENCE))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (seen, task.cancelling()) == ([run.error, "on"], 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Desk:
    """Chats with one upstream that plays its steps."""

    def __init__(self, *steps: Step) -> None:
        self.provider = FakeProvider(steps, name="a")
        self.writer = FakeLedgerWriter()
        self.running = Running()
        metering = Metering(
            writer=self.writer, daily_store=FakeDailyStore(None), lease_store=FakeLeaseStore(), instance_id="core_1"
        )
        models = [Model("m", 100_000, 1_000, (ModelUpstream("a", "up"),))]
        account = Account("a", chat=self.provider)
        admission, metered = routed(models, [account], metering, running=self.running)
        self.completions = Completions(admission, metered)

    def begin(self, *, stream: bool) -> asyncio.Task[list[ChatBatch]]:
        """Asks in a task of its own, which returns what came."""

        async def ask() -> list[ChatBatch]:
            if stream:
                return [batch async for batch in self.completions.stream_chat(PRINCIPAL, "r", REQUEST)]
            await self.completions.create_chat(PRINCIPAL, "r", REQUEST)
            return []

        return asyncio.create_task(ask())

    def outcome(self) -> str:
        """How the one request was settled."""
        (end,) = self.writer.ends
        assert isinstance(end, Settle)
        return end.outcome


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("first", ["cut", "hang up"])
async def test_hang_up_at_the_same_moment_is_a_hang_up(stream: bool, first: str) -> None:
    """Whichever comes first, the caller's own cancellation is not swallowed, and the row says that it went."""
    desk = Desk(asyncio.Event())
    task = desk.begin(stream=stream)
    await desk.provider.waiting.wait()
    (run,) = desk.running.all()
    if first == "cut":
        run.cut(KeyInvalid())
    task.cancel()
    run.cut(KeyInvalid())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (desk.outcome(), desk.running.all()) == ("caller_gone", ())


async def test_slow_reader_is_cut_at_its_next_read() -> None:
    """Between two reads nothing is awaited: the cut is noticed before the provider is asked for more, by any task."""
    desk = Desk([chunk("Hel")], [chunk("lo"), chunk(finish="stop")], [usage_chunk()])
    async with aclosing(desk.completions.stream_chat(PRINCIPAL, "r", REQUEST)) as batches:
        await asyncio.create_task(anext(batches))  # type: ignore[arg-type]
        (run,) = desk.running.all()
        run.cut(KeyInvalid())
        with pytest.raises(KeyInvalid):
            await asyncio.create_task(anext(batches))  # type: ignore[arg-type]
    assert (desk.outcome(), desk.provider.closed, desk.running.all()) == ("cut", 1, ())


async def test_cut_after_the_end_changes_nothing() -> None:
    """What the provider has given whole is settled as that, and its end is passed on."""
    may_end = asyncio.Event()
    desk = Desk([chunk("Hel"), chunk(finish="stop")], may_end, [usage_chunk()])
    desk.writer.stalls[Settle] = asyncio.Event()
    task = desk.begin(stream=True)
    await desk.provider.waiting.wait()
    (run,) = desk.running.all()
    may_end.set()
    await desk.writer.waiting.wait()
    run.cut(KeyInvalid())
    desk.writer.stalls[Settle].set()
    batches = await task
    assert batches[-1].receipt is not None
    assert (desk.outcome(), desk.running.all()) == ("complete", ())


@pytest.mark.parametrize("failure", [RuntimeError("a bug of ours"), KeyInvalid()])
async def test_only_our_own_cut_is_settled_as_one(failure: Exception) -> None:
    """Another error of the same kind is no cut."""
    desk = Desk([chunk("Hel")], failure)
    task = desk.begin(stream=True)
    with pytest.raises(type(failure)):
        await task
    assert desk.outcome() == "provider_failed"
