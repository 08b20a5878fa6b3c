"""Reading a key's days: today, the month, what runs, and the last minute, also around midnight."""

from datetime import UTC, datetime

import pytest
from fakes.books import Books
from sqlalchemy import Engine

from quillgate_core.key import NO_LIMITS, Key, KeyLimits
from quillgate_core.key_usage import KeyCount, KeyFigures
from quillgate_core.limits import LimitState
from quillgate_core.storage.key_usage_store import SqlKeyUsageStore

CLOCK = "timestamptz '2030-05-10 00:00:30Z'"
NOW = datetime(2030, 5, 10, 0, 0, 30, tzinfo=UTC)
S = int(NOW.timestamp())
MS = S * 1000


@pytest.fixture
def books(engine: Engine) -> Books:
    """One workspace."""
    books = Books(engine)
    books.add_workspace("ws")
    return books


def _add(books: Books, day: str, *, key_id: str = "key", opened: int = 0, window: list[int] | None = None) -> None:
    """Write a day of a key: 3 messages, 2 held, 10 + 5 tokens of which 4 cached, 1 request, 7 with an own key."""
    books.run(
        "INSERT INTO key_daily_message_count (key_id, day, workspace_id, message_count, held_messages, input_tokens, "
        "cached_tokens, output_tokens, request_count, byok_message_count, open_requests, request_window) "
        "VALUES (:key_id, CAST(:day AS date), 'ws', 3, 2, 10, 4, 5, 1, 7, :opened, CAST(:window AS bigint[]))",
        key_id=key_id,
        day=day,
        opened=opened,
        window=window,
    )


def _read(books: Books, clock: str = CLOCK, *, limits: KeyLimits = NO_LIMITS) -> KeyFigures:
    key = Key("key", "ws", "n", "NNNN", (), (), 1, NOW, None, None, None, limits)
    return SqlKeyUsageStore(books.engine, clock=clock).read(key)  # type: ignore[arg-type]


def _running(books: Books, clock: str = CLOCK) -> int:
    """How many requests run, as a limit of 100 sees it."""
    (rate,) = _read(books, clock, limits=KeyLimits(concurrent_requests=100)).rates
    assert (rate.limit, rate.value, rate.reset_time) == ("key_concurrent_requests", 100, None)
    return 100 - rate.remaining


def test_an_unused_key_has_zeros(books: Books) -> None:
    """No row is no usage, and the database's time comes all the same."""
    _add(books, "2030-05-10", key_id="other", opened=1, window=[1, 1, 1])
    assert _read(books) == KeyFigures(NOW, KeyCount(), KeyCount())


def test_today_and_the_month_are_summed(books: Books) -> None:
    """The days of the UTC month up to today are summed, those before and after it are not."""
    for day in ("2029-05-10", "2030-04-30", "2030-05-01", "2030-05-10", "2030-05-11"):
        _add(books, day)
    found = _read(books)
    assert found.today == KeyCount(3, 2, 10, 4, 5, 1, 7)
    assert found.month == KeyCount(6, 4, 20, 8, 10, 2, 14)


def test_what_runs_is_counted_across_midnight(books: Books) -> None:
    """A request of yesterday, even of last month, runs as one of today does."""
    _add(books, "2030-05-09", opened=2)
    _add(books, "2030-05-10", opened=1)
    assert _running(books) == 3
    _add(books, "2030-04-30", opened=5)
    _add(books, "2030-05-01", opened=1)
    first = "timestamptz '2030-05-01 00:00:30Z'"
    assert (_running(books, first), _read(books, first).month.message_count) == (6, 3)


def test_the_newest_window_counts(books: Books) -> None:
    """The last minute is in today's row, or in yesterday's until today has one; an older one is long over."""

    def used() -> tuple[int, int]:
        rates = _read(books, limits=KeyLimits(requests_per_minute=100, tokens_per_minute=100)).rates
        return 100 - rates[0].remaining, 100 - rates[1].remaining

    _add(books, "2030-05-08", window=[MS, 1, 1])
    assert used() == (0, 0)
    _add(books, "2030-05-09", window=[MS - 31_000, 2, 20])
    assert used() == (2, 20)
    _add(books, "2030-05-10")
    assert used() == (2, 20)
    window = [MS - 31_000, 2, 20, MS, 1, 7]
    books.run("UPDATE key_daily_message_count SET request_window = :window WHERE day = '2030-05-10'", window=window)
    assert used() == (3, 27)


def test_an_entry_counts_for_a_minute_after_it(books: Books) -> None:
    """It counts until sixty seconds have passed after it, and a limit is whole when its last use does not."""
    _add(books, "2030-05-10", window=[MS - 60_000, 9, 90, MS - 59_000, 1, 30, MS - 10_000, 2, 0])
    assert _read(books, limits=KeyLimits(requests_per_minute=10, tokens_per_minute=100)).rates == (
        LimitState("key_requests_per_minute", 10, 7, datetime.fromtimestamp(S - 10 + 60, UTC)),
        LimitState("key_tokens_per_minute", 100, 70, datetime.fromtimestamp(S - 59 + 60, UTC)),
    )


def test_an_idle_minute_is_whole_now(books: Books) -> None:
    """A limit of which nothing is used need not be waited for."""
    _add(books, "2030-05-10", window=[MS - 61_000, 9, 90])
    found = _read(books, limits=KeyLimits(requests_per_minute=10))
    assert found.rates == (LimitState("key_requests_per_minute", 10, 10, NOW),)
