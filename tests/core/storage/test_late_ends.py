"""Ends that come after their row was recovered: the owner knows better than the hold, and the charge becomes true."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from fakes.books import Books
from msgspec.structs import replace
from sqlalchemy import Engine

from quillgate_core.counting import MAX_TOKENS, Usage
from quillgate_core.errors import ReservationNotFound
from quillgate_core.reservation import Receipt, Release, Reserve, Settle
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger

SETTLE = Settle(
    workspace_id="ws",
    request_id="r",
    owner="late",
    usage=Usage(40_000, 10_000, 20_000),  # 35,000 and 20,000: 4 messages
    usage_source="provider",
    cost_picodollars=9,
)
RELEASE = Release(workspace_id="ws", request_id="r", owner="late")
USAGE_OF_DAY = {"input_tokens": 40_000, "cached_tokens": 10_000, "output_tokens": 20_000}


class LateSite:
    """A workspace with 20 messages a day, and rows whose owner has no lease."""

    def __init__(self, books: Books, connection: psycopg.Connection) -> None:
        self.books = books
        self.connection = connection
        books.add_workspace(allowance=20)
        self.leases = SqlLeaseStore(books.engine)
        self.store = SqlAdjustmentStore(books.engine)

    def recovered(self, request_id: str = "r", *, byok: bool = False, key_id: str | None = None) -> None:
        """Charge the hold of a request, 6 messages."""
        step = Reserve(
            workspace_id="ws", request_id=request_id, hold_messages=6, owner="late", byok=byok, key_id=key_id
        )
        Ledger().apply(self.connection, [step])
        assert self.leases.recover(10) == 1

    def day(self) -> dict[str, Any]:
        """The day's sums that are not zero."""
        row = self.books.day()._asdict()
        return {name: value for name, value in row.items() if value and name not in ("workspace_id", "day")}


@pytest.fixture
def site(engine: Engine, database_url: str) -> Iterator[LateSite]:
    """The site; its books are checked at the end."""
    with connect_ledger(database_url) as connection:
        site = LateSite(Books(engine), connection)
        yield site
        site.books.check()


def test_a_late_settle_makes_the_charge_true(site: LateSite) -> None:
    """The hold becomes the usage, the receipt says so, and the recovered row itself stays as it is."""
    site.recovered()
    before = site.books.row("r")
    receipt = site.store.correct(SETTLE)
    assert receipt == Receipt("ws", "r", before.day, 4, SETTLE.usage, "provider", 16, cost_picodollars=9)
    assert receipt.allowance_messages == 20
    assert site.books.row("r") == before
    assert site.day() == {"message_count": 4, "request_count": 1, "cost_picodollars": 9, **USAGE_OF_DAY}


def test_a_late_settle_may_cost_more_than_the_hold(site: LateSite) -> None:
    """What was used beyond the hold is counted too, and nothing is left then."""
    site.recovered()
    receipt = site.store.correct(replace(SETTLE, usage=Usage(480_000, 0, 0), cost_picodollars=None))
    assert (receipt.counted_messages, receipt.remaining_messages, receipt.cost_picodollars) == (30, 0, None)


def test_a_late_settle_is_clamped(site: LateSite) -> None:
    """A usage that is not sane is charged as far as it makes sense."""
    site.recovered()
    assert site.store.correct(replace(SETTLE, usage=Usage(10**12, 10**13, -5))).usage == Usage(
        MAX_TOKENS, MAX_TOKENS, 0
    )


def test_a_late_release_makes_the_charge_nothing(site: LateSite) -> None:
    """Where the provider never gave anything nothing is charged, less than any usage counts, and nothing was paid."""
    site.recovered()
    receipt = site.store.correct(RELEASE)
    assert receipt == Receipt("ws", "r", receipt.day, 0, Usage(), "", 20, cost_picodollars=0)
    assert site.day() == {"request_count": 1}


@pytest.mark.parametrize("first", [SETTLE, RELEASE])
def test_the_first_late_end_stands(site: LateSite, first: Settle | Release) -> None:
    """A repetition, or another end, adds nothing and hears what is charged."""
    site.recovered()
    receipt = site.store.correct(first)
    day = site.day()
    assert site.store.correct(first) == receipt
    other = replace(SETTLE, usage=Usage(1, 0, 1))
    assert site.store.correct(other).counted_messages == receipt.counted_messages
    assert site.store.correct(RELEASE).counted_messages == receipt.counted_messages
    assert site.day() == day


def test_a_correction_by_somebody_else_stands(site: LateSite) -> None:
    """What a provider has told meanwhile is not overruled by a late estimate."""
    site.recovered()
    site.store.adjust("ws", "r", source="openrouter", usage=SETTLE.usage, cost_picodollars=9)
    receipt = site.store.correct(replace(SETTLE, usage=Usage(1, 0, 1), usage_source="estimate"))
    assert (receipt.counted_messages, receipt.usage) == (4, SETTLE.usage)
    assert len(site.books.read("SELECT FROM ledger_adjustments")) == 1


def test_a_provider_may_correct_a_late_estimate(site: LateSite) -> None:
    """An owner's late word is one source among others: a provider that tells the truth later is heard."""
    site.recovered()
    site.store.correct(replace(SETTLE, usage=Usage(1, 0, 1), usage_source="estimate"))
    site.store.adjust("ws", "r", source="openrouter", usage=SETTLE.usage, cost_picodollars=9)
    assert site.day()["message_count"] == 4


def test_what_an_own_key_served_stays_apart(site: LateSite) -> None:
    """A row of the workspace's own key is corrected in its own columns."""
    site.recovered(byok=True)
    receipt = site.store.correct(replace(SETTLE, byok=True))
    assert (receipt.byok, receipt.counted_messages, receipt.remaining_messages) == (True, 4, 20)
    assert site.day()["byok_message_count"] == 4


def test_what_an_own_key_served_is_not_drawn_from_the_allowance(site: LateSite) -> None:
    """Where the allowance was held for a request that an own key served in the end, it is given back whole."""
    site.recovered()
    receipt = site.store.correct(replace(SETTLE, byok=True))
    assert (receipt.byok, receipt.counted_messages, receipt.remaining_messages) == (True, 0, 20)


@pytest.mark.parametrize("byok", [False, True])
def test_the_key_gets_back_what_it_did_not_use(site: LateSite, byok: bool) -> None:
    """The sums of the key's day, which its limits are checked on, are corrected with those of the workspace."""
    site.books.add_key("key")
    site.recovered(byok=byok, key_id="key")
    site.store.correct(replace(SETTLE, byok=byok))
    columns = "message_count, byok_message_count, held_messages, input_tokens, cached_tokens, output_tokens"
    (day,) = site.books.read(f"SELECT {columns} FROM key_daily_message_count WHERE key_id = 'key'")
    assert tuple(day) == (0 if byok else 4, 4 if byok else 0, 0, 40_000, 10_000, 20_000)


def test_other_rows_cannot_be_corrected(site: LateSite) -> None:
    """Open and unknown ones are refused."""
    Ledger().apply(site.connection, [Reserve(workspace_id="ws", request_id="open", hold_messages=1, owner="late")])
    for request_id in ("open", "unknown"):
        with pytest.raises(ReservationNotFound):
            site.store.correct(replace(SETTLE, request_id=request_id))


def test_late_ends_at_once_are_heard_once(site: LateSite) -> None:
    """Two cores that land the same journal at the same moment correct the charge once."""
    site.recovered()
    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(site.store.correct, [SETTLE] * 8))
    assert {receipt.counted_messages for receipt in receipts} == {4}
    assert len(site.books.read("SELECT FROM ledger_adjustments")) == 1
