"""Pages of the ledger: each row once, in an order that holds, whatever is added, dropped or corrected meanwhile."""

from datetime import UTC, date, datetime, timedelta

import pytest
from fakes.ledger_days import LedgerDays
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.export_store import SqlExportStore
from quillgate_core.usage_views import ExportAdjustment, ExportPage, ExportPlace, ExportRow

MONDAY, TUESDAY = date(2026, 11, 23), date(2026, 11, 24)
START = ExportPlace(date.min)


@pytest.fixture
def days(engine: Engine) -> LedgerDays:
    """Two workspaces and partitions for two days."""
    days = LedgerDays(engine)
    days.add_workspace("ws")
    days.add_workspace("other")
    days.add_day(MONDAY)
    days.add_day(TUESDAY)
    return days


def pages(
    days: LedgerDays,
    after: ExportPlace = START,
    *,
    workspace_id: str | None = None,
    end_day: date = date.max,
    limit: int = 3,
) -> list[ExportPage]:
    """All pages behind a place."""
    store, found, place = SqlExportStore(days.engine), [], after
    while (page := store.page(place, workspace_id=workspace_id, end_day=end_day, limit=limit)) is not None:
        assert 1 <= len(page.rows) <= limit
        assert len(found) < 100, "an export that goes in circles"
        found.append(page)
        place = page.place(page.rows[-1])
    return found


def ids(found: list[ExportPage]) -> list[str]:
    """The request ids of the pages' rows."""
    return [row[1] for page in found for row in page.rows]


def test_every_row_comes_once_by_day_and_time(days: LedgerDays) -> None:
    """Days follow each other, and within one day the times of reservation, whatever the ids are."""
    later = days.add_rows(TUESDAY, 4)
    earlier = [*days.add_rows(MONDAY, 5), *days.add_rows(MONDAY, 2, workspace_id="other")]
    assert ids(pages(days)) == [*earlier, *later]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_rows_of_the_same_moment_come_once(days: LedgerDays, limit: int) -> None:
    """Where times are equal, workspaces and request ids say which row is next."""
    made = [*days.add_rows(MONDAY, 4), *days.add_rows(MONDAY, 3, workspace_id="other")]
    days.run("UPDATE ledger SET reserve_time = '2026-11-23 12:00:00.000001Z'")
    found = pages(days, limit=limit)
    assert sorted(ids(found)) == sorted(made)
    places = [(row[0], row[1]) for page in found for row in page.rows]
    assert places == sorted(places)


def test_a_workspace_s_rows_only(days: LedgerDays) -> None:
    """One workspace's export has no row of another."""
    mine = days.add_rows(MONDAY, 4)
    days.add_rows(MONDAY, 4, workspace_id="other")
    assert ids(pages(days, workspace_id="ws")) == mine


def test_the_range_has_both_ends(days: LedgerDays) -> None:
    """From the first day's first row to the last day's last one."""
    monday, tuesday = days.add_rows(MONDAY, 4), days.add_rows(TUESDAY, 4)
    assert ids(pages(days, ExportPlace(MONDAY), end_day=MONDAY)) == monday
    assert ids(pages(days, ExportPlace(TUESDAY))) == tuesday
    assert pages(days, ExportPlace(TUESDAY + timedelta(1))) == []


def test_from_any_place_exactly_the_rest_follows(days: LedgerDays) -> None:
    """Whichever row an export was cut off behind, and whatever came since, the old rows go on where they stopped."""
    made = [*days.add_rows(MONDAY, 5), *days.add_rows(TUESDAY, 4)]
    places = [page.place(row) for page in pages(days) for row in page.rows]
    new = days.add_rows(TUESDAY, 2)
    for position, place in enumerate(places, start=1):
        assert ids(pages(days, place)) == [*made[position:], *new]


def test_a_day_that_is_dropped_meanwhile(days: LedgerDays) -> None:
    """An export whose day goes away goes on with the next one."""
    first, _ = days.add_rows(MONDAY, 2)
    tuesday = days.add_rows(TUESDAY, 2)
    (page, *_) = pages(days, limit=1)
    assert ids([page]) == [first]
    days.run("DROP TABLE ledger_20261123")
    assert ids(pages(days, page.place(page.rows[0]))) == tuesday


def test_a_row_has_every_column(days: LedgerDays) -> None:
    """Rows are as they are stored, times in microseconds since 1970; nothing that is absent is None but a cost."""
    (request_id,) = days.add_rows(MONDAY, key_id=None, cost=None)
    days.run(
        "UPDATE ledger SET reserve_time = '2026-11-23 12:34:56.123457Z', settle_time = NULL, usage_clamped = true,"
        " byok = true, upstream_request_id = 'gen-1', overage_messages = 1, outcome = '', state = 'open'"
    )
    ((row,),) = [page.rows for page in pages(days)]
    reserve_time_us = 1_795_437_296_123_457
    assert ExportRow(*row) == ExportRow(
        "ws", request_id, "open", "", "chat.completions", "a/model", "openrouter", "gen-1", 2, 1, 10, 4, 5, "provider",
        True, True, None, 1, "", reserve_time_us, 0,
    )  # fmt: skip
    place = ExportPlace(MONDAY, reserve_time_us, "ws", request_id)
    assert place.reserve_time == datetime(2026, 11, 23, 12, 34, 56, 123_457, tzinfo=UTC)


def test_adjustments_come_with_their_rows(days: LedgerDays) -> None:
    """A row has its own adjustments, oldest first, and no other has any."""
    made = days.add_rows(MONDAY, 4)
    days.add_rows(MONDAY, workspace_id="other")
    days.sum_up(MONDAY)
    store = SqlAdjustmentStore(days.engine)
    for source, prompt_tokens in (("settle", 30), ("openrouter", 20_000)):
        store.adjust("ws", made[2], source=source, usage=Usage(prompt_tokens, 4, 5), cost_picodollars=None)
    found = {key: value for page in pages(days) for key, value in page.adjustments.items()}
    assert list(found) == [("ws", made[2])]
    assert [(each.source, each.counted_messages, each.prompt_tokens) for each in found["ws", made[2]]] == [
        ("settle", 0, 20),
        ("openrouter", 1, 19_970),
    ]
    assert isinstance(found["ws", made[2]][0], ExportAdjustment)


def test_no_transaction_outlives_its_page(days: LedgerDays) -> None:
    """Between two pages nothing is open, so that a reader may take as long as it likes."""
    days.add_rows(MONDAY, 2)
    store = SqlExportStore(days.engine)
    store.page(START, workspace_id=None, end_day=date.max, limit=1)
    assert days.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_pages_are_read_by_time_not_row_by_row(days: LedgerDays) -> None:
    """The plan follows the index on the time of reservation, which lies as the rows do."""
    days.add_rows(MONDAY, 5_000)
    days.run("ANALYZE ledger")
    query = (
        "EXPLAIN SELECT * FROM ledger WHERE day = '2026-11-23' AND reserve_time >= '2026-11-23' "
        "AND (reserve_time, workspace_id, request_id) > ('2026-11-23', '', '') "
        "ORDER BY reserve_time, workspace_id, request_id LIMIT 100"
    )
    assert "ledger_20261123_reserve_time_idx" in "\n".join(row[0] for row in days.read(query))
