"""Between the check of a request and its dispatch: what is held, for whom, and with which keys."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fakes.candidates import model_of
from fakes.fake_ledger_writer import FakeLedgerWriter
from fakes.fake_own_keys import FakeOwnKeys, own_key
from fakes.fake_provider import TRAITS, FakeProvider
from fakes.routes import routed
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate_core.admission import MAX_STALE, Ask
from quillgate_core.catalogue import Model
from quillgate_core.errors import AllowanceExhausted, InvalidRequest, ModelNotAllowed, ModelNotFound, Overloaded
from quillgate_core.failover import Failover
from quillgate_core.metering import Metering
from quillgate_core.own_keys import OwnKey
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import CredentialsStale, Outcome, Release, Reservation, Reserve, Step
from quillgate_core.routing import Candidate
from quillgate_core.upstream import Account

PRINCIPAL = Principal("key_1", 3, "ws_1", frozenset({INFERENCE}))
ACCOUNTS = [Account(name, chat=FakeProvider()) for name in ("a", "b")]


@dataclass(frozen=True)
class FakeHold:
    """Bounds in messages; a smaller hold allows so many output tokens as it has messages."""

    hold_messages: int = 4
    min_hold_messages: int = 1
    output_tokens: int = 77
    lowered_output_tokens: int | None = None
    hold_tokens: int = 400
    min_hold_tokens: int = 100

    def output_tokens_within(self, held_messages: int, held_tokens: int | None = None) -> int | None:
        return None if held_messages >= self.hold_messages else held_messages


@dataclass
class FakeRefusingWriter(FakeLedgerWriter):
    """Answers reserves with `answers` first, in turn; None is a good answer."""

    answers: list[Exception | None] = field(default_factory=list)

    def answer(self, step: Step) -> Outcome:
        refusal = self.answers.pop(0) if isinstance(step, Reserve) and self.answers else None
        return refusal or super().answer(step)


@dataclass
class Counter:
    """An admission with everything around it faked, and the request that it is asked."""

    models: Sequence[Model] = (model_of("a", "b"),)
    holds: dict[str, FakeHold | Exception] = field(default_factory=dict)
    """By model; the default for those left out."""
    refusals: dict[str, Exception] = field(default_factory=dict)
    """What translating for a provider raises."""
    own: FakeOwnKeys = field(default_factory=lambda: FakeOwnKeys(revision=0))
    writer: FakeRefusingWriter = field(default_factory=FakeRefusingWriter)
    session: str = ""
    accounts: Sequence[Account] = tuple(ACCOUNTS)
    said: Callable[[], str] = str
    planned: list[tuple[str, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        metering = Metering(
            writer=self.writer, daily_store=FakeDailyStore(None), lease_store=FakeLeaseStore(), instance_id="core_1"
        )

        async def blocking(call: Callable[[], Any]) -> Any:
            return call()

        self.admission, _ = routed(
            self.models, self.accounts, metering, blocking=blocking, session=self.said, own_keys=self.own
        )

    async def admit(self) -> tuple[Reservation, Failover[str]]:
        """Ask."""
        return await self.admission.admit(
            Ask(
                PRINCIPAL,
                "r",
                "chat.completions",
                self.models,
                hold=self._hold,
                plan=self._plan,
                session=self.session,
            )
        )

    def _hold(self, candidate: Candidate) -> FakeHold:
        hold = self.holds.get(candidate.model.id, FakeHold())
        if isinstance(hold, Exception):
            raise hold
        return hold

    def _plan(self, candidate: Candidate, max_output_tokens: int | None) -> str:
        self.planned.append((candidate.upstream.provider, max_output_tokens))
        if candidate.upstream.provider in self.refusals:
            raise self.refusals[candidate.upstream.provider]
        return f"{'own ' if candidate.owner else ''}{candidate.upstream.provider}"

    @property
    def reserves(self) -> list[Reserve]:
        """What was asked of the ledger."""
        return [step for step in self.writer.steps if isinstance(step, Reserve)]


def exhausted() -> AllowanceExhausted:
    """The refusal of a workspace that has nothing left."""
    return AllowanceExhausted("none left", workspace_id="ws_1")


async def sent_to(failover: Failover[str]) -> list[str]:
    """Let everybody fail, and return who was asked."""
    asked: list[str] = []

    async def send(plan: str) -> None:
        asked.append(plan)
        raise Overloaded("busy")

    with pytest.raises(Overloaded):
        await failover.answer(send)
    return asked


async def test_first_candidate_is_reserved_for() -> None:
    """The row names who is asked first and what the caller called the model."""
    counter = Counter()
    reservation, failover = await counter.admit()
    (reserve,) = counter.reserves
    assert (reserve.model, reserve.upstream, reserve.endpoint) == ("m", "a", "chat.completions")
    assert (reserve.hold_messages, reserve.min_hold_messages, reserve.byok) == (4, 1, False)
    assert (reserve.credential_revision, reservation.held_messages) == (0, 4)
    assert await sent_to(failover) == ["a", "b"]


async def test_who_cannot_serve_it_is_passed_over() -> None:
    """The first that the request can be translated for is asked; if there is none, the first one's words are told."""
    counter = Counter(refusals={"a": InvalidRequest("not a", param="x")})
    _, failover = await counter.admit()
    assert (failover.plan, counter.reserves[0].upstream) == ("b", "b")
    counter = Counter(refusals={"a": InvalidRequest("not a", param="x"), "b": InvalidRequest("not b")})
    with pytest.raises(InvalidRequest) as caught:
        await counter.admit()
    assert caught.value.message == "not a"
    assert counter.writer.steps == []


async def test_hold_covers_every_model_that_may_answer() -> None:
    """The larger of two; one that cannot be bounded cannot serve, and holds nothing."""
    models = (model_of("a"), model_of("b", model_id="big"), model_of("b", model_id="unfit"))
    holds: dict[str, FakeHold | Exception] = {"big": FakeHold(9), "unfit": InvalidRequest("too long")}
    counter = Counter(models, holds)
    await counter.admit()
    assert counter.reserves[0].hold_messages == 9


async def test_small_hold_limits_every_answer() -> None:
    """Near the end of the allowance each candidate gets the limit that fits; who needs more is not asked."""
    models = (model_of("a"), model_of("b", model_id="big"), model_of("b", model_id="fits"))
    holds: dict[str, FakeHold | Exception] = {"big": FakeHold(9, 5), "fits": FakeHold(2, 1, lowered_output_tokens=77)}
    counter = Counter(models, holds)
    counter.writer.left_messages = 3
    reservation, failover = await counter.admit()
    assert reservation.held_messages == 3
    assert await sent_to(failover) == ["a", "b"]
    assert counter.planned == [("a", None), ("a", 3), ("b", 77)]


async def test_translation_that_fails_when_limited_is_released() -> None:
    """Nothing stays held when the shortened request turns out to be none."""
    counter = Counter()
    counter.writer.left_messages = 3
    failures = iter([None, InvalidRequest("too short")])

    def plan(candidate: Candidate, limit: int | None) -> str:
        failure = next(failures)
        if failure is not None:
            raise failure
        return "plan"

    counter._plan = plan  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest):
        await counter.admit()
    assert isinstance(counter.writer.ends[0], Release)


@pytest.mark.parametrize("allow_fallback", [False, True])
async def test_own_keys_hold_nothing_unless_the_gateway_s_may_follow(allow_fallback: bool) -> None:
    """The allowance is held only where it may be used."""
    own = FakeOwnKeys(keys=(own_key(ACCOUNTS[0], allow_fallback=allow_fallback),))
    counter = Counter(own=own)
    _, failover = await counter.admit()
    (reserve,) = counter.reserves
    assert (reserve.byok, reserve.credential_revision) == (not allow_fallback, 1)
    assert await sent_to(failover) == (["own a", "a"] if allow_fallback else ["own a"])


async def test_spent_allowance_leaves_the_own_keys() -> None:
    """They draw nothing from it: only the gateway's drop out. Without own keys it is the end."""
    own = FakeOwnKeys(keys=(own_key(ACCOUNTS[1], allow_fallback=True),))
    counter = Counter(own=own, writer=FakeRefusingWriter(answers=[exhausted()]))
    _, failover = await counter.admit()
    assert [reserve.byok for reserve in counter.reserves] == [False, True]
    assert await sent_to(failover) == ["own b"]
    counter = Counter(writer=FakeRefusingWriter(answers=[exhausted()]))
    with pytest.raises(AllowanceExhausted):
        await counter.admit()
    assert len(counter.reserves) == 1


async def test_stale_keys_are_read_and_the_route_is_chosen_anew() -> None:
    """A key that came meanwhile serves; the reservation is for the keys that were looked at."""
    fresh: tuple[OwnKey, ...] = (own_key(ACCOUNTS[1]),)
    own = FakeOwnKeys(revision=0, newer=[fresh])
    counter = Counter(own=own, writer=FakeRefusingWriter(answers=[CredentialsStale()]))
    _, failover = await counter.admit()
    assert [reserve.credential_revision for reserve in counter.reserves] == [0, 1]
    assert (failover.plan, own.refreshed) == ("own b", 1)


async def test_keys_that_change_all_the_time_are_overload() -> None:
    """It is tried a few times, no more."""
    counter = Counter(writer=FakeRefusingWriter(answers=[CredentialsStale() for _ in range(9)]))
    with pytest.raises(Overloaded):
        await counter.admit()
    assert (len(counter.reserves), counter.own.refreshed) == (MAX_STALE, MAX_STALE)


async def test_session_is_the_request_s_or_the_call_s() -> None:
    """What the request says of its conversation wins over the metadata; either keeps it at one upstream."""
    equals = (model_of("a", "b", priority=0),)

    async def first(session: str, said: str) -> str:
        _, failover = await Counter(equals, session=session, said=lambda: said).admit()
        return failover.plan

    for number in range(12):
        name = str(number)
        assert await first(name, "") == await first("", name) == await first(name, "other")
    assert {await first(str(number), "") for number in range(30)} == {"a", "b"}


def test_models_are_checked_one_by_one() -> None:
    """A key's list and the catalogue hold for every model that a request names."""
    counter = Counter()
    limited = Principal("key_1", 3, "ws_1", frozenset({INFERENCE}), ("m",))
    assert [model.id for model in counter.admission.models(limited, ["m"])] == ["m"]
    with pytest.raises(ModelNotAllowed):
        counter.admission.models(limited, ["m", "other"])
    with pytest.raises(ModelNotFound):
        counter.admission.models(PRINCIPAL, ["m", "other"])


@pytest.mark.parametrize(("needs", "limit"), [(True, 77), (False, None)])
async def test_provider_that_needs_a_limit_gets_the_model_s(needs: bool, limit: int | None) -> None:
    """A request without a limit of its own goes to such a provider with the model's, which the hold is for."""
    traits = replace(TRAITS, needs_output_limit=needs)
    counter = Counter([model_of("m", "a")], accounts=[Account("a", chat=FakeProvider(traits=traits))])
    await counter.admit()
    assert counter.planned == [("a", limit)]
