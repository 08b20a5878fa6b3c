"""Days of the ledger as wholes, on a real database: every sum is checked, and only what was exported is dropped."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import pytest
from fakes.hand_made_ledger import DAY, HandMadeLedger
from sqlalchemy import Engine, text

from quillgate_core.counting import Usage
from quillgate_core.errors import LedgerDayKept, Overloaded
from quillgate_core.ledger_entry import CheckedDay, LedgerDiscrepancy
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.ledger_day_store import MAX_DISCREPANCIES, SqlLedgerDayStore
from quillgate_core.storage.ledger_days import REMEMBER_DAYS

CLOCK = "timestamptz '2030-05-09 00:00:00Z'"
"""Eight days after DAY."""

WORKSPACE_COLUMNS = [
    "message_count",
    "held_messages",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "request_count",
    "byok_message_count",
    "byok_input_tokens",
    "byok_output_tokens",
    "byok_request_count",
    "cost_picodollars",
    "byok_cost_picodollars",
    "unpriced_request_count",
    "overage_message_count",
    "overrun_message_count",
]
KEY_COLUMNS = [*WORKSPACE_COLUMNS[:7], "open_requests"]


class DaySite:
    """A day with one row of every kind, corrected here and there, and the store of days."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ledger = HandMadeLedger(engine)
        self.books = self.ledger.books
        self.store = SqlLedgerDayStore(engine, CLOCK)
        self.adjustments = SqlAdjustmentStore(engine)

    def fill(self) -> None:
        """Write rows of every state and kind, ten with those of another workspace."""
        self.books.add_workspace("other")
        add = self.ledger.add
        add("over", key_id="key", counted_messages=9, overage_messages=3)
        add("unpriced", key_id="key", cost_picodollars=None)
        add("own", key_id="key", byok=True)
        add("hold", key_id="key", state="recovered", usage_source="hold", cost_picodollars=None, counted_messages=5)
        add("free", key_id="key", state="released")
        add("own free", key_id="key", state="released", byok=True)
        add("metered", endpoint="metering", upstream="", model="")
        add("own unpriced", byok=True, cost_picodollars=None)
        add("r", workspace_id="other", key_id="other key")
        add("void", workspace_id="other", key_id="other key", byok=True)

    def fill_open(self) -> None:
        """Write two rows that are not ended."""
        self.ledger.add("open", key_id="key", state="open")
        self.ledger.add("own open", key_id="key", state="open", byok=True)

    def correct(self) -> None:
        """Correct three charges and void one of them and another."""
        for request_id in ("unpriced", "hold", "own unpriced"):
            self.adjustments.adjust(
                "ws", request_id, source="openrouter", usage=Usage(32_001, 1, 5), cost_picodollars=11
            )
        self.adjustments.adjust("ws", "over", source="openrouter", usage=Usage(1, 0, 1), cost_picodollars=None)
        self.adjustments.void("ws", "unpriced", actor_key_id="admin", note="ours")
        self.adjustments.void("other", "void", actor_key_id="admin", note="ours")

    def check(self, workspace_id: str = "") -> CheckedDay:
        """Compare the day."""
        return self.store.check(DAY, workspace_id)


@pytest.fixture
def site(engine: Engine) -> Iterator[DaySite]:
    """The site; its books are checked at the end."""
    site = DaySite(engine)
    yield site
    site.books.check()


def test_sums_that_are_right_agree(site: DaySite) -> None:
    """Rows of every state and kind, corrected and voided, are what the daily rows say."""
    site.fill()
    site.fill_open()
    site.correct()
    assert site.check() == CheckedDay(DAY, 2, 12)
    assert site.check("ws") == CheckedDay(DAY, 1, 10)
    assert site.check("nobody") == CheckedDay(DAY, 0, 0)


@pytest.mark.parametrize("column", WORKSPACE_COLUMNS)
def test_every_column_of_a_workspace_is_compared(site: DaySite, column: str) -> None:
    """A sum that is one too many is told with what the rows say."""
    site.fill()
    site.correct()
    site.books.run(f"UPDATE daily_message_count SET {column} = {column} + 1 WHERE workspace_id = 'ws'")
    (found,) = site.check().discrepancies
    assert (found.workspace_id, found.key_id, found.column) == ("ws", "", column)
    assert found.daily_value == found.ledger_value + 1
    assert site.check("other").discrepancies == ()
    site.books.run(f"UPDATE daily_message_count SET {column} = {column} - 1 WHERE workspace_id = 'ws'")


@pytest.mark.parametrize("column", KEY_COLUMNS)
def test_every_column_of_a_key_is_compared(site: DaySite, column: str) -> None:
    """The same for a key's sums, under its workspace."""
    site.fill()
    site.correct()
    site.books.run(f"UPDATE key_daily_message_count SET {column} = {column} + 1 WHERE key_id = 'key'")
    (found,) = site.check().discrepancies
    assert (found.workspace_id, found.key_id, found.column) == ("ws", "key", column)
    assert found.daily_value == found.ledger_value + 1
    site.books.run(f"UPDATE key_daily_message_count SET {column} = {column} - 1 WHERE key_id = 'key'")


@pytest.mark.parametrize("table", ["daily_message_count", "key_daily_message_count"])
def test_a_daily_row_that_is_missing_is_told(site: DaySite, table: str) -> None:
    """Rows without their day's sums, and sums without rows, are no agreement."""
    site.ledger.add("r", key_id="key", upstream="")
    site.books.run(f"CREATE TABLE kept AS SELECT * FROM {table}")
    site.books.run(f"DELETE FROM {table}")
    columns = {found.column for found in site.check().discrepancies}
    assert {"message_count", "input_tokens", "request_count"} <= columns
    site.books.run(f"INSERT INTO {table} SELECT * FROM kept")
    site.books.run("DELETE FROM ledger")
    assert {found.ledger_value for found in site.check().discrepancies} == {0}
    site.books.run(f"DELETE FROM {table}")
    site.books.run("DELETE FROM daily_message_count")
    site.books.run("DELETE FROM key_daily_message_count")


def test_a_row_that_is_lost_is_told(site: DaySite) -> None:
    """What was counted and is in no row shows in every column that it was in."""
    site.fill()
    site.books.run("DELETE FROM ledger WHERE request_id = 'metered'")
    assert site.check().discrepancies[-1] == LedgerDiscrepancy("ws", "", "request_count", 4, 3)
    site.ledger.books.run("UPDATE daily_message_count SET message_count = message_count - 4,"
                          " input_tokens = input_tokens - 40000, cached_tokens = cached_tokens - 10000,"
                          " output_tokens = output_tokens - 20000, cost_picodollars = cost_picodollars - 7,"
                          " request_count = request_count - 1 WHERE workspace_id = 'ws'")  # fmt: skip


def test_discrepancies_are_bounded(site: DaySite) -> None:
    """However much is wrong, a day tells of a thousand sums at most."""
    site.ledger.add_day(DAY)
    site.books.run(
        "INSERT INTO key_daily_message_count (key_id, day, workspace_id, message_count)"
        " SELECT 'key ' || n, :day, 'ws', 1 FROM generate_series(1, :count) n",
        day=DAY,
        count=MAX_DISCREPANCIES + 1,
    )
    assert len(site.check().discrepancies) == MAX_DISCREPANCIES
    site.books.run("DELETE FROM key_daily_message_count")


def test_a_day_without_rows_is_nothing(site: DaySite) -> None:
    """A day of no requests has nothing to compare."""
    site.ledger.add_day(DAY)
    assert site.check() == CheckedDay(DAY, 0, 0)


def test_days_are_listed_oldest_first(site: DaySite) -> None:
    """Each day that has a part of the ledger is there, with its size."""
    for day in (DAY, DAY - timedelta(days=1)):
        site.ledger.add("r", day=day)
    site.books.run("ANALYZE ledger")
    days = [day for day in site.store.days() if day.day <= DAY]
    assert [(day.day, day.estimated_row_count) for day in days] == [(DAY - timedelta(days=1), 1), (DAY, 1)]
    assert all(day.size_bytes > 0 for day in days)
    assert site.store.today() == date(2030, 5, 9)


def _breakdown(site: DaySite) -> list[Any]:
    return [
        tuple(row)
        for row in site.books.read(
            "SELECT workspace_id, key_id, endpoint, upstream, message_count, byok_message_count, input_tokens,"
            " cached_tokens, output_tokens, request_count, cost_picodollars::int, unpriced_request_count"
            " FROM daily_usage WHERE day = :day ORDER BY 1, 2, 3",
            day=DAY,
        )
    ]


def test_a_dropped_day_leaves_its_sums_and_its_breakdown(site: DaySite) -> None:
    """Rows and adjustments are gone, daily rows stay, and each group of requests has what it was charged in the end."""
    site.fill()
    site.correct()
    before = site.books.read("SELECT * FROM daily_message_count ORDER BY 1")
    assert site.store.drop(DAY, 10) == 10
    assert DAY not in {day.day for day in site.store.days()}
    assert site.books.read("SELECT FROM ledger") == site.books.read("SELECT FROM ledger_adjustments") == []
    assert site.books.read("SELECT * FROM daily_message_count ORDER BY 1") == before
    tokens = (40_000, 10_000, 20_000)
    assert _breakdown(site) == [
        ("other", "other key", "chat.completions", "openrouter", 4, 0, *tokens, 2, 7, 0),
        ("ws", "", "chat.completions", "openrouter", 0, 3, 32_001, 1, 5, 1, 11, 0),
        ("ws", "", "metering", "", 4, 0, *tokens, 1, 7, 0),
        ("ws", "key", "chat.completions", "openrouter", 4, 4, 72_002, 10_001, 20_006, 4, 25, 0),
    ]


def test_dropping_twice_drops_once(site: DaySite) -> None:
    """A day that is gone, or never was, is no error, and its breakdown is not written again."""
    site.ledger.add("r")
    assert site.store.drop(DAY, 1) == 1
    assert site.store.drop(DAY, 1) == 0
    assert site.store.drop(DAY, 7) == 0
    assert len(_breakdown(site)) == 1


@pytest.mark.parametrize(
    ("day", "row_count", "cause"),
    [
        (DAY + timedelta(days=8 - REMEMBER_DAYS), 1, "recent"),
        (DAY + timedelta(days=8), 1, "recent"),
        (DAY, 0, "row_count"),
        (DAY, 2, "row_count"),
    ],
)
def test_a_day_is_kept(site: DaySite, day: date, row_count: int, cause: str) -> None:
    """Request ids are remembered for seven days, and another number of rows was not what was exported."""
    site.ledger.add("r", day=day)
    with pytest.raises(LedgerDayKept) as caught:
        site.store.drop(day, row_count)
    assert caught.value.metadata == {"day": day.isoformat(), "cause": cause}
    assert len(site.books.read("SELECT FROM ledger")) == 1
    assert site.books.read("SELECT FROM daily_usage") == []


def test_a_day_with_open_rows_is_kept(site: DaySite) -> None:
    """What may still be charged is not dropped."""
    site.fill_open()
    with pytest.raises(LedgerDayKept) as caught:
        site.store.drop(DAY, 2)
    assert caught.value.metadata == {"day": DAY.isoformat(), "cause": "open_rows"}


def test_a_charge_is_not_corrected_while_its_day_is_dropped(site: DaySite) -> None:
    """Whoever corrects holds the day's sums, and the drop waits for it: the correction is in the breakdown."""
    site.ledger.add("r")
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool, site.engine.begin() as holder:
        holder.execute(text("UPDATE daily_message_count SET message_count = 5"))
        drop = pool.submit(site.store.drop, DAY, 1)
        while not drop.done() and not site.books.read(waiting):
            pass
        assert not drop.done()
        holder.execute(
            text(
                "INSERT INTO ledger_adjustments (workspace_id, request_id, source, day, counted_messages,"
                " prompt_tokens, cached_tokens, completion_tokens) VALUES ('ws', 'r', 'openrouter', :day, 1, 0, 0, 0)"
            ),
            {"day": DAY},
        )
        holder.commit()
        assert drop.result() == 1
    assert [row[4] for row in _breakdown(site)] == [5]


def test_a_database_that_is_away_is_told_as_overloaded() -> None:
    """All methods say that trying again may help."""
    engine = make_engine("postgresql://nobody@127.0.0.1:9/nothing")
    store = SqlLedgerDayStore(engine)
    for call in (store.today, store.days, lambda: store.check(DAY, ""), lambda: store.drop(DAY, 1)):
        with pytest.raises(Overloaded):
            call()
    engine.dispose()
