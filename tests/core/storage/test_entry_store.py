"""Single requests of the ledger on a real database: found in any day, by workspace, with what was learnt later."""

from datetime import UTC, datetime, timedelta

import pytest
from fakes.hand_made_ledger import DAY, HandMadeLedger
from sqlalchemy import Engine, text

from quillgate_core.adjustment import Adjustment
from quillgate_core.counting import Count, Usage
from quillgate_core.errors import Overloaded
from quillgate_core.ledger_entry import LedgerEntry
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.entry_store import ENTRY_ANYWHERE, SqlEntryStore


@pytest.fixture
def ledger(engine: Engine) -> HandMadeLedger:
    """A ledger to write rows into."""
    return HandMadeLedger(engine)


@pytest.fixture
def store(engine: Engine) -> SqlEntryStore:
    """The store on that ledger."""
    return SqlEntryStore(engine)


def test_a_request_is_read_as_it_is_recorded(ledger: HandMadeLedger, store: SqlEntryStore) -> None:
    """Every column has its place."""
    ledger.add("r", key_id="key", overage_messages=1, upstream_request_id="gen-1")
    moment = datetime(2030, 5, 1, 12, tzinfo=UTC)
    assert store.entry("r", "ws") == LedgerEntry(
        workspace_id="ws",
        request_id="r",
        day=DAY,
        state="settled",
        key_id="key",
        endpoint="chat.completions",
        model="some/model",
        upstream="openrouter",
        upstream_request_id="gen-1",
        held_messages=5,
        charge=Adjustment(4, 40_000, 10_000, 20_000, 7),
        usage_source="provider",
        usage_clamped=False,
        byok=False,
        overage_messages=1,
        outcome="complete",
        reserve_time=moment,
        settle_time=moment + timedelta(seconds=2),
    )


def test_adjustments_come_oldest_first(ledger: HandMadeLedger, store: SqlEntryStore) -> None:
    """What is charged is the row and all of them; who voided it and why is there."""
    ledger.add("r")
    adjustments = SqlAdjustmentStore(ledger.books.engine)
    adjustments.adjust("ws", "r", source="openrouter", usage=Usage(10, 0, 5), cost_picodollars=None)
    entry = store.entry("r", "ws")
    assert entry is not None
    assert (entry.charged(), entry.count()) == (Adjustment(1, 10, 0, 5, 7), Count(0, 10, 1))
    adjustments.void("ws", "r", actor_key_id="admin", note="our fault")
    entry = store.entry("r", "ws")
    assert entry is not None
    assert [adjustment.source for adjustment in entry.adjustments] == ["openrouter", "void"]
    assert (entry.adjustments[1].actor_key_id, entry.adjustments[1].note) == ("admin", "our fault")
    assert entry.is_void
    assert (entry.charged(), entry.count()) == (Adjustment(0, 0, 0, 0, 0), None)


@pytest.mark.parametrize(
    ("members", "explained"),
    [
        ({}, True),
        ({"state": "open"}, False),
        ({"state": "released"}, False),
        ({"counted_messages": 6}, False),
        ({"state": "recovered", "usage_source": "hold", "counted_messages": 1, "prompt_tokens": 0,
          "cached_tokens": 0, "completion_tokens": 0}, False),
    ],
)  # fmt: skip
def test_only_a_charge_by_usage_is_explained_by_it(
    ledger: HandMadeLedger, store: SqlEntryStore, members: dict[str, object], explained: bool
) -> None:
    """A hold, a length of sound, and a request without charge have no formula."""
    ledger.add("r", **members)
    entry = store.entry("r", "ws")
    assert entry is not None
    assert (entry.count() is not None) == explained


def test_an_id_is_found_in_its_workspace_only(ledger: HandMadeLedger, store: SqlEntryStore) -> None:
    """Another workspace's request is unknown, unless every workspace is looked through."""
    ledger.books.add_workspace("other")
    ledger.add("r", workspace_id="other")
    assert store.entry("r", "ws") is None
    assert store.entry_anywhere("unknown") is None
    found = store.entry_anywhere("r")
    assert found is not None
    assert found.workspace_id == "other"


def test_an_id_that_was_used_again_means_the_newest(ledger: HandMadeLedger, store: SqlEntryStore) -> None:
    """Ids are remembered for a week, so an old day may have one that a new day has too."""
    ledger.books.add_workspace("other")
    ledger.add("r", day=DAY - timedelta(days=9))
    ledger.add("r", day=DAY - timedelta(days=1), workspace_id="other")
    ledger.add("r")
    for found in (store.entry("r", "ws"), store.entry_anywhere("r")):
        assert found is not None
        assert (found.day, found.workspace_id) == (DAY, "ws")


def test_a_look_through_all_workspaces_uses_the_primary_key(ledger: HandMadeLedger, store: SqlEntryStore) -> None:
    """No day is read from end to end, however many rows it has."""
    ledger.add_day(DAY)
    ledger.books.run(
        "INSERT INTO ledger (workspace_id, request_id, day, state, nonce, endpoint, model, held_messages, reserve_time)"
        " SELECT 'ws', 'r' || n, :day, 'open', 1, 'e', 'm', 1, clock_timestamp() FROM generate_series(1, 20000) n",
        day=DAY,
    )
    ledger.books.run("ANALYZE ledger")
    with ledger.books.engine.connect() as connection:
        plan = "\n".join(connection.execute(text(f"EXPLAIN {ENTRY_ANYWHERE.text}"), {"request_id": "r7"}).scalars())
    assert "Index Cond: ((workspace_id = w.workspace_id) AND (request_id = 'r7'::text))" in plan
    assert "Seq Scan on ledger" not in plan


def test_what_a_provider_was_asked_is_paged(ledger: HandMadeLedger, store: SqlEntryStore) -> None:
    """Charged requests with the provider's id come by workspace and id, page by page, but not those voided."""
    ledger.books.add_workspace("other")
    for number in range(5):
        ledger.add(f"r{number}", upstream_request_id=f"gen-{number}")
    ledger.add("r", workspace_id="other", upstream_request_id="gen-o", state="recovered")
    ledger.add("no id")
    ledger.add("elsewhere", upstream="openai", upstream_request_id="x")
    ledger.add("open", state="open", upstream_request_id="gen-open")
    ledger.add("r9", day=DAY - timedelta(days=1), upstream_request_id="gen-9")
    SqlAdjustmentStore(ledger.books.engine).void("ws", "r2", actor_key_id="admin", note="no")
    found, after = [], ("", "")
    while page := store.asked_of("openrouter", DAY, after, 2):
        found.append([entry.request_id for entry in page])
        after = (page[-1].workspace_id, page[-1].request_id)
    assert found == [["r", "r0"], ["r1", "r3"], ["r4"]]


def test_a_database_that_is_away_is_told_as_overloaded() -> None:
    """All methods say that trying again may help."""
    engine = make_engine("postgresql://nobody@127.0.0.1:9/nothing")
    store = SqlEntryStore(engine)
    for call in (
        lambda: store.entry("r", "ws"),
        lambda: store.entry_anywhere("r"),
        lambda: store.asked_of("openrouter", DAY, ("", ""), 1),
    ):
        with pytest.raises(Overloaded):
            call()
    engine.dispose()
