"""What each step does to the ledger, over the real SQL; after every test the daily rows equal the ledger's sums."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta

import psycopg
import pytest
from fakes.books import Books
from fakes.midnight import TEST_CLOCK, Midnight
from sqlalchemy import Engine

from quillgate_core.counting import MAX_TOKENS, Usage
from quillgate_core.errors import (
    AllowanceExhausted,
    DuplicateRequest,
    KeyInvalid,
    ReservationClosed,
    ReservationNotFound,
    WorkspaceNotFound,
)
from quillgate_core.reservation import KeyStale, Outcome, Receipt, Record, Release, Reservation, Reserve, Settle, Step
from quillgate_core.storage.ledger import Ledger, connect_ledger

SMALL = Usage(10, 0, 5)
LARGE = Usage(40_001, 10_001, 3_000)


@pytest.fixture
def books(engine: Engine) -> Iterator[Books]:
    """The books of the test's database, with a workspace without limit, checked at the end."""
    books = Books(engine)
    books.add_workspace()
    yield books
    books.check()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    """A writer's connection."""
    with connect_ledger(database_url) as connection:
        yield connection


@pytest.fixture
def apply(books: Books, connection: psycopg.Connection) -> Callable[..., list[Outcome]]:
    """Applies its arguments as one batch."""
    ledger = Ledger()
    return lambda *steps: ledger.apply(connection, steps)


def reserve(request_id: str = "r", hold_messages: int = 2, **more: object) -> Reserve:
    """A reserve of the gateway's own."""
    return Reserve(
        **{"workspace_id": "ws", "request_id": request_id, "hold_messages": hold_messages, "owner": "a", **more}
    )


def settle(request_id: str = "r", usage: Usage = SMALL, **more: object) -> Settle:
    """A settle of the gateway's own."""
    ids = {"workspace_id": "ws", "request_id": request_id, "owner": "a"}
    return Settle(**{**ids, "usage": usage, "usage_source": "provider", **more})


def release(request_id: str = "r", **more: object) -> Release:
    """A release of the gateway's own."""
    return Release(**{"workspace_id": "ws", "request_id": request_id, "owner": "a", **more})


def record(request_id: str = "r", usage: Usage = SMALL, **more: object) -> Record:
    """A record without owner."""
    return Record(**{"workspace_id": "ws", "request_id": request_id, "usage": usage, **more})


Apply = Callable[..., list[Outcome]]


def test_reserve_then_settle_counts_the_usage(apply: Apply, books: Books) -> None:
    """Prompt 10 and completion 5 show as 1 message, 10 input and 5 output tokens, with nothing held."""
    (reservation,) = apply(reserve(key_id=None, model="m", endpoint="chat.completions", upstream="up"))
    assert isinstance(reservation, Reservation)
    assert (reservation.held_messages, reservation.state, reservation.replayed) == (2, "open", False)
    assert books.day().held_messages == 2
    (receipt,) = apply(settle(day=reservation.day, outcome="complete"))
    assert receipt == Receipt("ws", "r", reservation.day, 1, SMALL, "provider", None)
    day = books.day()
    assert tuple(day)[2:8] == (1, 0, 10, 0, 5, 1)
    row = books.row("r")
    assert (row.model, row.endpoint, row.upstream, row.outcome) == ("m", "chat.completions", "up", "complete")
    assert row.reserve_time < row.settle_time
    assert row.expire_time is None


def test_settle_names_the_upstream_that_answered(apply: Apply, books: Books) -> None:
    """A settle that names an upstream replaces the one that was recorded at the reserve."""
    apply(reserve(upstream="first"))
    apply(settle(upstream="second"))
    assert books.row("r").upstream == "second"


def test_a_whole_batch_can_be_applied_again(apply: Apply, books: Books) -> None:
    """Repeating a batch of every kind of step changes nothing and answers the same."""
    books.add_workspace("tight", allowance=3)
    apply(reserve("old"), reserve("gone", owner=None), reserve("kept"))
    batch: list[Step] = [
        reserve("new", 4),
        settle("old", LARGE),
        release("gone", owner=None),
        record("known", LARGE),
        reserve("t1", 2, workspace_id="tight"),
        reserve("t2", 2, workspace_id="tight"),
        settle("missing"),
    ]
    first = apply(*batch)
    tables = [books.read(f"SELECT * FROM {name} ORDER BY 1, 2") for name in ("ledger", "daily_message_count")]
    again = apply(*batch)
    assert [tables[0], tables[1]] == [
        books.read(f"SELECT * FROM {name} ORDER BY 1, 2") for name in ("ledger", "daily_message_count")
    ]
    for one, other in zip(first, again, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Receipt):
            assert one == other
        if isinstance(one, Reservation) and isinstance(other, Reservation):
            assert (one.held_messages, one.day, one.replayed) == (other.held_messages, other.day, other.replayed)


def test_a_hold_shrinks_to_what_is_left(apply: Apply, books: Books) -> None:
    """The last messages are usable: the hold shrinks to the rest, and a rest below the minimum is refused."""
    books.add_workspace("tight", allowance=5)
    tight = {"workspace_id": "tight"}
    first, second, third = apply(
        reserve("1", 3, **tight), reserve("2", 9, min_hold_messages=3, **tight), reserve("3", 9, **tight)
    )
    assert isinstance(first, Reservation)
    assert first.remaining_messages == 2
    assert isinstance(second, AllowanceExhausted)
    assert isinstance(third, Reservation)
    assert (third.held_messages, third.remaining_messages) == (2, 0)


def test_an_exhausted_allowance_says_when_it_resets(apply: Apply, books: Books) -> None:
    """The refusal names the allowance, what is left, and the next UTC midnight by the database clock."""
    books.add_workspace("none", allowance=0)
    (refusal,) = apply(reserve(workspace_id="none"))
    assert isinstance(refusal, AllowanceExhausted)
    (tomorrow,) = books.read("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date + 1")[0]
    assert refusal.metadata == {
        "workspace_id": "none",
        "limit": "daily_message_allowance",
        "allowance": "0",
        "remaining_messages": "0",
        "reset_time": f"{tomorrow}T00:00:00Z",
    }
    assert refusal.message.startswith("You exceeded your current quota, please check your plan and billing details. ")
    assert f"{tomorrow}T00:00:00Z" in refusal.message
    assert books.states() == {}


def test_a_lowered_allowance_never_shows_less_than_nothing(apply: Apply, books: Books) -> None:
    """When an admin lowers the allowance below what is used, 0 messages remain."""
    apply(reserve("1", 5))
    books.run("UPDATE workspaces SET daily_message_allowance = 2")
    refusal, receipt = apply(reserve("2", 1), settle("1", Usage(48_000, 0, 0)))
    assert isinstance(refusal, AllowanceExhausted)
    assert refusal.metadata["remaining_messages"] == "0"
    assert isinstance(receipt, Receipt)
    assert receipt.remaining_messages == 0


def test_an_unused_hold_returns(apply: Apply, books: Books) -> None:
    """After a settle below the hold, and after a release, the rest of the allowance is usable again."""
    books.add_workspace("tight", allowance=4)
    tight = {"workspace_id": "tight"}
    outcomes = apply(
        reserve("1", 4, **tight),
        settle("1", **tight),
        reserve("2", 3, **tight),
        release("2", **tight),
        reserve("3", 3, **tight),
    )
    assert [outcome.remaining_messages for outcome in outcomes if not isinstance(outcome, Exception)] == [0, 3, 0, 3, 0]


def test_true_usage_above_the_hold_is_recorded(apply: Apply, books: Books) -> None:
    """A provider that ignored the limit is charged in full, beyond the allowance."""
    books.add_workspace("tight", allowance=2)
    apply(reserve("1", 2, workspace_id="tight"))
    (receipt,) = apply(settle("1", Usage(100_000, 0, 0), workspace_id="tight"))
    assert isinstance(receipt, Receipt)
    assert (receipt.counted_messages, receipt.remaining_messages) == (7, 0)
    assert books.day(workspace_id="tight").message_count == 7


def test_insane_usage_is_clamped_and_flagged(apply: Apply, books: Books) -> None:
    """A usage beyond reason is charged within its ranges and the row says so."""
    apply(reserve("1"), reserve("2"))
    apply(settle("1", Usage(-5, 10**9, 10**12)), settle("2"))
    assert books.row("1").usage_clamped
    assert books.row("1").completion_tokens == MAX_TOKENS
    assert not books.row("2").usage_clamped


def test_the_same_reserve_repeated_is_not_another(apply: Apply) -> None:
    """A repeated Reserve gets its own reservation; another Reserve with the id is told that it was replayed."""
    own = reserve()
    first, same, other = apply(own, own, reserve(hold_messages=9))
    assert first == same
    assert isinstance(other, Reservation)
    assert (other.replayed, other.held_messages) == (True, 2)


def test_an_ended_request_id_is_not_reserved_again(apply: Apply, books: Books) -> None:
    """A Reserve with the id of an ended request shows its end and holds nothing."""
    apply(reserve(), settle())
    (outcome,) = apply(reserve())
    assert isinstance(outcome, Reservation)
    assert (outcome.state, outcome.replayed) == ("settled", True)
    assert books.day().held_messages == 0


def test_the_first_settle_stands(apply: Apply, books: Books) -> None:
    """Settling again with another usage answers with the first receipt and changes nothing."""
    apply(reserve())
    (first,) = apply(settle(usage=LARGE))
    (again,) = apply(settle(usage=SMALL))
    assert first == again
    assert books.day().request_count == 1


def test_the_first_release_stands(apply: Apply, books: Books) -> None:
    """Releasing again answers the same; it is charged 0 and no request is counted."""
    apply(reserve())
    (first,) = apply(release())
    assert apply(release()) == [first]
    assert isinstance(first, Receipt)
    assert (first.counted_messages, first.usage_source) == (0, "")
    assert tuple(books.day())[2:8] == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("ends", "late", "state"),
    [
        (settle(), release(), "settled"),
        (release(), settle(), "released"),
        (release(), record(owner="a"), "released"),
    ],
)
def test_an_ended_reservation_does_not_change(apply: Apply, ends: Step, late: Step, state: str) -> None:
    """Ending a request in another way than it ended is refused with the state."""
    apply(reserve())
    _, outcome = apply(ends, late)
    assert isinstance(outcome, ReservationClosed)
    assert outcome.metadata == {"request_id": "r", "state": state}


@pytest.mark.parametrize("owner", ["a", None])
@pytest.mark.parametrize("other", ["b", None, "a", ""])
def test_only_the_owner_ends_a_reservation(apply: Apply, books: Books, owner: str | None, other: str | None) -> None:
    """A settle or release with another owner, or none, is answered like an unknown id and changes nothing."""
    apply(reserve(owner=owner))
    if owner == other:
        return
    for step in (settle(owner=other), release(owner=other), settle(owner=other, day=date(2020, 1, 1))):
        (outcome,) = apply(step)
        assert isinstance(outcome, ReservationNotFound)
        assert outcome.metadata == {"request_id": "r"}
    assert books.states() == {"open": 1}


def test_another_owner_does_not_see_a_receipt(apply: Apply) -> None:
    """Not even the first receipt of a settled request is shown to another owner."""
    apply(reserve(), settle())
    assert [type(outcome) for outcome in apply(settle(owner=None), release(owner=None))] == [ReservationNotFound] * 2


def test_a_gateway_id_is_taken_for_others(apply: Apply) -> None:
    """A caller of MeteringService can neither reserve nor record with the id of a request of the gateway."""
    apply(reserve("1"), reserve("2"), settle("2"))
    for request_id in ("1", "2"):
        outcomes = apply(reserve(request_id, owner=None), record(request_id))
        assert [type(outcome) for outcome in outcomes] == [DuplicateRequest] * 2


def test_an_abandoned_reserve_releases_only_its_own_row(apply: Apply, books: Books) -> None:
    """A release with a nonce leaves a row of another Reserve alone."""
    own = reserve()
    apply(own)
    (refused,) = apply(release(nonce=own.nonce ^ 1))
    assert isinstance(refused, ReservationNotFound)
    (receipt,) = apply(release(nonce=own.nonce))
    assert isinstance(receipt, Receipt)
    assert books.states() == {"released": 1}


def test_record_counts_beyond_the_allowance(apply: Apply, books: Books) -> None:
    """A known usage is counted even when nothing is left, once."""
    books.add_workspace("none", allowance=0)
    step = record(usage=LARGE, workspace_id="none")
    first, again = apply(step, record(usage=SMALL, workspace_id="none"))
    assert first == again
    assert isinstance(first, Receipt)
    assert (first.counted_messages, first.usage, first.usage_source) == (3, LARGE, "caller")
    assert first.remaining_messages == 0
    assert books.row("r", "none").held_messages == 0


def test_record_does_not_end_a_reservation(apply: Apply, books: Books) -> None:
    """The id of a reservation that runs cannot be recorded."""
    apply(reserve(owner=None))
    (outcome,) = apply(record())
    assert isinstance(outcome, DuplicateRequest)
    assert books.states() == {"open": 1}


@pytest.mark.parametrize("step", [reserve(workspace_id="nowhere"), record(workspace_id="nowhere")])
def test_an_unknown_workspace_is_refused(apply: Apply, step: Step) -> None:
    """Nothing is counted for a workspace that does not exist."""
    (outcome,) = apply(step)
    assert isinstance(outcome, WorkspaceNotFound)


@pytest.mark.parametrize("step", [settle(), release(), settle(day=date(2020, 1, 1)), settle(workspace_id="nowhere")])
def test_an_unknown_reservation_is_refused(apply: Apply, step: Step) -> None:
    """Ending what was never reserved is refused, whatever day the caller claims."""
    (outcome,) = apply(step)
    assert isinstance(outcome, ReservationNotFound)


def test_a_live_key_of_the_right_revision_reserves(apply: Apply, books: Books) -> None:
    """A key that is live and unchanged passes, and its id is recorded."""
    books.add_key("k", expire_time="2999-01-01")
    (outcome,) = apply(reserve(key_id="k", key_revision=1))
    assert isinstance(outcome, Reservation)
    assert books.row("r").key_id == "k"


def test_a_changed_key_is_stale(apply: Apply, books: Books) -> None:
    """A key of another revision is told apart, so that the caller authenticates afresh."""
    books.add_key("k")
    books.run("UPDATE keys SET revision = 2")
    (outcome,) = apply(reserve(key_id="k", key_revision=1))
    assert isinstance(outcome, KeyStale)
    assert books.states() == {}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keys SET revoke_time = clock_timestamp()",
        "UPDATE keys SET revoke_time = clock_timestamp(), revision = 2",
        "UPDATE keys SET expire_time = clock_timestamp()",
        "UPDATE keys SET workspace_id = 'other'",
        "DELETE FROM keys",
    ],
)
def test_a_key_that_is_not_live_is_refused(apply: Apply, books: Books, change: str) -> None:
    """A revoked, expired, foreign or unknown key cannot reserve, from the very next request on."""
    books.add_workspace("other")
    books.add_key("k")
    assert isinstance(apply(reserve("1", key_id="k", key_revision=1))[0], Reservation)
    books.run(change)
    assert isinstance(apply(reserve("2", key_id="k", key_revision=1))[0], KeyInvalid)
    assert isinstance(apply(settle("1"))[0], Receipt)


def test_a_reservation_without_owner_expires(apply: Apply, books: Books) -> None:
    """A row without owner carries the time after which it is recovered."""
    apply(reserve(owner=None, expire_s=120))
    row = books.row("r")
    assert row.expire_time - row.reserve_time == timedelta(seconds=120)


def test_texts_are_made_storable(apply: Apply, books: Books) -> None:
    """NUL, surrogates and overlong texts neither fail the row nor reach the table."""
    apply(reserve(model="a\x00b\ud800", endpoint="e" * 1_000))
    apply(settle(outcome="x\ny"))
    row = books.row("r")
    assert (row.model, row.endpoint, row.outcome) == ("a?b?", "e" * 200, "x?y")


def test_many_workspaces_share_a_batch(apply: Apply, books: Books) -> None:
    """Steps of many workspaces in one batch are counted apart."""
    ids = [f"w{number}" for number in range(20)]
    for workspace_id in ids:
        books.add_workspace(workspace_id, allowance=1)
    steps = [reserve(f"r{number}", 1, workspace_id=ids[number % 20]) for number in range(40)]
    outcomes = apply(*steps)
    assert [type(outcome) for outcome in outcomes] == [Reservation] * 20 + [AllowanceExhausted] * 20


def test_a_wrong_day_is_looked_up(apply: Apply, books: Books) -> None:
    """A settle that names a wrong day lands on the row's own."""
    apply(reserve())
    (receipt,) = apply(settle(day=date(2020, 1, 1)))
    assert isinstance(receipt, Receipt)
    assert receipt.day == books.row("r").day != date(2020, 1, 1)


def test_a_daily_row_that_vanished_is_made_again(apply: Apply, books: Books) -> None:
    """What the ledger remembers of daily rows is only a hint."""
    apply(reserve(), settle())
    books.run("DELETE FROM ledger")
    books.run("DELETE FROM daily_message_count")
    assert isinstance(apply(reserve())[0], Reservation)


@pytest.fixture
def midnight(books: Books, connection: psycopg.Connection) -> Midnight:
    """One second before a UTC midnight."""
    return Midnight(books, connection)


def test_a_new_day_has_its_whole_allowance(midnight: Midnight, books: Books) -> None:
    """What was held and counted before midnight does not count after it."""
    books.run("UPDATE workspaces SET daily_message_allowance = 2")
    midnight.apply(reserve("1", 2))
    midnight.put("2030-05-02 00:00:00Z")
    refused, granted = midnight.apply(reserve("2", 3, min_hold_messages=3), reserve("3", 2))
    assert isinstance(refused, AllowanceExhausted)
    assert refused.metadata["reset_time"] == "2030-05-03T00:00:00Z"
    assert isinstance(granted, Reservation)
    assert (granted.day, granted.remaining_messages) == (date(2030, 5, 2), 0)


@pytest.mark.parametrize("day", [date(2030, 5, 1), None])
def test_a_settle_lands_on_the_day_of_the_reservation(midnight: Midnight, books: Books, day: date | None) -> None:
    """A request that runs over midnight is counted on the day it began, with or without the caller knowing it."""
    midnight.apply(reserve("1"), reserve("2"))
    midnight.put("2030-05-02 00:00:01Z")
    receipt, _ = midnight.apply(settle("1", day=day), reserve("3"))
    assert isinstance(receipt, Receipt)
    assert receipt.day == date(2030, 5, 1)
    assert books.day(date(2030, 5, 1)).message_count == 1
    assert books.day(date(2030, 5, 2)).held_messages == 2


def test_an_end_is_found_that_another_core_began_after_midnight(
    midnight: Midnight, connection: psycopg.Connection
) -> None:
    """A core that has only seen the day before settles what began elsewhere today, though nobody says on which day."""
    elsewhere = Ledger(clock=TEST_CLOCK)
    midnight.apply(reserve("1"))
    midnight.put("2030-05-02 00:00:01Z")
    elsewhere.apply(connection, [reserve("2")])
    (receipt,) = midnight.apply(settle("2"))
    assert isinstance(receipt, Receipt)
    assert receipt.day == date(2030, 5, 2)


def test_a_repeat_after_midnight_answers_the_first_day(midnight: Midnight, books: Books) -> None:
    """Replaying reserve, record and settle on the next day moves nothing to it."""
    steps: list[Step] = [reserve("1"), settle("1"), record("2"), reserve("3")]
    first = midnight.apply(*steps)
    midnight.put("2030-05-02 00:00:01Z")
    assert midnight.apply(*steps)[1:3] == first[1:3]
    assert midnight.apply(steps[0], steps[3]) != []
    assert books.day(date(2030, 5, 2)).request_count == 0
    assert books.day(date(2030, 5, 2)).held_messages == 0


def test_a_clock_that_steps_back_is_followed(midnight: Midnight, books: Books) -> None:
    """When the database clock is set back over midnight, reservations count on the earlier day again."""
    midnight.put("2030-05-02 00:00:01Z")
    midnight.apply(reserve("1"))
    midnight.put("2030-05-01 23:59:59Z")
    (outcome,) = midnight.apply(reserve("2"))
    assert isinstance(outcome, Reservation)
    assert outcome.day == date(2030, 5, 1)
    assert isinstance(midnight.apply(settle("1"))[0], Receipt)
