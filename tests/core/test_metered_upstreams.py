"""What the ledger and the caller are told of whoever served: the upstream, whose key, what it cost."""

import asyncio
from typing import Any

import pytest
from fakes.fake_ledger_writer import FakeLedgerWriter
from fakes.fake_own_keys import FakeOwnKeys, own_key
from fakes.fake_provider import FakeProvider, Step, chunk, usage_chunk, whole_answer
from fakes.routes import routed
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.completions import Completions
from quillgate_core.errors import ModelNotFound, ProviderUnavailable
from quillgate_core.metering import Metering
from quillgate_core.pricing import Price
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Note, Release, Reserve, Settle
from quillgate_core.routing import Candidate
from quillgate_core.upstream import Account, FoundUsage
from quillgate_core.upstream_health import UpstreamHealth

PRINCIPAL = Principal("key_1", 3, "ws_1", frozenset({INFERENCE}))
DOWN = ProviderUnavailable("down", provider="a")
SANE_STREAM: list[Step] = [[chunk("Hel"), chunk("lo")], [chunk(finish="stop")], [usage_chunk()]]
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class FakeUsageLookup:
    """Knows of nothing; that it is there is enough."""

    async def look_up(self, upstream_request_id: str) -> FoundUsage | None:
        return None


class Desk:
    """Chats with two upstreams that play their steps; the second has a price."""

    def __init__(self, first: list[Step], second: list[Step], **account: Any) -> None:
        self.first, self.second = FakeProvider(first), FakeProvider(second)
        self.writer = FakeLedgerWriter()
        self.own = FakeOwnKeys()
        metering = Metering(
            writer=self.writer, daily_store=FakeDailyStore(None), lease_store=FakeLeaseStore(), instance_id="core_1"
        )
        price = Price(input="1", output="2")
        upstreams = (ModelUpstream("a", "up-a"), ModelUpstream("b", "up-b", price=price))
        self.upstreams = upstreams
        models = [Model("m", 100_000, 1_000, upstreams), Model("other", 100_000, 1_000, upstreams[1:])]
        self.accounts = [Account("a", chat=self.first, **account), Account("b", chat=self.second, **account)]
        self.health = UpstreamHealth()
        admission, metered = routed(models, self.accounts, metering, own_keys=self.own, health=self.health)
        self.completions = Completions(admission, metered)

    async def ask(self, *, stream: bool, **members: Any) -> tuple[str, str, str]:
        """Ask, and return the text, what the answer calls the model, and who answered."""
        request = ChatCompletionRequest(**{"model": "m", "messages": [ChatMessage(role="user")], **members})
        if not stream:
            answer, receipt = await self.completions.create_chat(PRINCIPAL, "r", request)
            return answer.choices[0].message.content.text, answer.model, receipt.upstream
        batches = [batch async for batch in self.completions.stream_chat(PRINCIPAL, "r", request)]
        pieces = [piece for batch in batches for piece in batch.pieces]
        assert batches[-1].receipt is not None
        assert [batch.upstream for batch in batches[:-1]] == [batches[0].upstream] * (len(batches) - 1)
        assert batches[-1].receipt.upstream == batches[0].upstream
        text = "".join(choice.delta.content for piece in pieces for choice in piece.choices)
        return text, pieces[0].model, batches[0].upstream

    def end(self) -> Settle:
        """The one step that ended the reservation."""
        (end,) = self.writer.ends
        assert isinstance(end, Settle)
        return end

    def under_way(self) -> int:
        """How many requests the providers are thought to have."""
        candidates = [Candidate(Model("m", 10, 5, (up,)), up, self.accounts[0]) for up in self.upstreams]
        return sum(self.health.view(candidate).in_flight for candidate in candidates)

    def notes(self) -> list[Note]:
        """What was noted."""
        return [step for step in self.writer.steps if isinstance(step, Note)]


def played(stream: bool) -> list[Step]:
    """A good answer of either form."""
    return list(SANE_STREAM) if stream else [whole_answer()]


@WAYS
async def test_who_answered_is_settled(stream: bool) -> None:
    """Not who was reserved for: the row, the receipt and the answer agree; it costs the list price of that one."""
    desk = Desk([DOWN], played(stream))
    assert await desk.ask(stream=stream) == ("Hello", "m", "b/up-b")
    (reserve,) = [step for step in desk.writer.steps if isinstance(step, Reserve)]
    assert reserve.upstream == "a"
    end = desk.end()
    assert (end.upstream, end.byok, end.outcome, end.usage_source) == ("b", False, "complete", "provider")
    assert end.cost_picodollars == 10 * 10**6 + 5 * 2 * 10**6
    assert (end.upstream_request_id, desk.notes()) == ("", [])
    assert (desk.first.dispatched, desk.second.dispatched) == (1, 1)


@WAYS
async def test_unknown_price_costs_nobody_knows_what(stream: bool) -> None:
    """It is not zero."""
    desk = Desk(played(stream), [])
    assert (await desk.ask(stream=stream))[2] == "a/up-a"
    assert desk.end().cost_picodollars is None


@WAYS
async def test_own_key_is_told_apart(stream: bool) -> None:
    """What the workspace's own key served is marked, also when the allowance was held for the gateway's."""
    desk = Desk(played(stream), [])
    own = Account("a", byok=True, chat=desk.first)
    desk.own.keys = (own_key(own, allow_fallback=True),)
    await desk.ask(stream=stream)
    (reserve,) = [step for step in desk.writer.steps if isinstance(step, Reserve)]
    assert (reserve.byok, desk.end().byok) == (False, True)


@WAYS
async def test_all_failed_is_released_once(stream: bool) -> None:
    """Two dispatches, one release, no charge."""
    desk = Desk([DOWN], [DOWN])
    with pytest.raises(ProviderUnavailable):
        await desk.ask(stream=stream)
    (end,) = desk.writer.ends
    assert isinstance(end, Release)
    assert (desk.first.dispatched, desk.second.dispatched) == (1, 1)


async def test_answers_that_can_be_asked_about_are_noted_once() -> None:
    """By the id that the provider gave, with the first output of whoever answers; the settlement has it too."""
    stream: list[Step] = [[chunk(choices=[])], [chunk("Hel")], [chunk("lo")], [chunk(finish="stop")]]
    desk = Desk([[chunk(choices=[], id="dead")], DOWN], stream, usage_lookup=FakeUsageLookup())
    await desk.ask(stream=True)
    (note,) = desk.notes()
    assert (note.workspace_id, note.request_id, note.owner) == ("ws_1", "r", "core_1")
    assert (note.upstream, note.upstream_request_id) == ("b", "up-1")
    assert desk.end().upstream_request_id == "up-1"
    assert desk.writer.steps.index(note) < desk.writer.steps.index(desk.end())


@WAYS
async def test_a_charge_keeps_the_providers_id(stream: bool) -> None:
    """Also of an answer that came whole, where the provider keeps a record that the charge can be held against."""
    desk = Desk(played(stream), [], usage_lookup=FakeUsageLookup())
    await desk.ask(stream=stream)
    assert (desk.end().outcome, desk.end().upstream_request_id) == ("complete", "up-1")


async def test_answers_without_an_id_are_not_noted() -> None:
    """There is nothing to ask by."""
    desk = Desk([[chunk("Hi", id=""), chunk(finish="stop", id="")]], [], usage_lookup=FakeUsageLookup())
    await desk.ask(stream=True)
    assert (desk.notes(), desk.end().upstream_request_id) == ([], "")


async def test_caller_that_leaves_is_charged_with_whom_it_left() -> None:
    """The row names the upstream, and the id by which its bill can be asked for."""
    desk = Desk([DOWN], [[chunk("Hel")], asyncio.Event()], usage_lookup=FakeUsageLookup())
    asking = asyncio.create_task(desk.ask(stream=True))
    await desk.second.waiting.wait()
    assert desk.under_way() == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    end = desk.end()
    assert (end.outcome, end.upstream, end.upstream_request_id) == ("caller_gone", "b", "up-1")
    assert desk.under_way() == 0


async def test_failure_after_output_is_charged_to_who_gave_it() -> None:
    """Nobody else is asked."""
    desk = Desk([[chunk("Hel")], DOWN], [])
    with pytest.raises(ProviderUnavailable):
        await desk.ask(stream=True)
    assert (desk.end().upstream, desk.end().outcome, desk.second.dispatched) == ("a", "provider_failed", 0)
    assert desk.under_way() == 0


@WAYS
async def test_fallback_model_answers_under_its_own_id(stream: bool) -> None:
    """When nobody serves the first model, the next one of the request does, and says so; the row keeps the first."""
    desk = Desk(played(stream), [DOWN])
    assert await desk.ask(stream=stream, model="other", extra_json=b'{"models":["m"]}') == ("Hello", "m", "a/up-a")
    (reserve,) = [step for step in desk.writer.steps if isinstance(step, Reserve)]
    assert (reserve.model, desk.end().upstream) == ("other", "a")


async def test_fallback_models_must_exist() -> None:
    """A list with a name that nobody knows is a mistake, told before anything is reserved."""
    desk = Desk([], [])
    with pytest.raises(ModelNotFound):
        await desk.ask(stream=False, extra_json=b'{"models":["none"]}')
    assert desk.writer.steps == []
