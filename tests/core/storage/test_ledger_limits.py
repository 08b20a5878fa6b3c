"""The limits of workspaces and keys in the reserving transaction, over the real SQL and a clock that tests set."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fakes.books import Books
from fakes.midnight import TEST_CLOCK, Midnight
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.errors import AllowanceExhausted, RateLimited, WorkspaceDisabled
from quillgate_core.reservation import Receipt, Record, Release, Reservation, Reserve, Settle
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger

SMALL = Usage(10, 0, 5)
THREE = Usage(40_000, 0, 5)


@pytest.fixture
def books(engine: Engine) -> Iterator[Books]:
    """A workspace without limit and a key in it; the sums of both are checked at the end."""
    books = Books(engine)
    books.add_workspace()
    books.add_key("k")
    yield books
    books.check()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    """A writer's connection."""
    with connect_ledger(database_url) as connection:
        yield connection


@pytest.fixture
def noon(books: Books, connection: psycopg.Connection) -> Midnight:
    """A ledger at noon of the 30th of April 2030."""
    ledger = Midnight(books, connection)
    ledger.put("2030-04-30 12:00:00Z")
    return ledger


def limit_key(books: Books, **limits: int | None) -> None:
    """Set the key's limits."""
    books.run(f"UPDATE keys SET {', '.join(f'{name} = :{name}' for name in limits)} WHERE key_id = 'k'", **limits)


def limit_workspace(books: Books, **columns: Any) -> None:
    """Set the workspace's columns."""
    books.run(f"UPDATE workspaces SET {', '.join(f'{name} = :{name}' for name in columns)}", **columns)


def reserve(request_id: str, hold_messages: int = 1, **more: object) -> Reserve:
    """A reserve of the gateway's own for the key."""
    ids = {"workspace_id": "ws", "request_id": request_id, "owner": "a", "key_id": "k"}
    return Reserve(**{**ids, "hold_messages": hold_messages, **more})


def settle(request_id: str, usage: Usage = SMALL, **more: object) -> Settle:
    """A settle of the gateway's own for the key."""
    ids = {"workspace_id": "ws", "request_id": request_id, "owner": "a", "key_id": "k"}
    return Settle(**{**ids, "usage": usage, "usage_source": "provider", **more})


def release(request_id: str) -> Release:
    """A release of the gateway's own for the key."""
    return Release(workspace_id="ws", request_id=request_id, owner="a", key_id="k")


def kinds(outcomes: list[Any]) -> list[str]:
    """What the outcomes are: the limit that refused, or the class."""
    return [getattr(outcome, "metadata", {}).get("limit") or type(outcome).__name__ for outcome in outcomes]


def test_a_month_is_the_sum_of_its_days(noon: Midnight, books: Books) -> None:
    """What was counted or is held on any day of the month uses the monthly allowance; the next month is new."""
    limit_workspace(books, monthly_message_allowance=5)
    noon.put("2030-04-29 12:00:00Z")
    noon.apply(reserve("1", 3), reserve("2", 1))
    noon.apply(settle("1", THREE))
    noon.put("2030-04-30 23:59:59Z")
    assert kinds(noon.apply(reserve("3", 2, min_hold_messages=2))) == ["monthly_message_allowance"]
    granted, refused = noon.apply(reserve("4"), reserve("5"))
    assert isinstance(granted, Reservation)
    assert isinstance(refused, AllowanceExhausted)
    assert refused.metadata == {
        "workspace_id": "ws",
        "limit": "monthly_message_allowance",
        "allowance": "5",
        "remaining_messages": "0",
        "reset_time": "2030-05-01T00:00:00Z",
    }
    noon.put("2030-05-01 00:00:00Z")
    assert kinds(noon.apply(reserve("6", 5))) == ["Reservation"]


def test_the_tightest_allowance_shrinks_the_hold(noon: Midnight, books: Books) -> None:
    """A hold shrinks to what is left of the smallest of all limits in messages."""
    limit_workspace(books, daily_message_allowance=9, monthly_message_allowance=8)
    limit_key(books, daily_messages=7, monthly_messages=6)
    (granted,) = noon.apply(reserve("1", 20))
    assert isinstance(granted, Reservation)
    assert granted.held_messages == 6
    assert [(state.limit, state.value, state.remaining) for state in granted.limits] == [
        ("daily_message_allowance", 9, 3),
        ("monthly_message_allowance", 8, 2),
        ("key_daily_messages", 7, 1),
        ("key_monthly_messages", 6, 0),
    ]


def test_beyond_an_allowance_that_only_warns_overage_is_counted(noon: Midnight, books: Books) -> None:
    """Where the allowance does not refuse, what is beyond it is marked on the row and summed up in the day."""
    limit_workspace(books, daily_message_allowance=4, at_allowance="allow")
    assert kinds(noon.apply(reserve("1", 3), reserve("2", 3), reserve("3", 3))) == ["Reservation"] * 3
    receipts = noon.apply(settle("1", THREE), settle("2", THREE), settle("3", THREE))
    assert [receipt.overage_messages for receipt in receipts if isinstance(receipt, Receipt)] == [0, 2, 3]
    day = books.day()
    assert (day.message_count, day.overage_message_count, day.overrun_message_count) == (9, 5, 0)
    limit_key(books, daily_messages=9)
    assert kinds(noon.apply(reserve("4"))) == ["key_daily_messages"]


def test_holds_of_a_dead_owner_beyond_the_allowance_are_overage(noon: Midnight, books: Books, engine: Engine) -> None:
    """Charged holds are marked like any charge, as far as the allowance was used up before them."""
    limit_workspace(books, daily_message_allowance=4, at_allowance="allow")
    noon.apply(reserve("0"))
    noon.apply(settle("0"))
    noon.apply(reserve("1", 2), reserve("2", 2, byok=True), reserve("3", 2), reserve("4", 2))
    assert SqlLeaseStore(engine, clock=TEST_CLOCK).recover(9) == 4
    assert [books.row(str(number)).overage_messages for number in range(5)] == [0, 0, 0, 1, 2]
    assert books.day().overage_message_count == 3


def test_what_a_provider_used_beyond_the_hold_is_counted_as_overrun(noon: Midnight, books: Books) -> None:
    """A provider that ignores the output limit is charged in full, and the excess is told apart."""
    limit_workspace(books, daily_message_allowance=1)
    noon.apply(reserve("1"))
    noon.apply(settle("1", THREE))
    day = books.day()
    assert (day.message_count, day.overrun_message_count, day.overage_message_count) == (3, 2, 2)


def test_a_keys_limits_are_its_own(noon: Midnight, books: Books) -> None:
    """Another key of the workspace, and an internal service without key, are not bounded by them."""
    books.add_key("other")
    limit_key(books, daily_messages=1)
    noon.apply(reserve("1"))
    assert kinds(noon.apply(reserve("2"), reserve("3", key_id="other"), reserve("4", key_id=None))) == [
        "key_daily_messages",
        "Reservation",
        "Reservation",
    ]


def test_a_keys_messages_begin_anew_with_the_day_and_the_month(noon: Midnight, books: Books) -> None:
    """The daily limit is free again at midnight, the monthly one at the end of the month, released holds at once."""
    limit_key(books, daily_messages=2, monthly_messages=3)
    noon.put("2030-04-29 12:00:00Z")
    noon.apply(reserve("0", 2))
    noon.apply(release("0"))
    noon.apply(reserve("1", 2))
    assert kinds(noon.apply(reserve("2"))) == ["key_daily_messages"]
    noon.put("2030-04-30 12:00:00Z")
    assert kinds(noon.apply(reserve("3", 2))) == ["Reservation"]
    assert books.row("3").held_messages == 1
    assert kinds(noon.apply(reserve("4"))) == ["key_monthly_messages"]
    noon.put("2030-05-01 00:00:00Z")
    assert kinds(noon.apply(reserve("5", 2))) == ["Reservation"]


def test_never_more_requests_than_the_limit_in_any_minute(noon: Midnight, books: Books) -> None:
    """Requests count for 60 seconds each, refused ones not at all; the refusal says when to come back, and keeps it."""
    limit_key(books, requests_per_minute=3)
    noon.apply(reserve("1"))
    noon.put("2030-04-30 12:00:30.5Z")
    noon.apply(reserve("2"), reserve("3"), settle("1"))
    (refused,) = noon.apply(reserve("4"))
    assert isinstance(refused, RateLimited)
    assert refused.metadata == {
        "limit": "key_requests_per_minute",
        "value": "3",
        "remaining": "0",
        "reset_time": "2030-04-30T12:01:00Z",
        "retry_after_s": "30",
    }
    assert "Limit 3, Used 3, Requested 1. Please try again in 30s." in refused.message
    noon.put("2030-04-30 12:00:59.9Z")
    assert kinds(noon.apply(reserve("5"))) == ["key_requests_per_minute"]
    noon.put("2030-04-30 12:01:00Z")
    assert kinds(noon.apply(reserve("6"), reserve("7"))) == ["Reservation", "key_requests_per_minute"]


def test_the_minute_goes_on_over_midnight(noon: Midnight, books: Books) -> None:
    """The last minute of a day counts in the first of the next."""
    limit_key(books, requests_per_minute=2)
    noon.put("2030-04-30 23:59:50Z")
    noon.apply(reserve("1"), reserve("2"))
    noon.put("2030-05-01 00:00:10Z")
    assert kinds(noon.apply(reserve("3"))) == ["key_requests_per_minute"]
    noon.put("2030-05-01 00:00:50Z")
    assert kinds(noon.apply(reserve("4"), reserve("5"), reserve("6"))) == [
        "Reservation",
        "Reservation",
        "key_requests_per_minute",
    ]


def test_tokens_are_held_then_counted(noon: Midnight, books: Books) -> None:
    """A running request holds what it may use at most, shrunk to what is left; what it did not use is given back."""
    limit_key(books, tokens_per_minute=1_000)
    first, second = noon.apply(
        reserve("1", hold_tokens=700, min_hold_tokens=300), reserve("2", hold_tokens=700, min_hold_tokens=300)
    )
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    assert (first.held_tokens, second.held_tokens) == (700, 300)
    (refused,) = noon.apply(reserve("3", hold_tokens=100, min_hold_tokens=50))
    assert isinstance(refused, RateLimited)
    assert (refused.metadata["limit"], refused.metadata["remaining"]) == ("key_tokens_per_minute", "0")
    noon.apply(settle("1", Usage(100, 0, 20)))
    (third,) = noon.apply(reserve("4", hold_tokens=2_000, min_hold_tokens=300))
    assert isinstance(third, Reservation)
    assert third.held_tokens == 580
    noon.apply(release("2"), release("4"))
    noon.put("2030-04-30 12:00:59Z")
    (fourth,) = noon.apply(reserve("5", hold_tokens=2_000, min_hold_tokens=300))
    assert isinstance(fourth, Reservation)
    assert fourth.held_tokens == 880


def test_a_request_that_never_fits_is_refused(noon: Midnight, books: Books) -> None:
    """A prompt larger than the tokens of a minute is refused even when none are used, and nobody is told to wait."""
    limit_key(books, tokens_per_minute=1_000)
    (refused,) = noon.apply(reserve("1", hold_tokens=5_000, min_hold_tokens=1_001))
    assert isinstance(refused, RateLimited)
    assert refused.metadata["limit"] == "key_tokens_per_minute"
    assert refused.message == (
        "Request too large for tokens per minute (TPM): Limit 1000, Requested 1001. It never fits."
    )


def test_only_so_many_requests_run_at_once(noon: Midnight, books: Books, engine: Engine) -> None:
    """An ended request frees its place within the same batch, a recovered one too, over midnight as well."""
    limit_key(books, concurrent_requests=2)
    assert kinds(noon.apply(reserve("1"), reserve("2"), reserve("3"))) == [
        "Reservation",
        "Reservation",
        "key_concurrent_requests",
    ]
    assert kinds(noon.apply(settle("1"), reserve("4"), reserve("5"))) == [
        "Receipt",
        "Reservation",
        "key_concurrent_requests",
    ]
    noon.put("2030-05-01 12:00:00Z")
    assert kinds(noon.apply(reserve("6"))) == ["key_concurrent_requests"]
    assert SqlLeaseStore(engine, clock=TEST_CLOCK).recover(1) == 1
    assert kinds(noon.apply(reserve("7"), reserve("8"))) == ["Reservation", "key_concurrent_requests"]


def test_a_changed_limit_holds_at_the_next_request(noon: Midnight, books: Books) -> None:
    """What was used before a limit was set counts towards it, whoever served it."""
    noon.apply(reserve("1", 2), reserve("2"))
    limit_key(books, daily_messages=3, concurrent_requests=9)
    assert kinds(noon.apply(reserve("3"))) == ["key_daily_messages"]
    limit_key(books, daily_messages=4, concurrent_requests=2)
    assert kinds(noon.apply(reserve("3"))) == ["key_concurrent_requests"]
    limit_key(books, concurrent_requests=None)
    assert kinds(noon.apply(reserve("3"))) == ["Reservation"]


def test_a_disabled_workspace_reserves_nothing_and_settles_all(noon: Midnight, books: Books) -> None:
    """Requests that run end as usual; new ones are refused."""
    noon.apply(reserve("1"))
    limit_workspace(books, disable_time="2030-04-30 12:00:00Z")
    refused, receipt = noon.apply(reserve("2"), settle("1"))
    assert isinstance(refused, WorkspaceDisabled)
    assert isinstance(receipt, Receipt)


def test_an_own_key_uses_no_messages_but_is_still_rate_limited(noon: Midnight, books: Books) -> None:
    """What an own provider key serves counts towards requests and tokens a minute, not towards messages."""
    limit_key(books, daily_messages=1, requests_per_minute=2)
    granted = noon.apply(reserve("1", 5, byok=True), reserve("2", 5, byok=True), reserve("3", 5, byok=True))
    assert kinds(granted) == ["Reservation", "Reservation", "key_requests_per_minute"]
    noon.apply(settle("1", THREE), settle("2", THREE, byok=True))
    row = books.read("SELECT message_count, byok_message_count, held_messages FROM key_daily_message_count")[0]
    assert tuple(row) == (0, 6, 0)


def test_recorded_usage_counts_for_its_key(noon: Midnight, books: Books) -> None:
    """Usage that is only recorded uses up the key's messages, even beyond its limit."""
    limit_key(books, daily_messages=2)
    step = Record(workspace_id="ws", request_id="1", usage=THREE, key_id="k")
    assert isinstance(noon.apply(step)[0], Receipt)
    assert kinds(noon.apply(reserve("2"))) == ["key_daily_messages"]


def test_limits_hold_over_two_writers(books: Books, database_url: str) -> None:
    """Two processes that take turns see each other's requests at once."""
    limit_key(books, requests_per_minute=3, tokens_per_minute=1_000)
    ledgers = (Ledger(), Ledger())
    with connect_ledger(database_url) as first, connect_ledger(database_url) as second:
        outcomes = [
            ledgers[number % 2].apply((first, second)[number % 2], [reserve(str(number), hold_tokens=10)])[0]
            for number in range(4)
        ]
    assert kinds(outcomes) == ["Reservation"] * 3 + ["key_requests_per_minute"]
