"""Reading the days: newest first, only the workspace's own, and what is left of today."""

from datetime import UTC, date, datetime

import pytest
from fakes.books import Books
from sqlalchemy import Engine

from quillgate_core.errors import WorkspaceNotFound
from quillgate_core.reservation import DailyCount, Today
from quillgate_core.storage.daily_store import SqlDailyStore

CLOCK = "timestamptz '2030-05-10 23:59:59Z'"


@pytest.fixture
def books(engine: Engine) -> Books:
    """Three workspaces; one has an allowance of 10 and used days in April and May 2030."""
    books = Books(engine)
    books.add_workspace("ws", allowance=10)
    books.add_workspace("other", allowance=0)
    books.add_workspace("free")
    for day in ("2030-04-09", "2030-04-10", "2030-05-09", "2030-05-10"):
        books.run("INSERT INTO daily_message_count VALUES ('ws', CAST(:day AS date), 3, 2, 10, 4, 5, 1)", day=day)
    books.run("INSERT INTO daily_message_count VALUES ('other', '2030-05-10', 1, 0, 1, 0, 1, 1)")
    return books


@pytest.fixture
def store(books: Books) -> SqlDailyStore:
    """The store, a second before midnight."""
    return SqlDailyStore(books.engine, clock=CLOCK)


def test_days_are_listed_newest_first(store: SqlDailyStore) -> None:
    """Both ends of the range are included and other workspaces are not."""
    days = store.daily("ws", date(2030, 4, 10), date(2030, 5, 9))
    assert [count.day for count in days] == [date(2030, 5, 9), date(2030, 4, 10)]
    assert days[0] == DailyCount("ws", date(2030, 5, 9), 3, 2, 10, 4, 5, 1)


def test_the_range_defaults_to_the_last_thirty_days(store: SqlDailyStore) -> None:
    """Without a range the days up to today by the database clock, and from 30 days before, are listed."""
    days = [count.day for count in store.daily("ws", None, None)]
    assert days == [date(2030, 5, 10), date(2030, 5, 9), date(2030, 4, 10)]
    assert [count.day for count in store.daily("ws", None, date(2030, 4, 9))] == [date(2030, 4, 9)]


def test_an_unused_workspace_has_no_days(store: SqlDailyStore) -> None:
    """A workspace without requests is not an error."""
    assert store.daily("free", None, None) == []


@pytest.mark.parametrize(
    ("workspace_id", "allowance", "remaining_messages"), [("ws", 10, 5), ("other", 0, 0), ("free", None, None)]
)
def test_what_is_left_today(
    store: SqlDailyStore, workspace_id: str, allowance: int | None, remaining_messages: int | None
) -> None:
    """What is counted and held is subtracted, never below 0; without a limit there is no remainder."""
    assert store.today(workspace_id) == Today(
        date(2030, 5, 10), allowance, remaining_messages, datetime(2030, 5, 11, tzinfo=UTC)
    )


def test_what_is_left_of_the_month(books: Books, store: SqlDailyStore) -> None:
    """The days of the UTC month so far are subtracted, those before it are not; never below 0."""

    def left(allowance: int | None) -> tuple[int | None, int | None]:
        books.run("UPDATE workspaces SET monthly_message_allowance = :allowance", allowance=allowance)
        today = store.today("ws")
        return today.monthly_allowance, today.monthly_remaining_messages

    assert [left(allowance) for allowance in (None, 0, 9, 12)] == [(None, None), (0, 0), (9, 0), (12, 2)]
    assert store.today("free").monthly_remaining_messages == 12


def test_what_happens_at_the_allowance_is_told(books: Books, store: SqlDailyStore) -> None:
    """A workspace that may use more than its allowance is known as one."""
    assert store.today("ws").allows_overage is False
    books.run("UPDATE workspaces SET at_allowance = 'allow'")
    assert store.today("ws").allows_overage is True


def test_an_unknown_workspace_is_refused(store: SqlDailyStore) -> None:
    """Nothing is read for a workspace that does not exist."""
    with pytest.raises(WorkspaceNotFound):
        store.today("nowhere")
    with pytest.raises(WorkspaceNotFound):
        store.daily("nowhere", None, None)
