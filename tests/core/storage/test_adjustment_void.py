"""Voided charges on a real database: nothing is charged, by whom and why is written down, and that is the end of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes.hand_made_ledger import DAY, HandMadeLedger
from sqlalchemy import Engine

from quillgate_core.adjustment import Adjustment
from quillgate_core.counting import Usage
from quillgate_core.errors import ReservationNotFound
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore

TRUTH = Usage(320_000, 0, 0)
DAY_CLOCK = f"timestamptz '{DAY} 12:01:00Z'"


class VoidSite:
    """A ledger written by hand, and the store that corrects it."""

    def __init__(self, engine: Engine) -> None:
        self.ledger = HandMadeLedger(engine)
        self.books = self.ledger.books
        self.store = SqlAdjustmentStore(engine, DAY_CLOCK)

    def void(self, request_id: str = "r", *, actor_key_id: str = "admin", note: str = "our fault") -> Adjustment:
        """Void a charge."""
        return self.store.void("ws", request_id, actor_key_id=actor_key_id, note=note)

    def adjust(self, request_id: str = "r", source: str = "openrouter") -> Adjustment:
        """Say what was used."""
        return self.store.adjust("ws", request_id, source=source, usage=TRUTH, cost_picodollars=3)

    def sums(self, table: str) -> dict[str, Any]:
        """The only daily row's sums that are not zero."""
        (row,) = self.books.read(f"SELECT * FROM {table}")
        left_out = ("workspace_id", "key_id", "day")
        return {name: value for name, value in row._asdict().items() if value and name not in left_out}


@pytest.fixture
def site(engine: Engine) -> Iterator[VoidSite]:
    """The site; its books are checked at the end."""
    site = VoidSite(engine)
    yield site
    site.books.check()


@pytest.mark.parametrize("byok", [False, True])
def test_a_void_makes_a_charge_nothing(site: VoidSite, byok: bool) -> None:
    """Messages, tokens and cost are 0 in the sums of the day and of the key; that there was a request stays."""
    site.ledger.add("r", key_id="key", byok=byok)
    assert site.void() == Adjustment(-4, -40_000, -10_000, -20_000, -7)
    assert site.sums("daily_message_count") == {"byok_request_count" if byok else "request_count": 1}
    assert site.sums("key_daily_message_count") == {"request_count": 1}
    assert site.books.row("r").counted_messages == 4


def test_a_void_says_who_and_why(site: VoidSite) -> None:
    """The admin's key and words are kept with it."""
    site.ledger.add("r")
    site.void()
    (row,) = site.books.read("SELECT source, actor_key_id, note, day FROM ledger_adjustments")
    assert tuple(row) == ("void", "admin", "our fault", DAY)


def test_a_recovered_hold_without_a_price_is_voided(site: VoidSite) -> None:
    """What a dead core held is given back, and its cost is then known: nothing."""
    site.ledger.add("r", state="recovered", usage_source="hold", cost_picodollars=None, prompt_tokens=0,
                    cached_tokens=0, completion_tokens=0, counted_messages=5)  # fmt: skip
    assert site.void() == Adjustment(-5, 0, 0, 0, 0)
    assert site.sums("daily_message_count") == {"request_count": 1}


def test_a_corrected_charge_is_voided_with_its_correction(site: VoidSite) -> None:
    """What is taken back is what is charged now, not what was charged first."""
    site.ledger.add("r", key_id="key")
    assert site.adjust().counted_messages == 16
    assert site.sums("key_daily_message_count")["message_count"] == 20
    assert site.void() == Adjustment(-20, -320_000, 0, 0, -3)
    assert site.sums("daily_message_count") == {"request_count": 1}


def test_voiding_twice_voids_once(site: VoidSite) -> None:
    """The first admin's words stand, however many say it at once."""
    site.ledger.add("r")
    first = site.void()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: site.void(actor_key_id=f"admin {number}", note="mine"), range(8)))
    assert set(answers) == {first}
    assert [row[0] for row in site.books.read("SELECT actor_key_id FROM ledger_adjustments")] == ["admin"]


@pytest.mark.parametrize("source", ["openrouter", "settle", "openrouter reconcile 2030-05-02"])
def test_a_void_is_final(site: VoidSite, source: str) -> None:
    """Whatever is learnt later changes nothing, and is not asked for."""
    site.ledger.add("r", usage_source="estimate", upstream_request_id="gen-1")
    assert [row.request_id for row in site.store.unsure(["openrouter"], 9)] == ["r"]
    site.void()
    assert site.adjust(source=source) == Adjustment(0, 0, 0, 0)
    assert site.sums("daily_message_count") == {"request_count": 1}
    assert site.store.unsure(["openrouter"], 9) == []


@pytest.mark.parametrize("state", ["open", "released", None])
def test_what_was_not_charged_cannot_be_voided(site: VoidSite, state: str | None) -> None:
    """A request that runs, that was free or that nobody knows is refused, and nothing is written."""
    if state is not None:
        site.ledger.add("r", state=state)
    with pytest.raises(ReservationNotFound):
        site.void()
    assert site.books.read("SELECT FROM ledger_adjustments") == []
